"""What a prompt of users' own data may be: a text, or chat messages."""

import itertools
from typing import Any

from dlrl.tasks import task as task_lib

ROLES = ("system", "user", "assistant")


class Problem(ValueError):
  """What is wrong with a row."""


def checked(prompt: Any) -> task_lib.Text:
  """A prompt as rows have it, if it is one.

  Args:
    prompt: a text, or messages of a conversation: objects with `role`, of
      `ROLES`, and the text `content`. System comes first, no role comes twice
      in a row, and the user says something.

  Returns:
    The text, or the messages without keys that are null.

  Raises:
    Problem: it is anything else.
  """
  if not isinstance(prompt, list):
    return _text(prompt, "the prompt")
  turns = [_message(message, f"message {i}")
           for i, message in enumerate(prompt, 1)]
  roles = [turn["role"] for turn in turns]
  if "user" not in roles:
    raise Problem("the prompt has no message of the user")
  if "system" in roles[1:]:
    raise Problem("a system message is not the first")
  for role, following in itertools.pairwise(roles):
    if role == following:
      raise Problem(f"two messages in a row have the role {role!r}")
  return turns


def _message(message: Any, where: str) -> dict[str, str]:
  if not isinstance(message, dict):
    raise Problem(f"{where} is no object but {type(message).__name__}")
  # Parquet writes null where other messages of the column have a key.
  more = sorted(key for key, value in message.items()
                if value is not None and key not in ("role", "content"))
  if more:
    raise Problem(
      f"{where} has {more}; role and content are all it may have")
  role = message.get("role")
  if role not in ROLES:
    raise Problem(f"{where} has the role {role!r}, not one of {ROLES}")
  return {"role": role, "content": _text(message.get("content"), where)}


def _text(value: Any, where: str) -> str:
  if not isinstance(value, str):
    raise Problem(f"{where} is no text but {type(value).__name__}")
  if not value.strip():
    raise Problem(f"{where} is empty")
  try:
    value.encode()
  except UnicodeEncodeError as error:  # JSON may write half a character
    raise Problem(f"{where} is no Unicode text: {error}") from error
  return value
