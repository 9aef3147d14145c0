"""`dlrl fit --config=FILE.py[:PRESET] --devices=v5e-64 [--json=FILE]`.

Compiles the programs of a run for devices that need not be present, without
running them. Prints the memory that each needs, its work and least times, and
settings that may help if it does not fit: `docs/compile_only.md`. The same as
`dlrl train --compile_only=v5e-64`. Exit codes: 0 all fits as far as known; 2 it
does not, or flags or settings cannot work.
"""

import sys

from absl import flags

from dlrl import compile_only
from dlrl import strict
from dlrl import validate
from dlrl.run import command
from dlrl.runtime import progress


def run() -> None:
  """Compiles as the flags say.

  Raises:
    strict.ConfigError: a flag or a setting is invalid.
  """
  options = flags.FLAGS
  cfg = validate.from_dict(options.config)
  if not compile_only.main(
      cfg, options.devices, options.json, flag="devices"):
    sys.exit(2)


if __name__ == "__main__":
  progress.show_compilations()
  command.start(
    "fit", lambda args: run(), errors=(strict.ConfigError,),
    check=lambda problems: validate.check_each(flags.FLAGS.config, problems))
