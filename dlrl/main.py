"""`python -m dlrl.main --config=configs/FILE.py[:PRESET] --workdir=DIR`.

Starts the job that the config describes, or continues it where it was
interrupted. With `--compile_only=v5e-64` it says instead whether the job fits
such devices, which need not be there. Exit codes: 0 finished, 1 failed, 2 the
config or workdir cannot work, 42 told to stop (SIGTERM) and to be started
again, 43 ended by the watchdog, 44 another process of the job has ended, 130
interrupted.

A job of several processes is this command in each of them, on as many hosts as
need be, with `--distributed` where the system says which process is which, or
with `--coordinator --num_processes --process_id` elsewhere.
"""

import contextlib
import pathlib
import sys

import jax
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from dlrl import compile_only
from dlrl import config
from dlrl import sft
from dlrl import strict
from dlrl import train
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.run import summary as summary_lib
from dlrl.runtime import compile_cache
from dlrl.runtime import goodput
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.storage import disk_errors
from dlrl.storage import workdir as workdir_lib

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "file of a method, with its preset after a colon",
  lock_config=True)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "directory of this run: checkpoints, metrics, plots")
_COMPILE_ONLY = flags.DEFINE_string(
  "compile_only", None, "devices to compile for, without running: v5e-64, "
  "v5p-32, v6e-8, 7x-16, 2xv5e-16, gpu, cpu-8; see docs/compile_only.md")
_JSON = flags.DEFINE_string(
  "json", None, "file for the figures of --compile_only")

_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False,
  "one of several processes, as SLURM, GKE, TPU VMs or Open MPI say which")
_COORDINATOR = flags.DEFINE_string(
  "coordinator", "", "HOST:PORT on which process 0 of several listens")
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", 0, "of the job", lower_bound=0)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "of this process, from 0", lower_bound=-1)
_PEER_TIMEOUT = flags.DEFINE_integer(
  "peer_timeout", 60,
  "seconds without a sign of life after which a process counts as dead",
  lower_bound=1)

JOBS = {"rl": train.train, "sft": sft.main}


def run() -> None:
  """Does what the flags say.

  Raises:
    strict.ConfigError: before anything is allocated or overwritten.
  """
  progress.say("dlrl: reading the config")
  cfg = validate.from_dict(_CONFIG.value)
  if _COMPILE_ONLY.value:
    if not compile_only.main(cfg, _COMPILE_ONLY.value, _JSON.value):
      sys.exit(2)
    return
  if _JSON.value:
    raise strict.FlagError("json", _JSON.value, "goes with --compile_only")
  mesh_lib.split_cpu(cfg.mesh.cpu_devices, processes.joined())
  setup = setup_lib.make(cfg)
  with contextlib.ExitStack() as stack:

    def claim():
      claimed = stack.enter_context(workdir_lib.claim(
        str(_WORKDIR.value), strict.to_json(cfg), config.OPERATIONS))
      summary = summary_lib.read(claimed.path)
      if summary is None:
        goodput.start(claimed.path)
      return [str(claimed.path), summary]

    path, summary = processes.by_first(claim)
    workdir = pathlib.Path(path)
    if summary is not None:
      progress.say(f"the run in {workdir} is finished; for another one "
                   "take another --workdir")
    else:
      devices = jax.devices()
      progress.say(
        f"{cfg.job} of {cfg.task.name} on {len(devices)} x "
        f"{devices[0].device_kind}, mesh {dict(setup.mesh.shape)}, "
        f"{processes.joined()} process(es), workdir {workdir}")
      compile_cache.keep(workdir / "compiled")
      setup.start_graders()
      with jax.set_mesh(setup.mesh):
        seconds = JOBS[cfg.job](setup, workdir)
      summary = processes.by_first(
        lambda: summary_lib.write(cfg, workdir, seconds))
    if processes.first():
      print(summary_lib.table(summary), flush=True)


def main(argv: list[str]) -> None:
  """Runs, and turns what users cause into one clear line."""
  del argv
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # or every save prints a page
  try:
    processes.start(processes.Job(
      detect=_DISTRIBUTED.value, coordinator=_COORDINATOR.value,
      processes=_NUM_PROCESSES.value, process=_PROCESS_ID.value,
      timeout=_PEER_TIMEOUT.value))
    if not processes.first():
      progress.mute()
    with preemption.Notice():
      run()
  except strict.ConfigError as e:
    processes.leave(_say_error(str(e), 2))
  except preemption.Preempted as e:
    processes.leave(_say_error(
      f"told to stop: {e}; the same command continues", preemption.EXIT_CODE))
  except KeyboardInterrupt:
    processes.leave(_say_error("interrupted; the same command continues", 130))
  except Exception as e:
    known = disk_errors.explain(e, str(_WORKDIR.value))
    if known is None:
      processes.fail(e)
    processes.leave(_say_error(known, 1))


def _say_error(text: str, code: int) -> int:
  print(f"dlrl: {text}", file=sys.stderr, flush=True)
  return code


def any_given(values: dict[str, str | None]) -> bool:
  """Whether one of several flags has a value."""
  return any(values.values())


def parse(argv: list[str]) -> list[str]:
  """Parses flags; a mistake in them is one line and exit code 2, too."""
  try:
    for arg in argv[1:]:
      if arg.startswith("--config."):
        # ml_collections would raise a bare AttributeError.
        path, _, value = arg.removeprefix("--config.").partition("=")
        strict.find(config.Config, path, value)
    return flags.FLAGS(argv)
  except (strict.ConfigError, flags.Error, OSError, ImportError) as e:
    sys.exit(_say_error(str(e), 2))


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  flags.register_multi_flags_validator(
    ["workdir", "compile_only"], any_given, "Flag --workdir must have a value, "
    "or --compile_only.")
  app.run(main, flags_parser=parse)
