"""The parts of a task: examples, prompts, rewards and metrics.

An example is a mapping of plain Python values with any columns, among them

    index       int that identifies the example in its split
    difficulty  int, in the task's unit

Rewards and metrics have TRL's signature, `f(prompts, completions, **columns)`:
prompts as the model was asked, strings or chat messages; completions as
strings; and each column of the examples as a list. Functions ignore the columns
that they do not name.
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
# Gives one number for each completion, or None if grading failed through no
# fault of the completion: it is then counted and left out of the loss.
Reward = Callable[..., Sequence[float | None]]
# Gives, by name, one number for each completion; None as for a reward.
Metrics = Callable[..., Mapping[str, Sequence[float | None]]]

# Writes a part of an example as a prompt shows it.
Show = Callable[[Example], str]

SPLITS = ("train", "validation", "test")


def final(example: Example, completion: str) -> str | None:
  """The completion's final answer, or all of it; None if that is empty."""
  del example
  return answers.final(completion) or None


def solution(example: Example) -> str:
  """The column `solution`, unchanged."""
  return example["solution"]


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One style of asking an example and of writing its answer.

  Attributes:
    question: what the model reads: a string, or chat messages.
    answer: a reference completion with the maximum reward; the target of
      fine-tuning and of worked examples.
    between: separates a worked example's question from its answer.
    after: ends a worked example.
  """

  question: Callable[[Example], Text]
  answer: Callable[[Example], str] = solution
  between: str = "\n"
  after: str = "\n\n"


@dataclasses.dataclass(frozen=True)
class Task:
  """Examples, prompts, rewards and metrics.

  Attributes:
    load: `(data_dir, split, (low, high), *, field) -> examples` of one of
      `SPLITS` with a difficulty in low..high. Splits share no example.
      Validation is for choosing checkpoints and settings. `field` names the
      setting that holds the range, for messages.
    prompts: by name; "bare" is as short as possible.
    rewards: by name.
    metrics: of every completion; `solved`, 1 for a right answer, is one of
      them.
    difficulties: the lowest and the highest that `load` knows.
    version: a new one for any change of examples, prompts, rewards or metrics.
    checksum: of the examples of all splits.
    answer: `(example, completion) -> text` gives the same text for equal
      answers; None if the completion has no answer.
    start: starts what graders need, given `task.sandbox_allow`, and returns a
      line that says what was started. None if they need nothing.
    template: maps an example to the fixed parts of every valid answer to its
      bare prompt: strings are fixed text, ints count free tokens, EOS is
      appended. None if nothing is fixed.
    fields: parts of an example by the name they have in users' prompt files,
      which have to use all of them.
    extras: parts that users' prompt files may use.
    unbounded: metrics that may be any number; the others are in [0, 1].
    out_of: denominators, for metrics that count parts of an example: how many
      parts this example has. Parts are pooled over all examples.
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
  unbounded: Sequence[str] = ()


def columns(examples: Examples) -> dict[str, list[Any]]:
  """The examples' columns as lists, with None where an example lacks one."""
  names = dict.fromkeys(name for example in examples for name in example)
  return {name: [example.get(name) for example in examples] for name in names}
