"""The commands of `dlrl`: the program of each, its flags, and its help.

The flags of a command are in the module of its name, apart from the program,
which takes seconds to import: nothing here imports JAX, so that help is there
at once.
"""

import importlib

from absl import flags

PROGRAMS = {
  "train": "dlrl.main",
  "evaluate": "dlrl.evaluate",
  "chat": "dlrl.chat",
  "export": "dlrl.export",
  "score": "dlrl.score",
  "config": "dlrl.programs.check_config",
  "fit": "dlrl.programs.fit",
}


def define(command: str, values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a command, a key of `PROGRAMS`."""
  importlib.import_module(f"dlrl.commands.{command}").define(values)
