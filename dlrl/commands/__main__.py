"""`dlrl`, or `python -m dlrl.commands`: runs the program of a command."""

import difflib
import os
import runpy
import sys

import dlrl
from dlrl import commands
from dlrl.commands import help as help_lib
from dlrl.runtime import terminal


def main() -> None:
  """Runs `dlrl COMMAND ...`; exits with code 2 if there is no such command."""
  command, *arguments = sys.argv[1:] or ["--help"]
  if command in help_lib.ASKED:
    terminal.show(help_lib.overview())
  elif command == "--version":
    terminal.show(dlrl.__version__)
  elif command not in commands.PROGRAMS:
    near = difflib.get_close_matches(command, commands.PROGRAMS, 1)
    terminal.show(f"dlrl: {command!r} is no command; " + (
      f"did you mean {near[0]!r}?" if near
      else f"choose from {', '.join(commands.PROGRAMS)}"), error=True)
    sys.exit(2)
  elif help_lib.asked(arguments):
    terminal.show(help_lib.text(command))
  else:
    # As `python -m` does: users' rewards are modules in this directory.
    sys.path.insert(0, os.getcwd())
    sys.argv = [f"dlrl {command}", *arguments]
    runpy.run_module(
      commands.PROGRAMS[command], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
