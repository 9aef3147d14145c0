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
    "read it: a directory, or a name on the Hub, ORG/NAME[@REVISION]", values)
  flags.DEFINE_bool(
    "adapter", False, "write only the adapter, in PEFT's format", values)
  flags.DEFINE_string(
    "push", "", "repository on the Hub to upload the result to, ORG/NAME, "
    "after a question on the terminal", values)
  flags.DEFINE_enum(
    "push_as", "", ["", "private", "public"], "answers the question of --push, "
    "for scripts: uploads if the repository is that, or is new and can be made "
    "so; without it a new one is private", values)
