"""Every setting of a run: name, type, default, meaning, unit, bounds.

The files in `configs/` start from `default()`, a `ConfigDict` with the values
below, and change what their method needs, saying why. `validate.from_dict`
checks the result and turns it back into these dataclasses; `validate.settings`
lists them for the documentation.
"""

import dataclasses

import ml_collections

from dlrl.strict import Knobs
from dlrl.strict import knob

Range = tuple[int, int]
ALL: Range = (0, 2**31 - 1)  # every difficulty
Names = tuple[str, ...]
Weights = tuple[float, ...]
Counts = tuple[int, ...]
NO_KNOBS = Knobs()
SPLITS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """The task that is learned, and how it is asked."""

  name: str = knob(
    "sudoku", "a key of dlrl.tasks.TASKS, 'files', or several joined by '+'")
  weights: Weights = knob(
    (), "with several tasks, their shares of a batch; (): equal shares")
  prompt: str = knob("bare", "wording of the question: a prompt of the task")
  prompt_file: str = knob(
    "", "file with another wording, see dlrl.tasks.user_files.templates")
  prompt_text: str = knob(
    "", "content of prompt_file; filled in when the config is read")
  few_shot: int = knob(
    0, "worked examples from the train split before each question", at_least=0)
  train_files: str = knob(
    "", "for the task 'files': JSONL or Parquet, separated by commas")
  validation_files: str = knob("", "same as train_files, for validation")
  test_files: str = knob("", "same as train_files, for the test")
  bad_rows: str = knob(
    "error", "malformed rows of files: an error, or skipped and counted",
    choices=("error", "skip"))
  sandbox_allow: Names = knob(
    (), "protections that generated code may run without where this machine "
    "lacks them: files, network, processes")
  data_dir: str = knob(
    "~/tensorflow_datasets", "prepared data sets; made on first use")
  prompt_length: int = knob(
    32, "longest prompt", unit="tokens", at_least=1)
  long_prompts: str = knob(
    "error", "longer prompts: an error, or cut at their beginning and counted",
    choices=("error", "truncate"))

  @property
  def truncates(self) -> bool:
    """Whether prompts that are too long are cut."""
    return self.long_prompts == "truncate"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A bidirectional transformer; the defaults are a small LLaDA.

  With `pretrained`, its config.json overrides all of it but the dtypes, `remat`
  and `attention`.
  """

  vocab_size: int = knob(40, "rows of the embedding", at_least=1)
  width: int = knob(64, "size of the residual stream", at_least=1)
  layers: int = knob(3, "transformer blocks", at_least=1)
  heads: int = knob(4, "query heads", at_least=1)
  kv_heads: int = knob(
    4, "key and value heads; must divide heads", at_least=1)
  head_dim: int = knob(16, "size of a head; even, for RoPE", at_least=1)
  mlp_width: int = knob(176, "hidden size of the MLP", at_least=1)
  rope_theta: float = knob(100.0, "base of the rotary frequencies", above=0)
  norm_eps: float = knob(1e-5, "epsilon of RMSNorm", at_least=0)
  qkv_bias: bool = knob(False, "biases on q, k and v, as in Dream and Qwen2")
  qk_norm: bool = knob(False, "RMSNorm on q and k, as in Qwen3")
  tied: bool = knob(False, "the output head is the embedding")
  shifted: bool = knob(False, "outputs predict the next token, as in Dream")
  block_length: int = knob(
    0, "tokens per block of block-causal attention; 0: full", at_least=0)
  compute_dtype: str = knob("float32", "dtype of activations and matmuls")
  param_dtype: str = knob(
    "float32", "dtype of the parameters; in bfloat16 small updates are lost to "
    "rounding")
  remat: str = knob(
    "full", "what the backward pass recomputes instead of keeping")
  attention: str = knob("auto", "attention kernel; auto picks by device")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters, trained instead of the parameters beneath them."""

  rank: int = knob(
    0, "rank of the adapters; 0: none, all parameters are trained", at_least=0)
  alpha: float = knob(
    16.0, "their output is scaled by alpha / rank", above=0)
  targets: str = knob(
    "layers/(attention|mlp)/.*",
    "regular expression for the adapted matrices of dlrl.models.lora.MATRICES")
  dtype: str = knob("float32", "dtype of the adapters")
  quantize: str = knob("none", "format of the frozen matrices beneath them")

  @property
  def scale(self) -> float:
    """The factor on the adapters' output; PEFT's `scaling`."""
    return self.alpha / self.rank


NO_LORA = LoraConfig()


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; one of them may be -1, all that are left."""

  data: int = knob(-1, "replicas of the parameters", unit="devices")
  fsdp: int = knob(
    1, "parts of the parameters, gathered layer by layer", unit="devices")
  tensor: int = knob(1, "parts of each matrix product", unit="devices")
  cpu_devices: int = knob(
    0, "without an accelerator, devices that the CPU is split into, over all "
    "processes; 0: one", at_least=0)


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
class SamplerConfig:
  """Block-wise decoding of a canvas of masked tokens."""

  gen_length: int = knob(
    16, "length of the canvas", unit="tokens", at_least=1)
  block_length: int = knob(
    16, "length of a block; blocks are decoded left to right", unit="tokens",
    at_least=1)
  steps: int = knob(
    8, "denoising steps for the whole canvas", at_least=1)
  temperature: float = knob(
    0.0, "scale of the Gumbel noise; 0: greedy", at_least=0)
  fill_after: float = knob(
    1.0, "share of a row's tokens after which one step commits all the rest",
    at_least=0, at_most=1)
  remasking: str = knob(
    "low_confidence", "which predictions a step commits")
  threshold: float = knob(
    0.0, "commit every token above this probability; 0: a fixed number a step",
    at_least=0, at_most=1)
  fallback: str = knob(
    "confident", "token committed if none is above the threshold")
  factor: float = knob(
    0.0, "commit by Fast-dLLM's factor; 0: a fixed number a step", at_least=0)
  top_p: float = knob(
    1.0, "share of the probability mass that is sampled from", above=0,
    at_most=1)
  cfg_scale: float = knob(
    0.0, "classifier-free guidance; 0: none", at_least=0)
  eos: str = knob(
    "free", "the end-of-text token: free, never predicted, committed last, or "
    "the end of its row")
  cache: str = knob(
    "none", "keys and values kept while a block is decoded; an approximation")


@dataclasses.dataclass(frozen=True)
class PriorConfig:
  """Tokens that a rollout starts from instead of masks (STP's pruning).

  All completions of a prompt start from the same ones, which no loss sees.
  """

  template: float = knob(
    0.0, "share of the tokens that the task knows of every answer; 0: none",
    at_least=0, at_most=1)
  memory: float = knob(
    0.0, "share of the tokens of an earlier good completion; 0: none",
    at_least=0, at_most=1)
  remask: str = knob("random", "which of these tokens are masked again")
  anneal_steps: int = knob(
    0, "RL steps until both shares have fallen to 0; 0: constant", at_least=0)
  slots: int = knob(
    4096, "prompts whose completion is remembered", at_least=1)
  min_reward: float = knob(
    1.0, "smallest reward of a completion that is remembered")


@dataclasses.dataclass(frozen=True)
class SftConfig:
  """Masked-diffusion fine-tuning: the warm start of RL, or a job of its own."""

  steps: int = knob(
    250, "0: RL starts from the initial parameters", unit="optimizer steps",
    at_least=0)
  batch_size: int = knob(
    128, "batch of a step", unit="completions", at_least=1)
  gen_length: int = knob(
    16, "length of the canvas", unit="tokens", at_least=1)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of train items; the task's unit")
  logps_chunk: int = knob(
    16, "canvas columns whose logits are in memory at a time", at_least=1)
  log_every: int = knob(
    25, "interval of metrics rows and progress lines", unit="optimizer steps",
    at_least=1)
  checkpoint_every: int = knob(
    100, "interval of checkpoints", unit="optimizer steps", at_least=1)
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
    (1.0,), "weights of the sum of rewards that is learned")
  group_size: int = knob(
    8, "completions per prompt, compared by their advantages", at_least=2)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of train items; the task's unit")
  sampler: SamplerConfig = SamplerConfig(temperature=1.0)
  prior: PriorConfig = PriorConfig()


@dataclasses.dataclass(frozen=True)
class LearnConfig:
  """From scored completions to new parameters."""

  loss: str = knob("bgpo", "a key of dlrl.losses.OBJECTIVES")
  loss_args: Knobs = knob(
    NO_KNOBS, "arguments of the loss that differ from its defaults")
  advantage: str = knob("normalized", "a key of dlrl.losses.ADVANTAGES")
  forward_process: str = knob(
    "balanced", "how draws mask a completion: a key of PROCESSES or OF_TRACE "
    "in dlrl.diffusion.method_processes")
  process_args: Knobs = knob(
    NO_KNOBS, "arguments of the process that differ from its defaults")
  prompt_noise: float = knob(
    0.0, "share of the prompt's tokens masked in each draw", at_least=0,
    at_most=1)
  tokens: str = knob(
    "canvas", "tokens of a completion that count: all of its canvas, or those "
    "up to its first end-of-text token, which counts too",
    choices=("canvas", "until_eos"))
  n_mc: int = knob(16, "Monte-Carlo samples per completion", at_least=1)
  score_norm: str = knob(
    "token", "the ELBO is divided by the canvas length, or not at all",
    choices=("token", "none"))
  negative_weight: float = knob(
    1.0, "factor on negative advantages; 1: as published", at_least=0,
    at_most=1)
  epochs: int = knob(
    1, "passes over a rollout, each with new draws", at_least=1)
  updates_per_rollout: int = knob(
    1, "optimizer steps per epoch, each on an equal part of the rollout",
    at_least=1)
  micro_batch: int = knob(
    128, "completions per forward pass, over all devices", at_least=1)
  logps_chunk: int = knob(
    16, "canvas columns whose logits are in memory at a time", at_least=1)
  optimizer: OptimizerConfig = OptimizerConfig(learning_rate=3e-4)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Held-out accuracy during a run, greedy unless the temperature is positive.

  Test items are evaluated only before the first step and after the last.
  """

  split: str = knob(
    "validation", "split of the evaluations between steps", choices=SPLITS)
  size: int = knob(
    512, "items of each split, the first of a fixed order", at_least=1)
  every: int = knob(25, "interval", unit="RL steps", at_least=1)
  batch_size: int = knob(512, "prompts per call of the sampler", at_least=1)
  difficulty: Range = knob(
    ALL, "lowest and highest difficulty of the items; the task's unit")
  sampler: SamplerConfig = SamplerConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
  """Settings of `dlrl.evaluate`, which otherwise decodes by `eval.sampler`."""

  split: str = knob("test", "split that is evaluated", choices=SPLITS)
  size: int = knob(
    0, "items, the first of a fixed order; 0: all", at_least=0)
  lengths: Counts = knob(
    (), "lengths of completions, each evaluated; (): eval.sampler.gen_length",
    unit="tokens")
  tokens_per_step: int = knob(
    0, "tokens committed per denoising step; 0: same as eval.sampler",
    at_least=0)
  samples: int = knob(1, "completions of each item", at_least=1)
  scorer: str = knob("sound", "rules that decide whether an answer is right")


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
  """When a process that makes no progress is ended, with exit code 43.

  Each kind of work (steps, evaluations, checkpoints) is compared with earlier
  work of the same kind.
  """

  times: float = knob(
    10.0, "longest duration, as a multiple of the median so far; 0: never ends "
    "the process", at_least=0)
  least_seconds: float = knob(
    600.0, "allowed whatever the median", unit="s", above=0)
  first_seconds: float = knob(
    7200.0, "allowed for the first of its kind, which compiles", unit="s",
    above=0)


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """A trace of some RL steps, written to the workdir's `profile/`."""

  steps: str = knob("", "first and last step, such as '10-12'; '': no trace")


# Sections that do not affect the numbers: they may differ when a run continues.
OPERATIONS = ("watchdog", "profile", "wandb")
# Neither do these, where a run could begin without them: all rows were checked.
READING = ("task.long_prompts", "task.bad_rows")


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
    "updates", unit="RL steps", at_least=1)
  checkpoint_every: int = knob(
    20, "interval of checkpoints", unit="RL steps", at_least=1)
  checkpoint_keep: int = knob(2, "newest checkpoints kept", at_least=1)
  max_nonfinite: int = knob(
    5, "updates skipped in a row for NaN or infinity before the run fails",
    at_least=1)
  pretrained: str = knob(
    "", "directory of a published checkpoint; '': random parameters")
  init_from: str = knob(
    "", "workdir of a finished run to start from; '': sft")
  log_every: int = knob(
    1, "interval of progress lines", unit="RL steps", at_least=1)
  sample_every: int = knob(
    20, "interval of logged sample completions", unit="RL steps", at_least=1)
  wandb: str = knob("", "project of Weights & Biases to log to; '': none")
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
