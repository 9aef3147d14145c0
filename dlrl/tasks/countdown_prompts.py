"""How Countdown is asked: in short, in words, and as published runs do.

The texts of other projects are reconstructed from descriptions: what they say
and the format they ask for is theirs, the wording is not. d1, SPG and ESPO
train on the same one; d1 and SPG evaluate on another, which asks for a box.
"""

from dlrl.tasks import countdown
from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib

_OURS = """\
Write an expression with the value {target}. Use the numbers {numbers}, each \
of them exactly once, the operators + - * / and parentheses, and no other \
numbers.

Give the expression alone, without an equals sign, between <answer> and \
</answer>."""

_D1 = """\
Answer in this format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>

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

Answer in this format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\\boxed{{...}}
</answer>

Numbers: {numbers}
Target: {target}"""


def _bare(width: int) -> task_lib.Prompt:
  return task_lib.Prompt(
    lambda row: countdown.problem(row["numbers"], row["target"], width=width),
    between=" ", after="|")


def _ask(text: str) -> task_lib.Prompt:
  return task_lib.Prompt(
    lambda row: text.format(numbers=row["numbers"], target=row["target"]),
    prompts.tagged)


PROMPTS = {
  "bare": _bare(width=1),
  "dlrl": _ask(_OURS),
  "d1": _ask(_D1),
  "d1_eval": _ask(_D1_EVAL),
  "spg": _ask(_D1),
  "espo": _ask(_D1),
}
# So that all prompts of digits are equally long.
DIGITS = PROMPTS | {"bare": _bare(width=2)}
