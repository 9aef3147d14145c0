"""Parts of prompts that the tasks share, and worked examples before them."""

import dataclasses

import numpy as np

from dlrl.tasks import task as task_lib

_SEED = 31337


def tagged(row: task_lib.Example) -> str:
  """The solution between answer tags."""
  return f"<answer>{row['solution']}</answer>"


def with_examples(
  prompt: task_lib.Prompt, rows: task_lib.Examples, count: int
) -> task_lib.Prompt:
  """`prompt` after `count` worked examples, the same for all rows.

  They are the first of a fixed permutation of `rows`; a row is no example for
  itself, the next one takes its place.

  Args:
    prompt: its texts become one text, its messages a conversation.
    rows: of the train split.
    count: at least 1 and less than there are rows.
  """
  order = np.argsort(np.random.PCG64([_SEED, len(rows)]).random_raw(len(rows)))
  pool = [rows[int(i)] for i in order[:count + 1]]

  def question(row: task_lib.Example) -> task_lib.Text:
    examples = [example for example in pool if example != row][:count]
    asked = prompt.question(row)
    if isinstance(asked, str):
      return "".join(
        f"{prompt.question(example)}{prompt.between}{prompt.answer(example)}"
        f"{prompt.after}" for example in examples) + asked
    turns = [m for m in asked if m["role"] == "system"]
    for example in examples:
      said, begun = _said(prompt.question(example)), ""
      if said[-1]["role"] == "assistant":  # the beginning of the answer
        begun = said.pop()["content"]
      turns += [*said, {"role": "assistant",
                        "content": begun + prompt.answer(example)}]
    return turns + _said(asked)

  return dataclasses.replace(prompt, question=question)


def as_text(prompt: task_lib.Text) -> str:
  """A prompt for people: its messages' contents, a line for each."""
  if isinstance(prompt, str):
    return prompt
  return "\n".join(message["content"] for message in prompt)


def _said(messages: task_lib.Text) -> list:
  """Without the system's messages, which open a conversation once."""
  return [m for m in messages if not isinstance(m, str)
          and m["role"] != "system"]
