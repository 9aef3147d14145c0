"""`dlrl config --config=FILE.py[:PRESET] [--config.NAME=VALUE]`.

Prints every setting of a run, and what is wrong with them; starts nothing. A
setting that differs from its default is followed by the default. What depends
on files and devices is checked when the run starts. Exit codes: 0 no problem
found; 2 the settings cannot work.
"""

from collections.abc import Iterator

import ml_collections
from absl import flags

from dlrl import config
from dlrl import strict
from dlrl import validate
from dlrl.run import command
from dlrl.runtime import terminal
from dlrl.strict import nested


def lines(values: ml_collections.ConfigDict) -> Iterator[str]:
  """`NAME = VALUE` for each setting, with the default if it is another."""
  defaults = {name: value for name, _, value in strict.knobs(config.Config())}
  found = dict(nested.flat(values.to_dict(), defaults))
  for name in [*(name for name in defaults if name in found),
               *(name for name in found if name not in defaults)]:
    value, default = found[name], defaults.get(name, found[name])
    yield f"{name} = {value!r}" + (
      f"  # default {default!r}" if value != default else "")


def run() -> None:
  """Prints and checks the config that the flags name.

  Raises:
    strict.ConfigError: all that is wrong with the settings.
  """
  values = flags.FLAGS.config
  terminal.show("\n".join(lines(values)))
  validate.from_dict(values)
  terminal.show("dlrl: no problem found", error=True)


if __name__ == "__main__":
  command.start(
    "config", lambda args: run(), errors=(strict.ConfigError,),
    check=lambda problems: validate.check_each(flags.FLAGS.config, problems))
