"""Several tasks as one: batches are drawn by weight, metrics reported by task.

An example has the columns of its task and `task`, the task's name. It is asked
and graded by its own task. A reward can be used if all tasks have one of that
name.
"""

import bisect
import dataclasses
import itertools
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import overload

from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import files


@dataclasses.dataclass(frozen=True)
class MixedExamples(Sequence[task_lib.Example]):
  """The examples of several tasks, one task after the other.

  Attributes:
    sources: each task's examples, by its name.
    weights: each task's share of a batch; any sum.
  """

  sources: Mapping[str, task_lib.Examples]
  weights: tuple[float, ...]

  @property
  def parts(self) -> list[range]:
    """The positions of each task's examples."""
    ends = list(itertools.accumulate(map(len, self.sources.values())))
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]

  def __len__(self) -> int:
    return sum(map(len, self.sources.values()))

  @overload
  def __getitem__(self, position: int) -> task_lib.Example: ...
  @overload
  def __getitem__(self, position: slice) -> list[task_lib.Example]: ...
  def __getitem__(
    self, position: int | slice
  ) -> task_lib.Example | list[task_lib.Example]:
    if isinstance(position, slice):
      return [self[i] for i in range(len(self))[position]]
    name, place = self.place(operator.index(position))
    return {**self.sources[name][place], "task": name}

  def place(self, position: int) -> tuple[str, int]:
    """An example's task, and its position among the examples of that task."""
    position = range(len(self))[position]
    parts = self.parts
    which = bisect.bisect_right([part.start for part in parts], position) - 1
    return list(self.sources)[which], position - parts[which].start


def where(source: task_lib.Examples, position: int) -> str:
  """`FILE:LINE` of an example of users' files; "" for other examples."""
  if isinstance(source, MixedExamples):
    name, position = source.place(position)
    source = source.sources[name]
  return source.where(position) if isinstance(source, files.FileExamples) else (
    "")


def mix(
  parts: Mapping[str, task_lib.Task], weights: Sequence[float] = ()
) -> task_lib.Task:
  """The tasks as one.

  A range of difficulties selects from each task by that task's own unit.
  Metrics are `TASK/METRIC`, over the completions of that task, and `solved`,
  over all.

  Args:
    parts: the tasks, by name.
    weights: each task's share of a batch; equal if empty.
  """
  shares = tuple(weights) or (1.0,) * len(parts)
  least, most = zip(*(t.difficulties for t in parts.values()), strict=True)

  def load(data_dir: str, split: str, difficulty: tuple[int, int], *,
           field: str = "difficulty") -> MixedExamples:
    return MixedExamples(
      {name: task.load(data_dir, split, difficulty, field=field)
       for name, task in parts.items()}, shares)

  def template(example: task_lib.Example) -> Sequence[str | int]:
    own = parts[example["task"]].template
    assert own is not None  # the mixture has a template only if all tasks do
    return own(example)

  def answer(example: task_lib.Example, completion: str) -> str | None:
    return parts[example["task"]].answer(example, completion)

  return task_lib.Task(
    load=load,
    answer=answer,
    prompts={style: prompt({name: task.prompts[style]
                            for name, task in parts.items()})
             for style in _common(task.prompts for task in parts.values())},
    rewards={key: _reward({name: task.rewards[key]
                           for name, task in parts.items()})
             for key in _common(task.rewards for task in parts.values())},
    metrics=_metrics({name: task.metrics for name, task in parts.items()}),
    difficulties=(min(least), max(most)),
    version="+".join(task.version for task in parts.values()),
    checksum="+".join(task.checksum for task in parts.values()),
    unbounded=tuple(f"{name}/{metric}" for name, task in parts.items()
                    for metric in task.unbounded),
    start=next((t.start for t in parts.values() if t.start), None),
    template=template if all(t.template for t in parts.values()) else None,
  )


def prompt(parts: Mapping[str, task_lib.Prompt]) -> task_lib.Prompt:
  """Asks each example with the prompt of its own task."""
  # Worked examples are compared with the example, and do not have this column.
  def own(example: task_lib.Example) -> task_lib.Example:
    return {key: value for key, value in example.items() if key != "task"}

  return task_lib.Prompt(
    question=lambda example: parts[example["task"]].question(own(example)),
    answer=lambda example: parts[example["task"]].answer(own(example)))


def _common(tables: Iterable[Mapping[str, Any]]) -> list[str]:
  """Names that all tables have, in the order of the first."""
  first, *others = tables
  return [key for key in first if all(key in other for other in others)]


def _by_task(task: Sequence[str]) -> dict[str, list[int]]:
  """The positions of each task's completions."""
  places: dict[str, list[int]] = {}
  for place, name in enumerate(task):
    places.setdefault(name, []).append(place)
  return places


def _call(function: Callable[..., Any], places: Sequence[int],
          prompts: Sequence[task_lib.Text], completions: Sequence[str],
          columns: Mapping[str, Sequence[Any]]) -> Any:
  def pick(values: Sequence[Any]) -> list[Any]:
    return [values[place] for place in places]

  return function(pick(prompts), pick(completions),
                  **{name: pick(values) for name, values in columns.items()})


def _reward(parts: Mapping[str, task_lib.Reward]) -> task_lib.Reward:
  def reward(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
             task: Sequence[str], **columns: Any) -> list[float | None]:
    found: list[float | None] = [None] * len(completions)
    for name, places in _by_task(task).items():
      scores = _call(parts[name], places, prompts, completions, columns)
      for place, score in zip(places, scores, strict=True):
        found[place] = score
    return found

  return reward


def _metrics(parts: Mapping[str, task_lib.Metrics]) -> task_lib.Metrics:
  def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
              task: Sequence[str], **columns: Any
              ) -> dict[str, list[float | None]]:
    solved: list[float | None] = [None] * len(completions)
    found: dict[str, list[float | None]] = {"solved": solved}
    for name, places in _by_task(task).items():
      scores = _call(parts[name], places, prompts, completions, columns)
      for key, values in scores.items():
        own: list[float | None] = [None] * len(completions)
        found[f"{name}/{key}"] = own
        for place, score in zip(places, values, strict=True):
          own[place] = score
      for place, score in zip(places, scores["solved"], strict=True):
        solved[place] = score
    return found

  return metrics
