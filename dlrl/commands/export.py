"""Flags of `dlrl export`."""

from absl import flags


def define(values: flags.FlagValues) -> None:
  """Defines the flags."""
  flags.DEFINE_string(
    "workdir", None, "directory of a run", values, required=True)
  flags.DEFINE_string(
    "out", None, "directory to write; must not exist", values, required=True)
  flags.DEFINE_string(
    "source", "", "the published checkpoint, if it is no longer where the run "
    "read it", values)
  flags.DEFINE_bool(
    "adapter", False, "write only the adapter, in PEFT's format", values)
