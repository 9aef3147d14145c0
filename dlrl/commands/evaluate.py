"""Flags of `dlrl evaluate`."""

from absl import flags

from dlrl.commands import config
from dlrl.commands import processes


def define(values: flags.FlagValues) -> None:
  """Defines the flags, with `--config` unless it is defined already."""
  if "config" not in values:
    config.define(values, required=False)
  flags.DEFINE_string("workdir", "", "directory of a run", values)
  flags.DEFINE_string(
    "checkpoint", "latest", "step of a checkpoint of the run, 'latest', or "
    "'best' by the accuracy on the run's held-out split", values)
  flags.DEFINE_string(
    "model", "", "directory of a published model, or its name on the Hub, "
    "ORG/NAME[@REVISION]", values)
  flags.DEFINE_string(
    "out", "", "directory for the results; default: WORKDIR/evaluation",
    values)
  flags.DEFINE_enum(
    "protocol", "", ["", "d1", "spg", "espo", "bgpo"],
    "evaluation protocol of a paper; overrides the config", values)
  flags.DEFINE_string(
    "prompt_file", "", "prompt template: a text file, or chat messages as JSON",
    values)
  processes.define(values)
