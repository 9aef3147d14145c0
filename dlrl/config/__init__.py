"""Every setting of a run: name, type, default, meaning, unit, bounds.

The files in `configs/` start from `default()`, a `ConfigDict` with the values
below, and change what their method needs, saying why. `validate.from_dict`
checks the result and turns it back into these dataclasses; `validate.settings`
lists them for the documentation.
"""

from dlrl.config.evaluation import EvalConfig
from dlrl.config.evaluation import EvaluationConfig
from dlrl.config.kinds import ALL
from dlrl.config.kinds import NO_KNOBS
from dlrl.config.kinds import SPLITS
from dlrl.config.kinds import Counts
from dlrl.config.kinds import Names
from dlrl.config.kinds import Range
from dlrl.config.kinds import Restart
from dlrl.config.kinds import Weights
from dlrl.config.model import NO_LORA
from dlrl.config.model import ExpertsConfig
from dlrl.config.model import LoraConfig
from dlrl.config.model import MeshConfig
from dlrl.config.model import ModelConfig
from dlrl.config.run import Config
from dlrl.config.run import ProfileConfig
from dlrl.config.run import WatchdogConfig
from dlrl.config.run import default
from dlrl.config.sampling import PriorConfig
from dlrl.config.sampling import SamplerConfig
from dlrl.config.task import TaskConfig
from dlrl.config.training import LearnConfig
from dlrl.config.training import OptimizerConfig
from dlrl.config.training import RolloutConfig
from dlrl.config.training import SftConfig

__all__ = [
  "ALL",
  "NO_KNOBS",
  "NO_LORA",
  "SPLITS",
  "Config",
  "Counts",
  "EvalConfig",
  "EvaluationConfig",
  "ExpertsConfig",
  "LearnConfig",
  "LoraConfig",
  "MeshConfig",
  "ModelConfig",
  "Names",
  "OptimizerConfig",
  "PriorConfig",
  "ProfileConfig",
  "Range",
  "Restart",
  "RolloutConfig",
  "SamplerConfig",
  "SftConfig",
  "TaskConfig",
  "WatchdogConfig",
  "Weights",
  "default",
]
