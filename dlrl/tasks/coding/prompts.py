"""How MBPP and HumanEval are asked: in short, in words, and as published runs.

The texts of other projects are reconstructed from descriptions, as in
`math_prompts`; BGPO's is a guess. MBPP's own sentence does not name the
function. Where a project shows tests to do so, they are shown here, too, and
`SHOWN_TESTS` says how many: they are scored, so a model that repeats them from
the prompt has a share of the reward. Ours shows the signature and no test; the
examples in HumanEval's code are part of its question.
"""

from collections.abc import Callable
from collections.abc import Mapping

from dlrl.tasks import frames
from dlrl.tasks import task as task_lib

Ask = Callable[[task_lib.Example], str]

_CODER = ("You are a coding expert. Solve the programming task that you are "
          "given step by step.")
_ASSISTANT = "You are a helpful assistant."
_ESPO = """\
You are an expert Python programmer. Think first, in plain text without any \
fence. Then give the whole solution in exactly one block that starts with \
```python and ends with ```. The block is the very end of your answer: write \
no other block, and nothing after it."""
_BLOCK = "\n\nPlace your code within a single Python code block."

# By style: the tests of a row, from the first, that its prompt shows.
SHOWN_TESTS: Mapping[str, int] = {"diffucoder": 1, "espo": 1}


def fenced(code: str) -> str:
  """A block of Python."""
  return f"```python\n{code.rstrip()}\n```"


def shown(style: str, row: task_lib.Example) -> list[str]:
  """The row's tests that its prompt shows."""
  return list(row["tests"])[:SHOWN_TESTS.get(style, 0)]


def _program(row: task_lib.Example) -> str:
  return fenced(row["solution"])


def _mbpp(row: task_lib.Example) -> str:
  return (f"{row['text']} Start from this, and write what is missing:\n\n"
          f"{fenced(row['signature'])}")


def _human_eval(row: task_lib.Example) -> str:
  return f"Complete this function:\n\n{fenced(row['prefix'])}"


def _first_test(style: str) -> Ask:
  def ask(row: task_lib.Example) -> str:
    return row["text"] + "\nTest cases: " + "\n".join(shown(style, row))

  return ask


def _system(text: str, ask: Ask) -> task_lib.Prompt:
  return task_lib.Prompt(
    lambda row: [{"role": "system", "content": text},
                 {"role": "user", "content": ask(row)}], _program)


def _of_both(ask: Ask) -> dict[str, task_lib.Prompt]:
  """The prompts that say the same of both datasets."""
  def framed(row: task_lib.Example) -> str:
    return f"{frames.FORMAT}\n{_CODER}\n\n{ask(row)}"

  def answer(row: task_lib.Example) -> str:
    return frames.framed("The program:", _program(row))

  d1 = task_lib.Prompt(framed, answer)
  block = task_lib.Prompt(lambda row: ask(row) + _BLOCK, _program)
  return {
    "dlrl": task_lib.Prompt(
      lambda row: f"{ask(row)}\n\nAnswer with the whole program in one block "
                  "that starts with ```python.", _program),
    "d1": d1, "spg": d1, "bgpo": block, "trace_rl": block}


MBPP = _of_both(_mbpp) | {
  "bare": task_lib.Prompt(lambda row: f"{row['text']}\n{row['signature']}"),
  "diffucoder": _system(_ASSISTANT, _first_test("diffucoder")),
  "espo": _system(_ESPO, _first_test("espo")),
}
HUMANEVAL = _of_both(_human_eval) | {
  "bare": frames.column("prefix"),
  "diffucoder": _system(_ASSISTANT, _human_eval),
  "espo": _system(_ESPO, _human_eval),
}
