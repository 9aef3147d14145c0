"""Flags of `dlrl fit`."""

from absl import flags

from dlrl.commands import config


def define(values: flags.FlagValues) -> None:
  """Defines the flags."""
  config.define(values)
  flags.DEFINE_string(
    "devices", None, "what to compile for: v5e-64, v5p-32, v6e-8, 7x-16, "
    "2xv5e-16, h100-8, gpu, cpu-8; see docs/compile_only.md", values,
    required=True)
  flags.DEFINE_string("json", None, "file for the figures", values)
