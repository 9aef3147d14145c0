"""Starts a program: parses its flags, turns users' errors into clear lines."""

import difflib
import functools
import sys
from collections.abc import Callable
from typing import Any

from absl import app
from absl import flags
from absl import logging

from dlrl import config
from dlrl import strict
from dlrl.runtime import preemption
from dlrl.runtime import terminal

INTERRUPTED = 130  # exit code, as shells have it
CONTINUES = "the same command continues"
# How absl reads values of these types. Other types are checked with the config.
_PARSERS: dict[Any, flags.ArgumentParser[Any]] = {
  int: flags.IntegerParser(), float: flags.FloatParser(),
  bool: flags.BooleanParser()}
_OF_ABSL = ("flagfile", "undefok")  # flags that are not listed in FLAGS
_MENDABLE = (ValueError, FileNotFoundError, IsADirectoryError,
             NotADirectoryError, PermissionError)

Check = Callable[[strict.Problems], None]


def start(main: Callable[[list[str]], object], *, check: Check | None = None,
          errors: tuple[type[Exception], ...] = _MENDABLE,
          interrupted: str = "interrupted") -> None:
  """Calls `main` with the arguments that are not flags, and ends the process.

  Exit codes: 0; 2 if flags, settings or files cannot work, after a line that
  says which; 42 if a `preemption.Notice` told it to stop; 130 if interrupted.

  Args:
    main: the program.
    check: adds what is wrong with single settings; called only if flags are
      wrong, so that both are reported together.
    errors: exceptions of `main` that users can mend; others keep their
      traceback.
    interrupted: printed after Ctrl-C.
  """
  sys.excepthook = terminal.show_traceback
  app.run(functools.partial(_run, main, errors, interrupted),
          flags_parser=functools.partial(parse, check=check))


def _run(main: Callable[[list[str]], object],
         errors: tuple[type[Exception], ...], interrupted: str,
         argv: list[str]) -> None:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # or every save prints a page
  try:
    main(argv[1:])
  except errors as e:
    sys.exit(say_error(str(e), 2))
  except preemption.Preempted:
    sys.exit(say_error(f"told to stop; {CONTINUES}", preemption.EXIT_CODE))
  except KeyboardInterrupt:
    sys.exit(say_error(interrupted, INTERRUPTED))


def say_error(text: str, code: int) -> int:
  """Prints `text` to stderr and returns `code`."""
  terminal.show(f"dlrl: {text}", error=True)
  return code


def parse(argv: list[str], check: Check | None = None) -> list[str]:
  """Parses the flags, or reports all that are wrong and exits with code 2."""
  problems = strict.Problems()
  bare = "config" in flags.FLAGS and flags.FLAGS["config"].value is None and (
    not any(arg.partition("=")[0] in ("--config", "-config") for arg in argv))
  kept = [arg for arg in argv if possible(arg, problems, bare)]
  if problems.found:
    sys.argv = kept  # where ml_collections looks for settings
  try:
    rest = flags.FLAGS(kept)
    if problems.found and check:
      check(problems)
    problems.finish()
    return rest
  except strict.ConfigError as e:
    text = str(e)
  except (flags.Error, OSError, ImportError) as e:
    text = "\n  ".join([*map(str, problems.found), str(e)])
  sys.exit(say_error(text, 2))


def possible(arg: str, problems: strict.Problems, bare: bool = False) -> bool:
  """Whether a flag is known and a value of its type; if not adds a problem.

  `bare`: there is no config whose settings could be changed.

  Here, because absl stops at the first wrong flag, and ml_collections raises a
  bare AttributeError for an unknown setting.
  """
  if not arg.startswith("--") or arg == "--":
    return True
  name, given, value = arg[2:].partition("=")
  with_config, _, path = name.partition("config.")
  if path and not with_config:
    with problems.catch():
      kind = strict.find(config.Config, path, value)
      strict.require(
        not bare, name, value, "changes a setting of --config=FILE, or of the "
        "run in --workdir=DIR; name one", strict.FlagError)
      if not given or kind not in _PARSERS:
        return True
      try:
        _PARSERS[kind].parse(value)
        return True
      except (ValueError, TypeError):
        problems.add(
          strict.ConfigError(path, value, f"expected {kind.__name__}"))
    return False
  known = [*flags.FLAGS, *_OF_ABSL]
  if name in known or name.removeprefix("no") in known or "." in name:
    return True
  near = difflib.get_close_matches(name, known, 1)
  problems.add(strict.FlagError(
    name, value, "unknown flag; " + (
      f"did you mean --{near[0]}?" if near else "--help lists the known ones")))
  return False
