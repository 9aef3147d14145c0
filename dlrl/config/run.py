"""One run: all sections, and how its process is watched."""

import dataclasses

import ml_collections

from dlrl.config.evaluation import EvalConfig
from dlrl.config.evaluation import EvaluationConfig
from dlrl.config.kinds import Restart
from dlrl.config.model import NO_LORA
from dlrl.config.model import LoraConfig
from dlrl.config.model import MeshConfig
from dlrl.config.model import ModelConfig
from dlrl.config.task import TaskConfig
from dlrl.config.training import LearnConfig
from dlrl.config.training import RolloutConfig
from dlrl.config.training import SftConfig
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
  """When a process that makes no progress is ended, with exit code 43.

  Each kind of work (steps, evaluations, checkpoints) is compared with earlier
  work of the same kind.
  """

  times: float = knob(
    10.0, "longest duration, as a multiple of the median so far; 0: never ends "
    "the process", at_least=0, restart=Restart.FREE)
  least_seconds: float = knob(
    600.0, "allowed whatever the median", unit="s", above=0,
    restart=Restart.FREE)
  first_seconds: float = knob(
    7200.0, "allowed for the first of its kind, which compiles", unit="s",
    above=0, restart=Restart.FREE)


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """A trace of some RL steps, written to the workdir's `profile/`."""

  steps: str = knob(
    "", "first and last step, such as '10-12'; '': no trace",
    restart=Restart.FREE)


@dataclasses.dataclass(frozen=True)
class Config:
  """One run."""

  job: str = knob(
    "rl", "rl, after fine-tuning by `sft`; or only that fine-tuning",
    choices=("rl", "sft"))
  seed: int = knob(
    0, "all randomness of the run derives from it", at_least=0,
    at_most=2**32 - 1)
  steps: int = knob(
    100, "length of the run: each step is a rollout, its rewards and its "
    "updates", unit="RL steps", at_least=1, restart=Restart.LENGTH)
  checkpoint_every: int = knob(
    20, "interval of checkpoints", unit="RL steps", at_least=1,
    restart=Restart.FREE)
  checkpoint_keep: int = knob(
    2, "newest checkpoints kept", at_least=1, restart=Restart.FREE)
  max_nonfinite: int = knob(
    5, "updates skipped in a row for NaN or infinity before the run fails",
    at_least=1, restart=Restart.FREE)
  pretrained: str = knob(
    "", "directory of a published checkpoint, also gs://BUCKET/PATH, or its "
    "name on the Hub, ORG/NAME[@REVISION]; '': random parameters")
  family: str = knob(
    "", "model family of pretrained, your own as 'package.module:name'; '': by "
    "the model_type in its config.json")
  init_from: str = knob(
    "", "workdir of a run to start from, also in a bucket: DIR for its newest "
    "checkpoint or DIR@STEP; '': sft")
  log_every: int = knob(
    1, "interval of progress lines where the output is no terminal",
    unit="RL steps", at_least=1, restart=Restart.FREE)
  sample_every: int = knob(
    20, "interval of tables of completions with their rewards",
    unit="RL steps", at_least=1, restart=Restart.FREE)
  wandb: str = knob(
    "", "project of Weights & Biases to log to; '': none", restart=Restart.FREE)
  task: TaskConfig = TaskConfig()
  model: ModelConfig = ModelConfig()
  lora: LoraConfig = NO_LORA
  mesh: MeshConfig = MeshConfig()
  sft: SftConfig = SftConfig()
  rollout: RolloutConfig = RolloutConfig()
  learn: LearnConfig = LearnConfig()
  eval: EvalConfig = EvalConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  watchdog: WatchdogConfig = WatchdogConfig()
  profile: ProfileConfig = ProfileConfig()


def default() -> ml_collections.ConfigDict:
  """The default settings, to be changed by a config file."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))
