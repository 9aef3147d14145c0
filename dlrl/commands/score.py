"""Flags of `dlrl score`."""

from absl import flags


def define(values: flags.FlagValues) -> None:
  """Defines the flags."""
  flags.DEFINE_enum(
    "task", None, ["countdown", "sudoku", "gsm8k", "math500"],
    "what the generations answer", values, required=True)
  flags.DEFINE_enum(
    "scorer", "sound", ["sound", "legacy_d1", "legacy_spg"],
    "whose rules decide what is right", values)
