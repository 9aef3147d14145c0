"""Every knob of a run: name, type, unit, meaning and default, listed once.

The files in `configs/` start from `default()`, a `ConfigDict` with the values
below, and change what their method needs, saying why. The way back, with all
checks, is `validate.from_dict`.
"""

import dataclasses

import ml_collections

from dlrl.strict import Knobs

Range = tuple[int, int]
ALL: Range = (0, 2**31 - 1)  # every difficulty
Names = tuple[str, ...]
Weights = tuple[float, ...]
Counts = tuple[int, ...]
NO_KNOBS = Knobs()


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """What is learned."""

  name: str = "sudoku"  # a key of dlrl.tasks.TASKS, or several: "a+b"
  weights: Weights = ()  # of several tasks, their shares of a batch; (): equal
  prompt: str = "bare"  # how it is asked: a key of the task's prompts
  prompt_file: str = (
    ""  # asks in its own words: see dlrl.tasks.user_files.templates
  )
  prompt_text: str = ""  # what is in that file; read, not set
  few_shot: int = 0  # worked examples before each question, from train
  train_files: str = ""  # of the task "files": JSONL or Parquet, by commas
  validation_files: str = ""
  test_files: str = ""
  bad_rows: str = "error"  # in them; or skip: left out, counted
  # What generated code may reach if it cannot be kept from it here, of files,
  # network, processes.
  sandbox_allow: Names = ()
  data_dir: str = "~/tensorflow_datasets"  # prepared data; made when absent
  prompt_length: int = 32  # tokens
  long_prompts: str = "error"  # or truncate: cut at their beginning, counted

  @property
  def truncates(self) -> bool:
    """Whether prompts that are too long are cut."""
    return self.long_prompts == "truncate"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A bidirectional transformer; the defaults are LLaDA's kind.

  With `pretrained`, its config.json says all but the dtypes, `remat` and
  `attention`.
  """

  vocab_size: int = 40  # rows of the embedding
  width: int = 64
  layers: int = 3
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 16
  mlp_width: int = 176
  rope_theta: float = 100.0
  norm_eps: float = 1e-5
  qkv_bias: bool = False  # Dream, Qwen2
  qk_norm: bool = False  # Qwen3
  tied: bool = False  # the head is the embedding
  shifted: bool = False  # outputs predict the next token, Dream
  compute_dtype: str = "float32"  # of activations and matmuls
  param_dtype: str = "float32"  # in bfloat16, small steps round to none
  remat: str = "full"  # a key of dlrl.models.transformer.REMAT
  attention: str = "auto"  # or, of dlrl.models.attention: xla, cudnn, splash


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters, trained instead of the parameters beneath them."""

  rank: int = 0  # 0: no adapters, all parameters are trained
  alpha: float = 16.0  # what they add is scaled by alpha / rank
  targets: str = "layers/(attention|mlp)/.*"  # of dlrl.models.lora.MATRICES
  dtype: str = "float32"  # of the adapters
  quantize: str = "none"  # the matrices beneath: none | int8 | nf4

  @property
  def scale(self) -> float:
    """The factor of what adapters add; PEFT's `scaling`."""
    return self.alpha / self.rank


NO_LORA = LoraConfig()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices per mesh axis; one of them may be -1, "the rest"."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  # Without an accelerator, parts of the CPU, over all processes; 0: leave it.
  cpu_devices: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """A step with warm-up and a global gradient-norm clip."""

  name: str = "adamw"  # or lion: one moment; its rates are 3 to 10 times less
  learning_rate: float = 1e-3
  warmup_steps: int = 0  # linear from zero
  schedule: str = "constant"  # after warm-up: constant | cosine (to zero)
  b1: float = 0.9
  b2: float = 0.99
  weight_decay: float = 0.0
  clip_norm: float = 1.0  # global gradient norm
  moment_dtype: str = "float32"  # of the first moment; or bfloat16


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """Block-wise decoding of a canvas of masks."""

  gen_length: int = 16  # tokens on the canvas
  block_length: int = 16  # tokens; blocks are decoded left to right
  steps: int = 8  # denoising steps over the whole canvas
  temperature: float = 0.0  # of the Gumbel noise; 0 is greedy
  fill_after: float = 1.0  # share of a row's tokens; then the rest in one step
  remasking: str = "low_confidence"  # of dlrl.sampling.remasking.RULES
  threshold: float = 0.0  # commit all above this probability; 0: by steps
  fallback: str = "confident"  # if none is above: that one, or the leftmost
  factor: float = 0.0  # commit by Fast-dLLM's factor; 0: by steps
  top_p: float = 1.0  # share of the probability that is sampled from
  cfg_scale: float = 0.0  # classifier-free guidance; 0: none
  eos: str = "free"  # free | suppress | last: commit it last | stop: end there
  cache: str = "none"  # none | prefix | dual: keys and values kept in a block


@dataclasses.dataclass(frozen=True)
class PriorConfig:
  """Tokens a rollout starts from (STP's spatial pruning), as shares of them.

  All completions of a prompt start from the same ones, which no loss sees.
  """

  template: float = 0.0  # of what the task knows of every answer; 0: nothing
  memory: float = 0.0  # of a good completion of the same prompt; 0: nothing
  remask: str = "random"  # which go: a key of dlrl.diffusion.pruning.REMASK
  anneal_steps: int = 0  # RL steps until both shares are 0; 0: constant
  slots: int = 4096  # prompts whose completion is remembered
  min_reward: float = 1.0  # of a completion that is remembered


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Masked-diffusion fine-tuning: the warm start of RL, or a job of its own."""

  steps: int = 250  # optimizer steps; 0 starts RL from random parameters
  batch_size: int = 128  # completions per step
  gen_length: int = 16  # tokens on the canvas
  difficulty: Range = ALL  # inclusive; the unit is the task's
  logps_chunk: int = 16  # canvas columns whose logits exist at one time
  log_every: int = 25  # steps per metrics row and progress line
  checkpoint_every: int = 100  # steps
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=3e-3, schedule="cosine"
  )


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """Which completions are drawn from the current policy."""

  prompts: int = 16  # per step, whatever the number of hosts
  rewards: Names = ("solved",)  # of the task's, or "package.module:function"
  reward_weights: Weights = (1.0,)  # what is learned is the weighted sum
  group_size: int = 8  # completions per prompt
  difficulty: Range = ALL  # inclusive; the unit is the task's
  sampler: SamplerConfig = SamplerConfig(temperature=1.0)
  prior: PriorConfig = PriorConfig()


@dataclasses.dataclass(frozen=True)
class LearnConfig:
  """From scored completions to new parameters."""

  loss: str = "bgpo"  # a key of dlrl.losses.OBJECTIVES
  loss_args: Knobs = NO_KNOBS  # of the loss, where not its defaults
  advantage: str = "normalized"  # a key of dlrl.losses.ADVANTAGES
  forward_process: str = (
    "balanced"  # of dlrl.diffusion.method_processes.PROCESSES
  )
  process_args: Knobs = NO_KNOBS  # of the process, where not its defaults
  prompt_noise: float = 0.0  # share of prompt tokens hidden from each draw
  n_mc: int = 16  # Monte-Carlo samples per completion
  score_norm: str = "token"  # ELBO divided by: token (canvas length) | none
  negative_weight: float = 1.0  # factor on negative advantages; 1 is plain
  epochs: int = 1  # how often a rollout is used, each time with new draws
  updates_per_rollout: int = 1  # in each epoch; the batch is split into so many
  micro_batch: int = 128  # completions per forward pass, over all devices
  logps_chunk: int = 16  # canvas columns whose logits exist at one time
  optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Held-out accuracy, greedy unless the temperature says otherwise.

  Test items are evaluated before the first step and after the last alone.
  """

  split: str = "validation"  # of the evaluations on the way; or test
  size: int = 512  # items of each split, the first of a fixed order
  every: int = 25  # RL steps
  batch_size: int = 512  # prompts per call of the sampler
  difficulty: Range = ALL  # inclusive; the unit is the task's
  sampler: SamplerConfig = SamplerConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """What `dlrl.evaluate` does; the rest of its decoding is `eval.sampler`'s."""

  split: str = "test"  # or validation
  size: int = 0  # items, the first of a fixed order; 0: all
  lengths: Counts = ()  # tokens of completions; (): as eval.sampler
  tokens_per_step: int = 0  # 1: as many steps as tokens; 0: as eval.sampler
  samples: int = 1  # completions of each item
  scorer: str = "sound"  # a key of dlrl.tasks.published_scorers.scorers.SCORERS


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
  """When a process that does not move is ended, with exit code 43.

  Steps, evaluations and checkpoints are each compared with their like.
  """

  times: float = 10.0  # of the median time so far; 0: never
  least_seconds: float = 600.0  # whatever the median
  first_seconds: float = 7200.0  # of the first of its kind, which compiles


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """A trace of some RL steps, in the workdir's `profile/`."""

  steps: str = ""  # first and last, "10-12"; "": none


# What changes no number of a run: it goes on with other values, too.
OPERATIONS = ("watchdog", "profile", "wandb")


@dataclasses.dataclass(frozen=True)
class Config:
  """One run."""

  job: str = "rl"  # rl | sft
  seed: int = 0
  steps: int = 100  # RL steps: rollout, reward, update(s)
  checkpoint_every: int = 20  # RL steps
  checkpoint_keep: int = 2  # newest checkpoints kept
  max_nonfinite: int = 5  # skipped updates in a row before the run aborts
  pretrained: str = ""  # directory of a published checkpoint; "": random
  init_from: str = ""  # workdir of a finished job to start from; "": sft
  log_every: int = 1  # RL steps per progress line
  sample_every: int = 20  # steps per logged sample completion
  wandb: str = ""  # project of Weights & Biases to log to as well; "": none
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
  """The values above, to be changed by a config file."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))
