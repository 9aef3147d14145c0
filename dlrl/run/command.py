"""Starts a program: parses its flags, turns users' errors into clear lines."""

import difflib
import functools
import itertools
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app
from absl import flags
from absl import logging
from huggingface_hub import utils as hub_utils

from dlrl import commands
from dlrl import config
from dlrl import strict
from dlrl.buckets import objects
from dlrl.commands import help as help_lib
from dlrl.presets import names
from dlrl.runtime import parent_process
from dlrl.runtime import preemption
from dlrl.runtime import processes
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


def start(name: str, main: Callable[[list[str]], object], *,
          check: Check | None = None,
          errors: tuple[type[Exception], ...] = _MENDABLE,
          interrupted: str = "interrupted") -> None:
  """Calls `main` with the arguments that are not flags, and ends the process.

  Exit codes: 0, also after `--help`; 2 if flags, settings or files cannot work,
  after a line that says which; 42 if a `preemption.Notice` told it to stop; 44
  if a bucket cannot be used any more; 130 if interrupted.

  Args:
    name: of the command, a key of `commands.PROGRAMS`; its flags are defined.
    main: the program.
    check: adds what is wrong with single settings; called only if flags are
      wrong, so that both are reported together.
    errors: exceptions of `main` that users can mend; others keep their
      traceback.
    interrupted: printed after Ctrl-C.
  """
  sys.excepthook = terminal.show_traceback
  if help_lib.asked(sys.argv):
    terminal.show(help_lib.text(name))
    return
  commands.define(name)
  app.run(functools.partial(_run, main, errors, interrupted),
          flags_parser=functools.partial(parse, check=check))


def _run(main: Callable[[list[str]], object],
         errors: tuple[type[Exception], ...], interrupted: str,
         argv: list[str]) -> None:
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # or every save prints a page
  if not sys.stderr.isatty():
    hub_utils.disable_progress_bars()  # a file would have each state of theirs
  try:
    main(argv[1:])
  except objects.BucketError as e:
    sys.exit(say_error(str(e), parent_process.LOST))
  except errors as e:
    processes.leave(say_error(str(e), 2))
  except preemption.Preempted:
    processes.leave(
      say_error(f"told to stop; {CONTINUES}", preemption.EXIT_CODE))
  except KeyboardInterrupt:
    processes.leave(say_error(interrupted, INTERRUPTED))
  except Exception as e:
    processes.fail(e)


def join() -> None:
  """Joins the processes that the flags tell of; only the first prints then.

  Call this before JAX creates its devices. The flags are those of
  `commands.processes`.

  Raises:
    strict.FlagError: a flag is missing or invalid.
  """
  options = flags.FLAGS
  processes.start(processes.Job(
    detect=options.distributed, coordinator=options.coordinator,
    processes=options.num_processes, process=options.process_id,
    timeout=options.peer_timeout))
  if not processes.first():
    terminal.mute()


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
    rest = flags.FLAGS(with_path(kept))
    if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
      _ = flags.FLAGS["config"].value.is_locked  # raises if it was not found
    if problems.found and check:
      check(problems)
    problems.finish()
    return rest
  except strict.ConfigError as e:
    text = str(e)
  except Exception as e:  # a config file is code and may raise anything
    text = "\n  ".join(map(str, [*problems.found, _explained(kept, e)]))
  sys.exit(say_error(text, 2))


def with_path(argv: list[str]) -> list[str]:
  """The arguments with the path of the config file in place of its name."""
  argv = list(argv)
  for i, arg in enumerate(argv):
    flag, given, value = arg.partition("=")
    if flag in ("--config", "-config") and given:
      argv[i] = f"{flag}={names.resolve(value)}"
    elif i and argv[i - 1] in ("--config", "-config"):
      argv[i] = names.resolve(arg)
  return argv


def _explained(argv: list[str], error: Exception) -> Exception:
  """`error` as one about what the user typed, if the config is to blame.

  ml_collections reports a file that it cannot run by a traceback, and a setting
  that the file does not have by its last name alone.
  """
  typed = dict(arg[2:].partition("=")[::2] for arg in argv
               if arg.startswith("--"))
  for name, value in typed.items():
    section, _, key = name.removeprefix("config.").rpartition(".")
    if isinstance(error, AttributeError | KeyError) and f"'{key}'" in str(
        error):
      return strict.ConfigError(
        f"{section}.{key}", value, "the config file sets no such argument; "
        f"name all of them: --config.{section}=\"{{'{key}': {value}}}\"")
  cause: BaseException = error
  while (deeper := cause.__cause__ or cause.__context__) is not None:
    cause = deeper
  given = typed.get("config") or next(
    (b for a, b in itertools.pairwise(argv) if a == "--config"), "")
  path = names.resolve(given).partition(":")[0]
  if path and not pathlib.Path(path).is_file():
    near = names.nearest(path)
    return strict.FlagError("config", given, "there is no such file" + (
      f"; did you mean {' or '.join(map(repr, near))}?" if near else ""))
  where = [f"line {frame.lineno}"
           for frame in traceback.extract_tb(cause.__traceback__)
           if path and frame.filename.endswith(path)]
  said = str(cause).partition("\n")[0]
  if isinstance(cause, SyntaxError):
    said, where = cause.msg, [f"line {cause.lineno}"]
  if not where:
    return error
  if not isinstance(cause, ValueError):  # raised for users, or by a mistake
    said = f"{type(cause).__name__}: {said}"
  return strict.FlagError("config", given, f"{said} ({path}, {where[-1]})")


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
