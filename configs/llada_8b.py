"""LLaDA-8B's and Dream-7B's shapes, and what papers share at that size.

Presets of the methods' configs: `llada_8b_TASK` or `dream_7b_TASK` for the
tasks in `TASKS`. Weights come with `--config.pretrained` or
`--config.init_from`; without, RL would start from random ones. The methods of
d1's lineage train adapters on a frozen bf16 model, the others all parameters.
Prompts are those of `dlrl/tasks` in words, `--config.task.prompt=d1` and others
those of papers; rewards are sound ones, not the papers'.

BGPO's code runs are of 16,000 problems that are not public. `code` is MBPP's
374; others are one `--config.task.name=files` away (`docs/tasks.md`).
"""

import ml_collections

from dlrl import config

PREFIX = ("llada_8b_", "dream_7b_")
# BGPO's Table of hyper-parameters (arXiv 2510.11683): the task, tokens of a
# completion, denoising steps of a rollout, RL steps, Monte-Carlo samples.
TASKS = {
  "code": ("mbpp", 512, 512, 560, 16),
  "countdown": ("countdown", 256, 128, 560, 16),
  "math": ("gsm8k+math", 512, 256, 700, 16),
  "sudoku": ("sudoku", 256, 128, 400, 32),
}
MATH_CODE = ("math", "code")


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for a preset; a method's file changes its own.

  Raises:
    ValueError: an unknown preset.
  """
  prefix = next((p for p in PREFIX if preset.startswith(p)), "")
  task = preset.removeprefix(prefix)
  if not prefix or task not in TASKS:
    known = ", ".join(repr(p + name) for p in PREFIX for name in TASKS)
    raise ValueError(
      f"unknown preset {preset!r}; there are 'smoke', 'sudoku_tiny', {known}")
  cfg = config.default()
  cfg.model.update(LLADA if prefix == PREFIX[0] else DREAM)
  cfg.model.compute_dtype = "bfloat16"
  cfg.mesh.data, cfg.mesh.fsdp = 1, -1
  cfg.sft.steps = 0

  name, length, steps, cfg.steps, cfg.learn.n_mc = TASKS[task]
  cfg.task.name = name
  cfg.task.prompt = "dlrl"
  cfg.task.prompt_length = 512 if task in MATH_CODE else 256
  # The longest are a few in a thousand; how many are cut is logged.
  cfg.task.long_prompts = "truncate"
  cfg.rollout.prompts, cfg.rollout.group_size = 16, 8
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length = length
    sampler.block_length = 32
  cfg.rollout.sampler.steps = steps
  cfg.rollout.sampler.temperature = 0.6  # of a re-implementation, DARE
  cfg.eval.sampler.steps = length
  cfg.sft.gen_length = length

  cfg.learn.score_norm = "token"  # as DARE; the paper's sums in `bgpo`
  cfg.learn.micro_batch = 64  # a row per chip of a v5e-64
  cfg.learn.logps_chunk = 32
  cfg.learn.optimizer.learning_rate = 5e-7
  cfg.learn.optimizer.weight_decay = 0.01
  cfg.learn.optimizer.b2 = 0.999
  cfg.eval.size = 90 if task == "code" else 256  # MBPP has no more
  cfg.eval.batch_size = 64
  cfg.eval.every = 20
  return cfg


# Of the published config.json.
LLADA = dict(
  vocab_size=126464, width=4096, layers=32, heads=32, kv_heads=32, head_dim=128,
  mlp_width=12288, rope_theta=500000.0)
DREAM = dict(
  vocab_size=152064, width=3584, layers=28, heads=28, kv_heads=4, head_dim=128,
  mlp_width=18944, rope_theta=1000000.0, norm_eps=1e-6, qkv_bias=True,
  shifted=True)


def d1(cfg: ml_collections.ConfigDict, *, epochs: int,
       math_epochs: int | None = None) -> None:
  """The settings that d1's code (arXiv 2504.12216) handed down, in place.

  96 completions of 256 tokens a step in groups of 6, each used `epochs` times,
  or `math_epochs` in mathematics and code. GSM8K and MATH are runs of their
  own: this is MATH's, `--config.task.name=gsm8k` the other.

  Adapters are on all matrices of the layers, as the papers say. In LLaDA, the
  names in their code are those of q, k, v and up alone:
  `--config.lora.targets='layers/(attention/(q|k|v)|mlp/up)'`. Most of them have
  a 4-bit base: `--config.lora.quantize=nf4`. There is no dropout here.
  """
  cfg.lora.rank, cfg.lora.alpha = 128, 64.0
  cfg.model.param_dtype = "bfloat16"  # frozen
  if cfg.task.name == "gsm8k+math":
    cfg.task.name = "math"
  if cfg.task.name in ("math", "mbpp"):
    epochs = math_epochs or epochs
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length, sampler.steps = 256, 128
  cfg.sft.gen_length = 256
  cfg.rollout.group_size = 6
  cfg.rollout.sampler.temperature = 0.9
  cfg.learn.epochs = epochs
  cfg.learn.micro_batch = 32
  cfg.learn.optimizer.learning_rate = 3e-6
  cfg.learn.optimizer.b2 = 0.99
  cfg.learn.optimizer.weight_decay = 0.1
  cfg.learn.optimizer.clip_norm = 0.2
