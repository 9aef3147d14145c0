"""`dlrl train --config=FILE.py[:PRESET] [--workdir=DIR]`.

Starts the job that the config describes, or continues it where it was
interrupted. FILE.py is a config file, or the name of one of dlrl's: `bgpo`. The
default `--workdir` is `runs/FILE` or `runs/FILE_PRESET`.
With `--compile_only=v5e-64` nothing runs; it reports whether the job fits such
devices, which need not be present.

Exit codes: 0 finished; 1 failed; 2 flags, config or workdir cannot work; 42
stopped by SIGTERM, to be started again; 43 ended by the watchdog; 44 another
process of the job has ended; 130 interrupted.

A job of several processes is this command in each of them, on as many hosts as
needed: with `--distributed` where the system tells which process is which, and
elsewhere with `--coordinator`, `--num_processes` and `--process_id`.
"""

import contextlib
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from dlrl import compile_only
from dlrl import config
from dlrl import rollout
from dlrl import sft
from dlrl import strict
from dlrl import train
from dlrl import validate
from dlrl.buckets import objects
from dlrl.evaluation import held_out
from dlrl.run import command
from dlrl.run import going_on
from dlrl.run import hub_commits
from dlrl.run import setup as setup_lib
from dlrl.run import summary as summary_lib
from dlrl.runtime import compile_cache
from dlrl.runtime import gpu
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import parent_process
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.storage import checkpoint
from dlrl.storage import disk_errors
from dlrl.storage import output_paths
from dlrl.storage import workdir as workdir_lib
from dlrl.tasks import reward_calls

JOBS = {"rl": train.train, "sft": sft.main}
# Each job runs these checks of its rows before anything begins.
CHECKS: dict[str, tuple[Callable[[setup_lib.Setup], None], ...]] = {
  "rl": (sft.check, rollout.check, held_out.check),
  "sft": (sft.check, held_out.check)}


def default_workdir(config_file: str) -> str:
  """`runs/NAME` for `DIR/NAME.py`, `runs/NAME_PRESET` with a preset."""
  path, _, preset = config_file.partition(":")
  name = pathlib.PurePath(path).stem + (f"_{preset}" if preset else "")
  return "runs/" + re.sub(r"[^\w.-]", "_", name)


def run(config_file: str, workdir: str) -> None:
  """Does what the flags say.

  Args:
    config_file: as given, for messages.
    workdir: directory of the run.

  Raises:
    strict.ConfigError: before anything is allocated or overwritten.
  """
  options = flags.FLAGS
  if options.deterministic:
    gpu.deterministic()
  if options.compile_only:
    progress.say(f"dlrl: {config_file}")
    cfg = validate.from_dict(options.config)
    if not compile_only.main(cfg, options.compile_only, options.json):
      sys.exit(2)
    return
  progress.say(f"dlrl: {config_file}, workdir {workdir}")
  problems = strict.Problems()
  problems.require(not options.json, "json", options.json,
                   "works only with --compile_only", strict.FlagError)
  with problems.catch():
    root = output_paths.path("workdir", workdir)
    hub_commits.keep(options.config, root)
  with problems.catch():
    cfg = validate.from_dict(options.config)
  problems.finish()
  mesh_lib.split_cpu(cfg.mesh.cpu_devices, processes.joined())
  gpu.take(cfg.mesh.gpu_memory)
  cfg = hub_commits.fixed(_going_on(cfg, root))
  setup = setup_lib.make(cfg)
  if not going_on.finished(cfg, summary_lib.read(root)):
    _check_rows(setup)  # before the workdir is bound to the config
  with contextlib.ExitStack() as stack:

    def claim() -> dict[str, Any] | None:
      claimed = stack.enter_context(workdir_lib.claim(
        workdir, strict.to_json(cfg), going_on.free(cfg),
        strict.to_json(config.Config())))
      summary = summary_lib.read(claimed.path)
      if going_on.finished(cfg, summary):
        return summary
      going_on.begin(claimed, cfg, summary)
      return None

    summary = processes.by_first(claim)
    if summary is None:
      summary = _work(setup, root)
    else:
      progress.say(f"the run in {root} is finished; for another one choose "
                   "another --workdir")
    terminal.write(summary_lib.table(summary))


def _going_on(cfg: config.Config, root: pathlib.Path) -> config.Config:
  """`cfg` as the run in `root`, if there is one, can go on with it."""
  found = processes.by_first(lambda: going_on.recorded(root))
  typed = config_flags.get_override_values(flags.FLAGS["config"])
  values = going_on.newer(cfg, found, typed)
  if not values:
    return cfg
  completed = flags.FLAGS.config.copy_and_resolve_references()
  completed.update_from_flattened_dict(values)
  return validate.from_dict(completed)


def _check_rows(setup: setup_lib.Setup) -> None:
  """Raises `strict.ConfigError` for examples or rewards that cannot be used."""
  problems = strict.Problems()
  for check in CHECKS[setup.cfg.job]:
    with problems.catch():
      check(setup)
  problems.finish()


def _work(setup: setup_lib.Setup, workdir: pathlib.Path) -> dict[str, Any]:
  """Runs the job to its end; returns its summary."""
  cfg, devices = setup.cfg, jax.devices()
  progress.say(
    f"{cfg.job} of {cfg.task.name} on {len(devices)} x "
    f"{devices[0].device_kind}, mesh {dict(setup.mesh.shape)}, "
    f"{processes.joined()} process(es)")
  compile_cache.keep(workdir / "compiled")
  setup.start_graders()
  with jax.set_mesh(setup.mesh):
    seconds = JOBS[cfg.job](setup, workdir)
  return processes.by_first(lambda: summary_lib.write(cfg, workdir, seconds))


def main(argv: list[str]) -> None:
  """Joins the other processes and runs; each way to end has its exit code."""
  del argv
  options = flags.FLAGS
  config_file = config_flags.get_config_filename(options["config"])
  workdir = (default_workdir(config_file) if options.workdir is None
             else options.workdir)
  try:
    command.join()
    with preemption.Notice():
      run(config_file, workdir)
  except strict.ConfigError as e:
    processes.leave(command.say_error(str(e), 2))
  except (checkpoint.Damaged, checkpoint.OtherModel) as e:
    processes.leave(command.say_error(
      f"--workdir={workdir}: {e}. Put a checkpoint back that can be read, or "
      "start again in another --workdir", 2))
  except reward_calls.RewardError as e:
    processes.leave(command.say_error(str(e), 1))
  except preemption.Preempted as e:
    processes.leave(command.say_error(
      f"told to stop: {e}; the same command continues", preemption.EXIT_CODE))
  except KeyboardInterrupt:
    processes.leave(command.say_error(
      "interrupted; the same command continues", command.INTERRUPTED))
  except Exception as e:
    trouble = disk_errors.of_bucket(e)
    if trouble is not None:
      processes.leave(command.say_error(
        f"{trouble}; the same command continues", parent_process.LOST))
    known = disk_errors.explain(
      e, tempfile.gettempdir() if objects.named(workdir) else workdir)
    if known is None:
      processes.fail(e)
    processes.leave(command.say_error(known, 1))


if __name__ == "__main__":
  progress.show_compilations()
  command.start(
    "train", main, errors=(),
    check=lambda problems: validate.check_each(flags.FLAGS.config, problems))
