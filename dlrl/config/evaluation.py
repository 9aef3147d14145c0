"""Held-out evaluations, during a run and after it."""

import dataclasses

from dlrl.config.kinds import ALL
from dlrl.config.kinds import SPLITS
from dlrl.config.kinds import Counts
from dlrl.config.kinds import Range
from dlrl.config.kinds import Restart
from dlrl.config.sampling import SamplerConfig
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Held-out accuracy during a run, greedy unless the temperature is positive.

  Test items are evaluated only before the first step and after the last.
  """

  split: str = knob(
    "validation", "split of the evaluations between steps", choices=SPLITS)
  size: int = knob(
    512, "items of each split, the first of a fixed order", at_least=1)
  every: int = knob(
    25, "interval", unit="RL steps", at_least=1, restart=Restart.FREE)
  batch_size: int = knob(
    512, "prompts per call of the sampler", at_least=1,
    restart=Restart.ROUNDING)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of the items; the task's unit")
  sampler: SamplerConfig = SamplerConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Settings of `dlrl.evaluate`, which otherwise decodes by `eval.sampler`."""

  split: str = knob(
    "test", "split that is evaluated", choices=SPLITS, restart=Restart.FREE)
  size: int = knob(
    0, "items, the first of a fixed order; 0: all", at_least=0,
    restart=Restart.FREE)
  lengths: Counts = knob(
    (), "lengths of completions, each evaluated; (): eval.sampler.gen_length",
    unit="tokens", restart=Restart.FREE)
  tokens_per_step: int = knob(
    0, "tokens committed per denoising step; 0: same as eval.sampler",
    at_least=0, restart=Restart.FREE)
  samples: int = knob(
    1, "completions of each item", at_least=1, restart=Restart.FREE)
  scorer: str = knob(
    "sound", "rules that decide whether an answer is right",
    restart=Restart.FREE)
