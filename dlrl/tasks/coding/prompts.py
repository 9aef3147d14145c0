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


def _question(name: str, fields: Mapping[str, task_lib.Show]) -> task_lib.Show:
  """A dataset's question, which the texts of all styles contain."""
  ask = prompts.from_file(_TEXTS / f"{name}.txt", fields)
  return lambda example: prompts.as_text(ask(example))


_MBPP = _question("mbpp", {
  **FIELDS, "signature": lambda example: example["signature"].rstrip()})
_MBPP_FIRST_TEST = _question("mbpp_first_test", {
  **FIELDS, "test": EXTRAS["test"]})
_HUMANEVAL = _question("humaneval", {
  "prefix": lambda example: example["prefix"].rstrip()})


def _fenced(example: task_lib.Example) -> str:
  return f"```python\n{example['solution'].rstrip()}\n```"


def _framed(example: task_lib.Example) -> str:
  return prompts.framed("The program:", _fenced(example))


def _prompts(bare: task_lib.Show, asked: task_lib.Show, shown: task_lib.Show
             ) -> dict[str, task_lib.Prompt]:
  """The prompts of a dataset.

  Args:
    bare: the shortest question.
    asked: the question of the other styles.
    shown: the question of `diffucoder` and `espo`.
  """
  def text(file: str, question: task_lib.Show,
           answer: task_lib.Show = _fenced) -> task_lib.Prompt:
    return task_lib.Prompt(
      prompts.from_file(_TEXTS / file, {"question": question}), answer)

  d1, block = text("d1.txt", asked, _framed), text("block.txt", asked)
  return {
    "dlrl": text("dlrl.txt", asked),
    "d1": d1,
    "spg": d1,
    "bgpo": block,
    "trace_rl": block,
    "bare": task_lib.Prompt(bare),
    "diffucoder": text("diffucoder.json", shown),
    "espo": text("espo.json", shown),
  }


MBPP = _prompts(
  lambda example: f"{example['text']}\n{example['signature']}",
  _MBPP, _MBPP_FIRST_TEST)
HUMANEVAL = _prompts(operator.itemgetter("prefix"), _HUMANEVAL, _HUMANEVAL)
