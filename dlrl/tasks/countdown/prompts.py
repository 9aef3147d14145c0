"""Prompts for Countdown: bare, in our words, and as published runs do.

The texts of other projects (`texts/`) are reconstructed from descriptions:
content and answer format are theirs, the wording is ours. d1, SPG and ESPO
train on the same text; d1 and SPG evaluate on another one, which asks for a
box. wd1 and dllm use d1's texts. A name that ends in `_eval` is the prompt of a
project's evaluation, which gives the answer's first tag.
"""

import pathlib
from collections.abc import Callable
from collections.abc import Mapping

from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib
from dlrl.tasks.countdown import grading as countdown

FIELDS: Mapping[str, task_lib.Show] = {
  "numbers": lambda example: str(list(example["numbers"])),
  "target": lambda example: str(example["target"])}

_TEXTS = pathlib.Path(__file__).parent / "texts"


def _bare(width: int) -> task_lib.Prompt:
  return task_lib.Prompt(
    lambda example: countdown.problem(
      example["numbers"], example["target"], width=width),
    between=" ", after="|")


def _text(name: str, answer: Callable[[task_lib.Example], str]
          ) -> task_lib.Prompt:
  return task_lib.Prompt(
    prompts.from_file(_TEXTS / f"{name}.txt", FIELDS), answer)


def _framed(example: task_lib.Example, answer: str) -> str:
  return prompts.framed(f"{example['solution']} = {example['target']}", answer)


_D1 = _text("d1", lambda example: _framed(example, example["solution"]))
_D1_EVAL = prompts.begun(_text("d1_eval", lambda example: _framed(
  example, prompts.boxed(example["solution"]))))

PROMPTS = {
  "bare": _bare(width=1),
  "dlrl": _text("dlrl", prompts.tagged),
  "d1": _D1,
  "d1_eval": _D1_EVAL,
  "spg": _D1,
  "spg_eval": _D1_EVAL,
  "espo": _D1,
  "espo_eval": prompts.begun(_D1),
}
# Targets of two digits, so that all bare prompts have the same length.
DIGITS = PROMPTS | {"bare": _bare(width=2)}
