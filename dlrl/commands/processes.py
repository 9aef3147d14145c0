"""Flags of commands that several processes run together."""

from absl import flags


def define(values: flags.FlagValues) -> None:
  """Defines the flags, which `dlrl.run.command.join` reads."""
  flags.DEFINE_bool(
    "distributed", False, "this is one of several processes; SLURM, GKE, the "
    "TPU VM or Open MPI tells which", values)
  flags.DEFINE_string(
    "coordinator", "", "HOST:PORT on which process 0 of several listens",
    values)
  flags.DEFINE_integer(
    "num_processes", 0, "processes of the job", lower_bound=0,
    flag_values=values)
  flags.DEFINE_integer(
    "process_id", -1, "number of this process, from 0", lower_bound=-1,
    flag_values=values)
  flags.DEFINE_integer(
    "peer_timeout", 60, "seconds without a sign of life after which a process "
    "counts as dead", lower_bound=1, flag_values=values)
