"""Prompts from text files, d1's frame around an answer, and worked examples.

The frame, reasoning and then an answer in tags, is what d1 (arXiv 2504.12216)
and its descendants ask for.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import templates

_SEED = 31337
_OPEN = "<reasoning>"


def from_file(
  path: pathlib.Path,
  fields: Mapping[str, task_lib.Show],
  extras: Mapping[str, task_lib.Show] | None = None,
) -> Callable[[task_lib.Example], task_lib.Text]:
  """Asks an example as a text file of ours does, like users' prompt files.

  Args:
    path: the file; chat messages if it ends in .json.
    fields: what has to be in the file, by name.
    extras: what may be in the file, by name.
  """
  return templates.question(
    str(path), templates.read(str(path)), path.stem, fields, extras or {})


def tagged(example: task_lib.Example) -> str:
  """The solution between answer tags."""
  return f"<answer>{example['solution']}</answer>"


def framed(reasoning: str, answer: str) -> str:
  """A completion in d1's frame."""
  return (f"{_OPEN}\n{reasoning}\n</reasoning>\n"
          f"<answer>\n{answer}\n</answer>")


def begun(prompt: task_lib.Prompt) -> task_lib.Prompt:
  """`prompt`, whose answers are `framed`, with the first tag given.

  So d1 evaluates: the model continues an assistant's turn that it did not
  begin.
  """
  return task_lib.Prompt(
    lambda example: [
      {"role": "user", "content": as_text(prompt.question(example))},
      {"role": "assistant", "content": _OPEN}],
    lambda example: prompt.answer(example).removeprefix(_OPEN))


def boxed(answer: str) -> str:
  r"""The answer in LaTeX's \boxed{}."""
  return f"\\boxed{{{answer}}}"


def with_examples(
  prompt: task_lib.Prompt, examples: task_lib.Examples, count: int
) -> task_lib.Prompt:
  """`prompt` after `count` worked examples, the same for all questions.

  They are the first of a fixed permutation of `examples`. An example is never
  one of its own worked examples; the next in the permutation takes its place.

  Args:
    prompt: texts are joined to one text, messages to one conversation.
    examples: the train split; more than `count`.
    count: at least 1.
  """
  order = np.argsort(
    np.random.PCG64([_SEED, len(examples)]).random_raw(len(examples)))
  pool = [examples[int(i)] for i in order[:count + 1]]

  def question(example: task_lib.Example) -> task_lib.Text:
    shown = [other for other in pool if other != example][:count]
    asked = prompt.question(example)
    if isinstance(asked, str):
      return "".join(
        f"{prompt.question(other)}{prompt.between}{prompt.answer(other)}"
        f"{prompt.after}" for other in shown) + asked
    turns = [m for m in asked if m["role"] == "system"]
    for other in shown:
      said, begin = _without_system(prompt.question(other)), ""
      if said[-1]["role"] == "assistant":
        # The given beginning and the rest of the answer are one turn.
        begin = said.pop()["content"]
      turns += [*said, {"role": "assistant",
                        "content": begin + prompt.answer(other)}]
    return turns + _without_system(asked)

  return dataclasses.replace(prompt, question=question)


def as_text(prompt: task_lib.Text) -> str:
  """A prompt for people: the contents of its messages, joined by newlines."""
  if isinstance(prompt, str):
    return prompt
  return "\n".join(message["content"] for message in prompt)


def _without_system(messages: task_lib.Text) -> list[Mapping[str, str]]:
  """The messages but the system's, which open a conversation only once."""
  return [m for m in messages if not isinstance(m, str)
          and m["role"] != "system"]
