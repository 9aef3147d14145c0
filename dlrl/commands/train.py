"""Flags of `dlrl train`."""

from absl import flags

from dlrl.commands import config
from dlrl.commands import processes


def define(values: flags.FlagValues) -> None:
  """Defines the flags."""
  config.define(values)
  flags.DEFINE_string(
    "workdir", None, "directory for checkpoints, metrics and plots, also "
    "gs://BUCKET/PATH; default: "
    "runs/ and the name of the config file and preset", values)
  flags.DEFINE_bool(
    "deterministic", False, "kernels for GPUs that give the same bits in every "
    "run, at some speed; see docs/reproducibility.md", values)
  flags.DEFINE_string(
    "compile_only", None, "devices to compile for, without running: v5e-64, "
    "v5p-32, v6e-8, 7x-16, 2xv5e-16, h100-8, gpu, cpu-8; see "
    "docs/compile_only.md", values)
  flags.DEFINE_string(
    "json", None, "file for the figures of --compile_only", values)
  processes.define(values)
