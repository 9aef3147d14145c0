"""Checks prompts of users' own data: a string, or chat messages."""

import itertools
from typing import Any

from dlrl.tasks import task as task_lib

ROLES = ("system", "user", "assistant")


class MalformedError(ValueError):
  """A malformed row; the message says how. Callers add file and line."""


def checked(prompt: Any) -> task_lib.Text:
  """Returns a valid prompt.

  Args:
    prompt: a string, or the messages of a conversation: objects with a `role`
      of `ROLES` and a string `content`. A system message must be the first, at
      least one message is the user's, and no role follows itself.

  Returns:
    The string, or the messages without keys that are null.

  Raises:
    MalformedError: the prompt is neither.
  """
  if not isinstance(prompt, list):
    return _text(prompt, "the prompt")
  turns = [_message(message, f"message {i}")
           for i, message in enumerate(prompt, 1)]
  roles = [turn["role"] for turn in turns]
  if "user" not in roles:
    raise MalformedError("the prompt has no user message")
  if "system" in roles[1:]:
    raise MalformedError("a system message must be the first message")
  for role, following in itertools.pairwise(roles):
    if role == following:
      raise MalformedError(
        f"two consecutive messages have the role {role!r}; merge them")
  return turns


def _message(message: Any, where: str) -> dict[str, str]:
  if not isinstance(message, dict):
    raise MalformedError(
      f"{where} must be an object, got {type(message).__name__}")
  # Parquet has null for a key that only other messages of the column have.
  unknown = sorted(key for key, value in message.items()
                   if value is not None and key not in ("role", "content"))
  if unknown:
    raise MalformedError(
      f"{where} has the keys {unknown}; only role and content are allowed")
  role = message.get("role")
  if role not in ROLES:
    raise MalformedError(
      f"{where} has the role {role!r}; use one of {', '.join(ROLES)}")
  return {"role": role,
          "content": _text(message.get("content"), f"content of {where}")}


def _text(value: Any, where: str) -> str:
  if not isinstance(value, str):
    raise MalformedError(
      f"{where} must be a string, got {type(value).__name__}")
  if not value.strip():
    raise MalformedError(f"{where} is empty")
  try:
    value.encode()
  except UnicodeEncodeError as error:  # JSON can hold half a surrogate pair
    raise MalformedError(f"{where} is not valid Unicode: {error}") from error
  return value
