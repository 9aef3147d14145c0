"""Tiny training runs, in this process or in a child process."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from configs import bgpo
from dlrl import strict
from dlrl import train
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.run import step_log
from dlrl.storage import checkpoint
from dlrl.storage import metrics

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
  "model.width": 16, "model.layers": 1, "model.heads": 2, "model.kv_heads": 2,
  "model.head_dim": 8, "model.mlp_width": 16, "sft.steps": 120,
  "sft.log_every": 30, "sft.checkpoint_every": 40, "sft.batch_size": 16,
  "steps": 6, "checkpoint_every": 2, "rollout.rewards": ("units",),
  "rollout.prompts": 4, "rollout.group_size": 4, "learn.n_mc": 2,
  "learn.micro_batch": 8, "eval.size": 16,
  "eval.batch_size": 16, "eval.every": 3, "sample_every": 2,
  # Without a schedule the program does not depend on the number of steps, so
  # that runs of different lengths share it.
  "learn.optimizer.schedule": "constant", "learn.optimizer.warmup_steps": 0,
}


def tiny(data_dir, **changes):
  cfg = bgpo.get_config("smoke")
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  cfg.learn.loss_args = changes.pop("learn.loss_args", {})
  cfg.update_from_flattened_dict(
    TINY | changes | {"task.data_dir": data_dir})
  return validate.from_dict(cfg)


def run_here(cfg, workdir):
  """Runs the job in this process; (seconds per phase, `timeless` rows)."""
  workdir.mkdir(exist_ok=True)
  setup = setup_lib.make(cfg)
  with jax.set_mesh(setup.mesh):
    seconds = train.train(setup, workdir)
  return seconds, timeless(workdir)


def cut(cfg, workdir, monkeypatch, step=4):
  """Runs the job here until `step` has been computed but not logged."""
  real = step_log.StepLog.begin

  def begin(self, now, *args):
    if now == step:
      raise KeyboardInterrupt
    real(self, now, *args)

  with monkeypatch.context() as patch:
    patch.setattr(step_log.StepLog, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
      run_here(cfg, workdir)


def timeless(workdir):
  """The rows of the log without measured times, rates and memory."""
  measured = ("time/", "speed/", "memory/")
  return [{k: v for k, v in row.items() if not k.startswith(measured)}
          for row in metrics.rows(workdir)]


def command(workdir, data_dir, *more):
  flags = [f"--config.{k}={v}" for k, v in TINY.items()]
  return [sys.executable, "-m", "dlrl.main", "--config=configs/bgpo.py:smoke",
          f"--workdir={workdir}", f"--config.task.data_dir={data_dir}",
          *flags, *more]


def free_port():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def start(environment, *args):
  return subprocess.Popen(
    command(*args), cwd=ROOT, env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def params_of(workdir):
  """The parameters of the newest checkpoint."""
  cfg = json.loads((workdir / "config.json").read_text())
  setup = setup_lib.make(strict.build(validate.config.Config, cfg))
  return checkpoint.load_params(
    workdir / "checkpoints", setup.abstract_params())
