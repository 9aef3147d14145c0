"""From prompts to new parameters: fine-tuning, rollouts, updates."""

import dataclasses

from dlrl.config.kinds import ALL
from dlrl.config.kinds import NO_KNOBS
from dlrl.config.kinds import Names
from dlrl.config.kinds import Range
from dlrl.config.kinds import Restart
from dlrl.config.kinds import Weights
from dlrl.config.sampling import PriorConfig
from dlrl.config.sampling import SamplerConfig
from dlrl.strict import Knobs
from dlrl.strict import knob


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """An optimizer with warm-up and a global gradient-norm clip."""

  name: str = knob(
    "adamw", "lion keeps one moment and wants rates 3 to 10 times smaller")
  learning_rate: float = knob(1e-3, "peak learning rate", above=0)
  warmup_steps: int = knob(
    0, "linear warm-up from zero", unit="optimizer steps", at_least=0)
  schedule: str = knob("constant", "after warm-up; cosine decays to zero")
  b1: float = knob(0.9, "decay of the first moment", at_least=0, below=1)
  b2: float = knob(0.99, "decay of the second moment", at_least=0, below=1)
  weight_decay: float = knob(
    0.0, "decoupled weight decay, on matrices", at_least=0)
  clip_norm: float = knob(1.0, "largest global gradient norm", above=0)
  moment_dtype: str = knob("float32", "dtype of the first moment")


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Masked-diffusion fine-tuning: the warm start of RL, or a job of its own."""

  steps: int = knob(
    250, "0: RL starts from the initial parameters", unit="optimizer steps",
    at_least=0, restart=Restart.LENGTH)
  batch_size: int = knob(
    128, "batch of a step", unit="completions", at_least=1)
  gen_length: int = knob(
    16, "length of the canvas", unit="tokens", at_least=1)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of train items; the task's unit")
  forward_process: str = knob(
    "exact_k", "how the single draw of a completion is masked: an unbiased "
    "process of dlrl.diffusion, or your own as 'package.module:name'")
  token_noise: float = knob(
    0.0, "with blocks, share of the visible tokens that random ones replace, "
    "to be predicted as well: LLaDA2.1's T2T, at a rate of your choice",
    at_least=0, at_most=1)
  logps_chunk: int = knob(
    2048, "positions per device whose logits are in memory at a time",
    unit="tokens", at_least=1, restart=Restart.ROUNDING)
  log_every: int = knob(
    25, "interval of metrics rows and progress lines", unit="optimizer steps",
    at_least=1, restart=Restart.FREE)
  checkpoint_every: int = knob(
    100, "interval of checkpoints", unit="optimizer steps", at_least=1,
    restart=Restart.FREE)
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=3e-3, schedule="cosine")


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Completions drawn from the current policy, and their rewards."""

  prompts: int = knob(
    16, "prompts of a step, over all hosts", at_least=1)
  rewards: Names = knob(
    ("solved",), "rewards of the task, or 'package.module:function'")
  reward_weights: Weights = knob(
    (1.0,), "weights of the rewards in what is learned")
  normalize: str = knob(
    "sum", "advantages are those of the weighted sum of the rewards, or the "
    "weighted sum of each reward's own advantages", choices=("sum", "each"))
  resample: int = knob(
    0, "most further rollouts of a step, whose groups replace those that teach "
    "nothing, all their rewards being equal; 0: none", at_least=0)
  group_size: int = knob(
    8, "completions per prompt, compared by their advantages", at_least=2)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of train items; the task's unit")
  mismatch_every: int = knob(
    10, "interval at which a rollout with a cache, products of 8 bits, a "
    "threshold, a factor or fill_after is compared with exact decoding, by a "
    "KL; 0: never",
    unit="steps", at_least=0, restart=Restart.FREE)
  expert_load_every: int = knob(
    10, "interval at which the load of a mixture's experts is measured, in a "
    "forward pass of its own; 0: never", unit="steps", at_least=0,
    restart=Restart.FREE)
  sampler: SamplerConfig = SamplerConfig(temperature=1.0)
  prior: PriorConfig = PriorConfig()


@dataclasses.dataclass(frozen=True)
class LearnConfig:
  """From scored completions to new parameters."""

  loss: str = knob(
    "bgpo", "a key of dlrl.losses.OBJECTIVES, or your own as "
    "'package.module:name'")
  loss_args: Knobs = knob(
    NO_KNOBS, "arguments of the loss that differ from its defaults")
  advantage: str = knob("normalized", "a key of dlrl.losses.ADVANTAGES")
  forward_process: str = knob(
    "balanced", "how draws mask a completion: a key of PROCESSES or OF_TRACE "
    "in dlrl.diffusion.method_processes, or with blocks in .blocks, or your "
    "own as 'package.module:name'")
  process_args: Knobs = knob(
    NO_KNOBS, "arguments of the process that differ from its defaults")
  prompt_noise: float = knob(
    0.0, "share of the prompt's tokens masked in each draw", at_least=0,
    at_most=1)
  token_noise: float = knob(
    0.0, "with blocks and the loss ebpo, share of the visible tokens of each "
    "draw that random ones replace, to be predicted as well; not of the paper",
    at_least=0, at_most=1)
  tokens: str = knob(
    "canvas", "tokens of a completion that count: all of its canvas, or those "
    "up to its first end-of-text token, which counts too",
    choices=("canvas", "until_eos"))
  n_mc: int = knob(16, "Monte-Carlo samples per completion", at_least=1)
  draws_at_once: int = knob(
    1, "Monte-Carlo samples of each completion per forward pass, as further "
    "rows: fewer passes, whose memory grows with it", at_least=1,
    restart=Restart.ROUNDING)
  score_norm: str = knob(
    "token", "the ELBO is divided by the canvas length, or not at all, or each "
    "step of the trace has an equal share of it, and its tokens of the step's",
    choices=("token", "none", "step"))
  negative_weight: float = knob(
    1.0, "factor on negative advantages; 1: as published", at_least=0,
    at_most=1)
  epochs: int = knob(
    1, "passes over a rollout, each with new draws", at_least=1)
  updates_per_rollout: int = knob(
    1, "optimizer steps per epoch, each on an equal part of the rollout",
    at_least=1)
  micro_batch: int = knob(
    128, "completions per forward pass, over all devices", at_least=1,
    restart=Restart.ROUNDING)
  logps_chunk: int = knob(
    2048, "positions per device whose logits are in memory at a time",
    unit="tokens", at_least=1, restart=Restart.ROUNDING)
  reduce_dtype: str = knob(
    "auto", "dtype in which gradients are summed over devices. auto: float32 "
    "where that happens once per update, model.compute_dtype where it happens "
    "in every pass, as for parameters that mesh.fsdp splits",
    choices=("auto", "float32", "bfloat16"), restart=Restart.ROUNDING)
  replay_routing: bool = knob(
    False, "with experts and several updates per rollout, tokens keep the "
    "experts that the parameters of the rollout choose; memory then grows with "
    "n_mc")
  optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4)
