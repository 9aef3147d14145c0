"""Finds what a setting names: an entry of a table, or an object of a user's.

Only settings, flags and arguments may name code. A checkpoint's files never do.
"""

import importlib
import inspect
import os
import pathlib
import sysconfig
import traceback
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

from dlrl import strict

# Where the frames of a traceback are that users did not write.
_LIBRARIES = (str(pathlib.Path(__file__).parents[1]) + os.sep, *(
  sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
_LONGEST = 300  # characters of a message


def named(name: str) -> bool:
  """Whether a name is `package.module:name`, and no entry of a table."""
  return ":" in name


def find(table: Mapping[str, Any], name: str, field: str) -> Any:
  """Returns `table[name]`, or what `package.module:name` imports.

  Args:
    table: dlrl's own, by name.
    name: a key of `table`, or the user's.
    field: the setting that has this value, for messages.

  Raises:
    strict.ConfigError: the name is in no table, or cannot be imported.
  """
  if named(name):
    return load(name, field)
  strict.require(name in table, field, name, choices(table))
  return table[name]


def choices(table: Collection[str]) -> str:
  """What a setting may name, in words."""
  return f"{strict.one_of(table)}, or name your own as 'package.module:name'"


def load(path: str, field: str,
         error: type[strict.ConfigError] = strict.ConfigError) -> Any:
  """Imports `package.module:name`.

  Args:
    path: the object's name.
    field: the setting, flag or argument that has this value, for messages.
    error: how a wrong one is reported, see `strict.require`.

  Raises:
    strict.ConfigError: the module or the name is missing, or the module raises
      while it is imported.
  """
  module, _, name = path.rpartition(":")
  try:
    return getattr(importlib.import_module(module), name)
  # A user's module can raise anything, and a script may call sys.exit.
  except (Exception, SystemExit) as e:
    missing = isinstance(e, ModuleNotFoundError) and f"{module}.".startswith(
      f"{e.name}.")
    raise error(field, path, f"cannot be imported: {said(e)}" + (
      ". Is the folder of the module on PYTHONPATH?" if missing else "")
      ) from e


def function(path: str, field: str) -> Callable[..., Any]:
  """Imports a function whose arguments are known; see `load`."""
  found = load(path, field)
  try:
    inspect.signature(found)
  except (TypeError, ValueError):  # not callable, or one of some builtins
    raise strict.ConfigError(
      field, path, f"must be a function, got {type(found).__name__}") from None
  return found


def said(error: BaseException) -> str:
  """An error of a user's code in one line: type, message, and file:line."""
  text = str(error).strip().partition("\n")[0]
  lines = [f"{frame.filename}:{frame.lineno}"
           for frame in traceback.extract_tb(error.__traceback__)
           if not frame.filename.startswith(("<", *_LIBRARIES))]
  where = f" ({lines[-1]})" if lines else ""
  short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
  return f"{type(error).__name__}: {short}{where}"
