"""Prompts in users' own words, from a file with fields in braces.

    question.txt     Question: {question}
                     Answer:
    question.json    [{"role": "user", "content": "{question}"},
                      {"role": "assistant", "content": "<reasoning>"}]

A text is used as it is, but for one line end at the end of the file. A JSON
file holds chat messages; if the last one is the assistant's, it is the
beginning of the answer. The task defines the fields. `{{question}}` stands for
the text `{question}`; other braces stand for themselves: `\\boxed{}`, `x^{2}`.
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
# Braces that are meant as a field. In LaTeX, something precedes an argument's.
_MEANT = re.compile(rf"(?<![\w\\^}}{{])\{{{_NAME}\}}(?!\}})")


def read(path: str) -> str:
  """Returns the content of a file, without a byte order mark at its start.

  Raises:
    strict.ConfigError: the file cannot be read, is not UTF-8, or has Windows
      line ends.
  """
  try:
    file = pathlib.Path(path).expanduser()
    # Opening a pipe would wait for a writer.
    if file.exists() and not (file.is_file() or file.is_dir()):
      raise ValueError("not a file")
    text = file.read_bytes().decode("utf-8-sig")
  except (OSError, ValueError, RuntimeError) as e:
    reason = e.strerror if isinstance(e, OSError) else e
    raise strict.ConfigError(
      _FIELD, path, f"cannot be read as UTF-8 text: {reason}") from e
  # A model would see the carriage returns, and the file would not.
  strict.require("\r" not in text, _FIELD, path,
                 "has Windows line ends; save it with line feeds (LF)")
  return text


def version(path: str, text: str) -> str:
  """Identifies a prompt in tables: the file's name and its SHA-256."""
  digest = hashlib.sha256(text.encode()).hexdigest()
  return f"{pathlib.Path(path).name}, SHA-256 {digest}"


def question(path: str, text: str, task: str,
             fields: Mapping[str, task_lib.Show],
             extras: Mapping[str, task_lib.Show],
             ) -> Callable[[task_lib.Example], task_lib.Text]:
  """Returns a function that asks an example in the words of the file.

  Args:
    path: the file; if it ends in .json, it holds chat messages.
    text: its content.
    task: the task's name, for errors.
    fields: what shows an example, by field; the file must use all of them.
    extras: further fields that the file may use.

  Raises:
    strict.ConfigError: a field is missing or unknown, or the messages are
      malformed.
  """
  strict.require(
    bool(fields), _FIELD, path, f"must be empty: the prompts of {task!r} are "
    "in its column `prompt`")
  asked = (_messages(path, text) if path.endswith(".json")
           else text.removesuffix("\n"))
  parts = [asked] if isinstance(asked, str) else [m["content"] for m in asked]
  known = {**fields, **extras}
  names = {found[2] for part in parts for found in _BRACES.finditer(part)}
  strict.require(
    not (absent := [f"{{{name}}}" for name in fields if name not in names]),
    _FIELD, path, f"must contain {' and '.join(absent)}; {task!r} asks them")
  meant = {found[1] for part in parts for found in _MEANT.finditer(part)}
  strict.require(
    not (unknown := sorted(meant - known.keys())), _FIELD, path,
    f"has unknown fields {', '.join(map(repr, unknown))}; {task!r} has "
    f"{', '.join(map(repr, known))}. Write {{{{name}}}} for the text {{name}}")

  def fill(part: str, example: task_lib.Example) -> str:
    # In one pass, so that braces in an example's text are not read as fields.
    return _BRACES.sub(lambda found: (
      f"{{{found[1]}}}" if found[1]
      else known[found[2]](example) if found[2] in known else found[0]), part)

  if isinstance(asked, str):
    return lambda example: fill(asked, example)
  return lambda example: [
    {**message, "content": fill(message["content"], example)}
    for message in asked]


def _messages(path: str, text: str) -> task_lib.Text:
  try:
    value = json.loads(text)
    if not isinstance(value, list):
      raise messages.MalformedError(
        'must be a list of {"role": ..., "content": ...}')
    return messages.checked(value)
  except (ValueError, RecursionError) as e:
    raise strict.ConfigError(_FIELD, path, f"chat messages: {e}") from e
