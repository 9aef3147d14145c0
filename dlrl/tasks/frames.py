r"""The format that d1 asks for, and what descends from it: reasoning, answer.

Reconstructed from descriptions: what is asked for is theirs, the wording is
not. They evaluate with another text than they train with: there, the answer is
in a box inside the answer's tags, and the completion's first tag is given.
"""

from dlrl.tasks import task as task_lib

FORMAT = """\
Answer in this format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>"""

BOXED_FORMAT = """\
Answer in this format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\\boxed{...}
</answer>"""

_OPEN, _CLOSE = "<reasoning>", "</reasoning>"


def begun(text: str) -> list[dict[str, str]]:
  """A user's message, and the beginning of the answer to it."""
  return [{"role": "user", "content": text},
          {"role": "assistant", "content": _OPEN}]


def framed(reasoning: str, answer: str) -> str:
  """A completion in the format."""
  return _OPEN + after_begun(reasoning, answer)


def after_begun(reasoning: str, answer: str) -> str:
  """A completion in the format, without the tag that `begun` gives."""
  return f"\n{reasoning}\n{_CLOSE}\n<answer>\n{answer}\n</answer>"


def boxed(answer: str) -> str:
  r"""In LaTeX's \boxed{}."""
  return f"\\boxed{{{answer}}}"


def column(name: str) -> task_lib.Prompt:
  """The column alone: the shortest prompt."""
  return task_lib.Prompt(lambda row: row[name])
