"""Prompts in users' own words: a file with fields in braces.

    question.txt     Question: {question}
                     Answer:
    question.json    [{"role": "user", "content": "{question}"},
                      {"role": "assistant", "content": "<reasoning>"}]

A text is asked as it is, but for one line end at the end of the file. JSON is
chat messages; a last one of the assistant is the beginning of the answer. Which
fields there are says the task. `{{question}}` is the text `{question}`, and all
other braces are themselves: `\\boxed{}`, `x^{2}`.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from collections.abc import Mapping

from dlrl import strict
from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import messages

_FIELD = "task.prompt_file"
_NAME = "([a-z][a-z_]{2,})"
_BRACES = re.compile(rf"\{{\{{{_NAME}\}}\}}|\{{{_NAME}\}}")
# What is meant as a field, and is not LaTeX, where braces follow something.
_MEANT = re.compile(rf"(?<![\w\\^}}{{])\{{{_NAME}\}}(?!\}})")


def read(path: str) -> str:
  """The content of a file.

  Raises:
    strict.ConfigError: there is none, it is no UTF-8 text, or empty.
  """
  try:
    text = pathlib.Path(path).expanduser().read_bytes().decode()
  except (OSError, UnicodeDecodeError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise strict.ConfigError(
      _FIELD, path, f"is no text that can be read: {reason}") from e
  strict.require("\r" not in text, _FIELD, path,
                 "has line ends of Windows; write it with line feeds alone")
  return text


def version(path: str, text: str) -> str:
  """What is asked, in a table: the file's name and the SHA-256 of its content.
  """
  digest = hashlib.sha256(text.encode()).hexdigest()
  return f"{pathlib.Path(path).name}, SHA-256 {digest}"


def question(path: str, text: str, task: str,
             fields: Mapping[str, task_lib.Show],
             extras: Mapping[str, task_lib.Show],
             ) -> Callable[[task_lib.Example], task_lib.Text]:
  """How a row is asked by the file.

  Args:
    path: of the file; messages if it ends in .json.
    text: its content.
    task: its name, for messages.
    fields: what a row can show, all of which has to be in the file.
    extras: what may be in it as well.

  Raises:
    strict.ConfigError: a field is missing or unknown, or messages are none.
  """
  strict.require(
    bool(fields), _FIELD, path, f"must be empty: {task!r} asks what is in its "
    "column prompt")
  asked = (_messages(path, text) if path.endswith(".json")
           else text.removesuffix("\n"))
  parts = [asked] if isinstance(asked, str) else [m["content"] for m in asked]
  known = {**fields, **extras}
  names = {found[2] for part in parts for found in _BRACES.finditer(part)}
  strict.require(
    not (absent := [f"{{{name}}}" for name in fields if name not in names]),
    _FIELD, path, f"has no {' and no '.join(absent)}, which {task!r} asks")
  meant = {found[1] for part in parts for found in _MEANT.finditer(part)}
  strict.require(
    not (unknown := sorted(meant - known.keys())), _FIELD, path,
    f"has a field {', '.join(map(repr, unknown))}; {task!r} has "
    f"{', '.join(map(repr, known))}. Write {{{{name}}}} for the text {{name}}")

  def fill(part: str, row: task_lib.Example) -> str:
    # In one pass: what a row says is never read as a field.
    return _BRACES.sub(lambda found: (
      f"{{{found[1]}}}" if found[1]
      else known[found[2]](row) if found[2] in known else found[0]), part)

  if isinstance(asked, str):
    return lambda row: fill(asked, row)
  return lambda row: [
    {**message, "content": fill(message["content"], row)} for message in asked]


def _messages(path: str, text: str) -> task_lib.Text:
  try:
    value = json.loads(text)
    if not isinstance(value, list):
      raise messages.Problem('is no list of {"role": ..., "content": ...}')
    return messages.checked(value)
  except ValueError as e:
    raise strict.ConfigError(_FIELD, path, f"as chat messages: {e}") from e
