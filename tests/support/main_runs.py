"""`dlrl train` in the tests' own process."""

import sys

import own_flags
import pytest
import runs

from dlrl import main
from dlrl.run import step_log
from dlrl.runtime import mesh as mesh_lib

STEPS = 4
# Of runs without fine-tuning, whose few steps take a second.
SHORT = {"sft.steps": 0, "rollout.rewards": "('many_rewards:spelled',)",
          "steps": STEPS, "checkpoint_every": 2,
         "eval.every": 2, "eval.size": 8, "eval.batch_size": 8}


def start(workdir, data_dir, prompt_file="", changes=None,
          config_file=f"{runs.ROOT}/configs/bgpo.py:smoke"):
  """`dlrl train` in this process, whose devices cannot be split again."""
  values = runs.TINY | SHORT | (changes or {}) | {
    "task.data_dir": data_dir, "task.prompt_file": prompt_file}
  typed = [f"--config.{name}={value}" for name, value in values.items()]
  with (pytest.MonkeyPatch.context() as patch,
        own_flags.of("train") as parsed):
    # ml_collections looks there for settings.
    patch.setattr(sys, "argv", ["dlrl", f"--config={config_file}", *typed])
    patch.setattr(mesh_lib, "split_cpu", lambda *args: None)
    parsed(sys.argv)
    main.run(config_file, str(workdir))


def killed(step, *args):
  """The same, ended when `step` has been computed but not logged."""
  real = step_log.StepLog.begin

  def begin(self, now, *more):
    if now == step:
      raise KeyboardInterrupt
    real(self, now, *more)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step_log.StepLog, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
      start(*args)
