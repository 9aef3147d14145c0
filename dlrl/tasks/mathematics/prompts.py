"""Prompts for GSM8K and MATH: bare, in our words, and as published runs do.

The texts of other projects (`texts/`) are reconstructed from descriptions:
content and answer format are theirs; the wording is ours, except for the
one-line requests for a box. Numbers made with them are therefore close to a
paper's setting, but not the same to the last token.
wd1, SPG and dllm use d1's texts. BGPO's is not public: `bgpo` is a guess, the
common request for a box. ESPO evaluates GSM8K after four worked examples; ours
here.

A name that ends in `_eval` is the prompt of a project's evaluation, where that
differs from its training. Ours is one text for both.
"""

import operator
import pathlib
from collections.abc import Callable
from collections.abc import Mapping

from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import gsm8k_data

_Fields = Mapping[str, task_lib.Show]
GSM8K_FIELDS: _Fields = {"question": operator.itemgetter("question")}
MATH_FIELDS: _Fields = {"question": operator.itemgetter("problem")}

_TEXTS = pathlib.Path(__file__).parent / "texts"
_Answer = Callable[[task_lib.Example], str]


def _prompts(name: str, fields: _Fields, framed: _Answer, boxed: _Answer
             ) -> dict[str, task_lib.Prompt]:
  """The prompts that both datasets have.

  Args:
    name: prefix of the dataset's own files.
    fields: how an example's question is shown.
    framed: an example's answer in d1's frame.
    boxed: the same with the final answer in a box.
  """
  def text(file: str, answer: _Answer = task_lib.solution) -> task_lib.Prompt:
    return task_lib.Prompt(
      prompts.from_file(_TEXTS / f"{file}.txt", fields), answer)

  d1 = text(f"{name}_d1", framed)
  d1_eval = prompts.begun(text("d1_eval", boxed))
  return {
    "bare": task_lib.Prompt(fields["question"]),
    "dlrl": text("dlrl"),
    "d1_eval": d1_eval,
    "spg_eval": d1_eval,
    "espo": text("box"),
    "bgpo": text("box"),
    "trace_rl": text("trace_rl"),
    "d1": d1,
    "spg": d1,
  }


def _gsm8k_framed(example: task_lib.Example) -> str:
  return prompts.framed(*gsm8k_data.parts(example["answer"]))


def _gsm8k_boxed(example: task_lib.Example) -> str:
  steps, number = gsm8k_data.parts(example["answer"])
  return prompts.framed(steps, prompts.boxed(number))


def _gsm8k_stated(example: task_lib.Example) -> str:
  steps, number = gsm8k_data.parts(example["answer"])
  return f"{steps}\nThe answer is {number}"


def _math_boxed(example: task_lib.Example) -> str:
  return prompts.framed(example["solution"], prompts.boxed(example["answer"]))


GSM8K = _prompts("gsm8k", GSM8K_FIELDS, _gsm8k_framed, _gsm8k_boxed) | {
  "espo_eval": task_lib.Prompt(
    prompts.from_file(_TEXTS / "gsm8k_espo_eval.json", GSM8K_FIELDS),
    _gsm8k_stated),
}
# For MATH, d1's frame asks for a box in training as in evaluation.
MATH = _prompts("math", MATH_FIELDS, _math_boxed, _math_boxed)
