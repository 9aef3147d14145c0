"""How Countdown is asked: in short, in words, and as published runs do.

The texts of other projects are reconstructed from descriptions: what they say
and the format they ask for is theirs, the wording is not. d1, SPG and ESPO
train on the same one; d1 and SPG evaluate on another, which asks for a box.
wd1 and dllm use d1's. A name that ends in `_eval` is what a project evaluates
with: the answer's first tag is given.
"""

from collections.abc import Callable

from dlrl.tasks import frames
from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib
from dlrl.tasks.countdown import grading as countdown

_OURS = """\
Write an expression with the value {target}. Use the numbers {numbers}, each \
of them exactly once, the operators + - * / and parentheses, and no other \
numbers.

Give the expression alone, without an equals sign, between <answer> and \
</answer>."""

_D1 = frames.FORMAT + """

Using only the numbers {numbers}, create an arithmetic expression that \
evaluates to exactly {target}. You must use every number from the list exactly \
once, with the operations +, -, * and /. After your reasoning, put only the \
final expression inside <answer></answer>, without the equals sign and without \
the target. For example, with the numbers [2, 3, 4] and the target 5:
<answer>
2*4-3
</answer>"""

_D1_EVAL = """\
Using only the given numbers, create an arithmetic expression that evaluates \
to exactly the target. Use every number exactly once, with the operations +, \
-, * and /. Put the final expression inside \\boxed{{}}, without the equals \
sign and without the target, for example \\boxed{{a + b * c}}.

""" + frames.BOXED_FORMAT.replace("{...}", "{{...}}") + """

Numbers: {numbers}
Target: {target}"""


def _bare(width: int) -> task_lib.Prompt:
  return task_lib.Prompt(
    lambda row: countdown.problem(row["numbers"], row["target"], width=width),
    between=" ", after="|")


def _fill(text: str, row: task_lib.Example) -> str:
  return text.format(numbers=row["numbers"], target=row["target"])


def _steps(row: task_lib.Example) -> str:
  return f"{row['solution']} = {row['target']}"


def _begin(text: str, wrap: Callable[[str], str]) -> task_lib.Prompt:
  """A prompt in words with the answer begun; its end is `wrap` of the rest."""
  return task_lib.Prompt(
    lambda row: frames.begun(_fill(text, row)),
    lambda row: frames.after_begun(_steps(row), wrap(row["solution"])))


_TRAINED = task_lib.Prompt(
  lambda row: _fill(_D1, row),
  lambda row: frames.framed(_steps(row), row["solution"]))
_EVALUATED = _begin(_D1_EVAL, frames.boxed)
PROMPTS = {
  "bare": _bare(width=1),
  "dlrl": task_lib.Prompt(lambda row: _fill(_OURS, row), prompts.tagged),
  "d1": _TRAINED,
  "d1_eval": _EVALUATED,
  "spg": _TRAINED,
  "spg_eval": _EVALUATED,
  "espo": _TRAINED,
  "espo_eval": _begin(_D1, str),
}
# So that all prompts of digits are equally long.
DIGITS = PROMPTS | {"bare": _bare(width=2)}
