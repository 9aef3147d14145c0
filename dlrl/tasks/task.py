"""What a task is made of: rows, prompts, rewards and metrics.

A row is a mapping of plain Python values with any columns, among them

    index       int that identifies the row in its split
    difficulty  int, in the task's unit

Rewards and metrics have TRL's signature, `f(prompts, completions, **columns)`:
prompts as the model was asked, a text or chat messages; completions as text;
and each column of the rows as a list. They take any further column in `**`.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl.tasks import answers

Example = Mapping[str, Any]
Examples = Sequence[Example]  # anything with a length and random access
Text = str | Sequence[Mapping[str, str]]  # messages have `role` and `content`
# A number per completion. None: it could not be found out, through no fault of
# the completion, which is then left out of the loss and counted.
Reward = Callable[..., Sequence[float | None]]
# Of every completion; None as of a reward.
Metrics = Callable[..., Mapping[str, Sequence[float | None]]]

# Something of a row, as a prompt shows it.
Show = Callable[[Example], str]

SPLITS = ("train", "validation", "test")


def final(row: Example, completion: str) -> str | None:
  """The completion's final answer, or all of it."""
  del row
  return answers.final(completion) or None


def solution(row: Example) -> str:
  """The column `solution`, as it is."""
  return row["solution"]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """How a row is asked, and how an answer to it is written.

  Attributes:
    question: what the model reads: a text, or chat messages.
    answer: what it would have to write, of which its rewards are the greatest:
      what fine-tuning learns and worked examples show.
    between: what stands between a worked example's question and its answer.
    after: what stands after a worked example.
  """

  question: Callable[[Example], Text]
  answer: Callable[[Example], str] = solution
  between: str = "\n"
  after: str = "\n\n"


@dataclasses.dataclass(frozen=True)
class Task:
  """Examples, prompts, rewards and metrics of one task.

  Attributes:
    load: `(data_dir, split, (low, high), *, field) -> rows` of a split of
      `SPLITS` whose difficulty is in low..high; the splits share no row, and
      validation is for choosing, of checkpoints or settings. `field` is the
      config field of the range, for messages.
    prompts: by name; "bare" is as short as it can be.
    rewards: by name.
    metrics: of every completion; `solved` is among them, 1 where it is right.
    difficulties: the least and the greatest that `load` knows.
    version: of rows, prompts, rewards and metrics; a new one with any change of
      what they are.
    checksum: of the rows of all splits.
    answer: `(row, completion) -> text` of what is read as its answer, the same
      for equal answers; None: there is none.
    start: starts what graders need, given `task.sandbox_allow`; returns a line
      about it. None: they need nothing.
    template: of a row, what is known of any answer to its bare prompt: texts,
      and numbers of tokens that are not known; eos follows. None: nothing is.
    fields: what prompts of users' files show of a row, by name, all of it.
    extras: what they may show besides.
    out_of: by metric, of how many things of a row it is the share, where a
      table is of all rows' things together, and not the mean over rows.
  """

  load: Callable[..., Examples]
  prompts: Mapping[str, Prompt]
  rewards: Mapping[str, Reward]
  metrics: Metrics
  difficulties: tuple[int, int]
  version: str
  checksum: str
  answer: Callable[[Example, str], str | None] = final
  start: Callable[[Sequence[str]], str] | None = None
  template: Callable[[Example], Sequence[str | int]] | None = None
  fields: Mapping[str, Show] = dataclasses.field(default_factory=dict)
  extras: Mapping[str, Show] = dataclasses.field(default_factory=dict)
  out_of: Mapping[str, Callable[[Example], int]] = dataclasses.field(
    default_factory=dict)


def columns(rows: Examples) -> dict[str, list[Any]]:
  """The rows' columns as lists; None where a row lacks one."""
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: [row.get(name) for row in rows] for name in names}
