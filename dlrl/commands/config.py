"""Flags of `dlrl config`, and `--config` for other commands."""

from absl import flags
from ml_collections import config_flags

from dlrl.presets import names


def define(values: flags.FlagValues, *, required: bool = True) -> None:
  """Defines the flags; without `required`, `--config` may be left out."""
  config_flags.DEFINE_config_file(
    "config", None, "a config file, FILE.py or FILE.py:PRESET, or one of "
    f"dlrl's by its name: {', '.join(names.shipped())}", values,
    lock_config=True)
  if required:
    flags.register_validator(
      "config", lambda value: value is not None, "name a config file, or one "
      f"of dlrl's: {', '.join(names.shipped())}", values)
