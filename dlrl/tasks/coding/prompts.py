"""Prompts for MBPP and HumanEval: bare, in our words, and as published runs do.

The texts of other projects (`texts/`) are reconstructed from descriptions, as
in `mathematics.prompts`; BGPO's is a guess. MBPP's own sentence does not name
the function. Our text shows its signature and no test. `diffucoder` and `espo`
show the first test instead, as those projects do. That test is also scored, so
a model that repeats it from the prompt has a share of the reward. The examples
in HumanEval's code are part of its question.
"""

import operator
import pathlib
from collections.abc import Mapping

from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib

FIELDS: Mapping[str, task_lib.Show] = {
  "question": operator.itemgetter("text")}
# MBPP: what a prompt may show, including tests that are scored.
EXTRAS: Mapping[str, task_lib.Show] = {
  "signature": operator.itemgetter("signature"),
  "test": lambda example: example["tests"][0],
  "tests": lambda example: "\n".join(example["tests"]),
}

_TEXTS = pathlib.Path(__file__).parent / "texts"
_MBPP = prompts.from_file(_TEXTS / "mbpp.txt", FIELDS, EXTRAS)
_MBPP_FIRST_TEST = prompts.from_file(
  _TEXTS / "mbpp_first_test.txt", FIELDS, EXTRAS)
_HUMANEVAL = prompts.from_file(
  _TEXTS / "humaneval.txt",
  {"prefix": lambda example: example["prefix"].rstrip()})


def _fenced(example: task_lib.Example) -> str:
  return f"```python\n{example['solution'].rstrip()}\n```"


def _framed(example: task_lib.Example) -> str:
  return prompts.framed("The program:", _fenced(example))


def _prompts(asked: task_lib.Show, shown: task_lib.Show
             ) -> dict[str, task_lib.Prompt]:
  """The prompts that both datasets have.

  Args:
    asked: the question of an example.
    shown: the question of `diffucoder` and `espo`.
  """
  fields, other = {"question": asked}, {"question": shown}
  d1 = task_lib.Prompt(prompts.from_file(_TEXTS / "d1.txt", fields), _framed)
  block = task_lib.Prompt(
    prompts.from_file(_TEXTS / "block.txt", fields), _fenced)
  return {
    "dlrl": task_lib.Prompt(
      prompts.from_file(_TEXTS / "dlrl.txt", fields), _fenced),
    "d1": d1, "spg": d1, "bgpo": block, "trace_rl": block,
    "diffucoder": task_lib.Prompt(
      prompts.from_file(_TEXTS / "diffucoder.json", other), _fenced),
    "espo": task_lib.Prompt(
      prompts.from_file(_TEXTS / "espo.json", other), _fenced)}


MBPP = _prompts(_MBPP, _MBPP_FIRST_TEST) | {
  "bare": task_lib.Prompt(
    lambda example: f"{example['text']}\n{example['signature']}")}
HUMANEVAL = _prompts(_HUMANEVAL, _HUMANEVAL) | {
  "bare": task_lib.Prompt(operator.itemgetter("prefix"))}
