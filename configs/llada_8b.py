"""LLaDA-8B's shape and what the methods' papers share at that size.

Presets of the methods' configs: `llada_8b_TASK` for the tasks in `LENGTHS`.
Weights come with `--config.pretrained` or `--config.init_from`; without, RL
would start from random ones. The methods of d1's lineage train adapters on a
frozen bf16 model, the others all parameters. Prompts and rewards are those of
`dlrl/tasks`.
"""

import ml_collections

from dlrl import config

PREFIX = "llada_8b_"
# Tokens of a completion, BGPO's Table of hyper-parameters (arXiv 2510.11683).
LENGTHS = {"countdown": 256, "sudoku": 256}


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for `llada_8b_TASK`; a method's file changes its own.

  Raises:
    ValueError: an unknown preset.
  """
  task = preset.removeprefix(PREFIX)
  if preset == task or task not in LENGTHS:
    known = ", ".join(repr(PREFIX + name) for name in LENGTHS)
    raise ValueError(
      f"unknown preset {preset!r}; there are 'smoke', 'sudoku_tiny', {known}")
  cfg = config.default()
  cfg.task.name = task
  cfg.task.prompt_length = 256

  cfg.model.vocab_size = 126464
  cfg.model.width = 4096
  cfg.model.layers = 32
  cfg.model.heads = cfg.model.kv_heads = 32
  cfg.model.head_dim = 128
  cfg.model.mlp_width = 12288
  cfg.model.rope_theta = 500000.0
  cfg.model.compute_dtype = "bfloat16"
  cfg.mesh.data, cfg.mesh.fsdp = 1, -1
  cfg.sft.steps = 0
  if task == "countdown":
    for part in (cfg.sft, cfg.rollout, cfg.eval):
      part.difficulty = (1, 2)

  length = LENGTHS[task]
  cfg.rollout.prompts, cfg.rollout.group_size = 16, 8
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length = length
    sampler.block_length = 32
  cfg.rollout.sampler.steps = length // 2
  cfg.rollout.sampler.temperature = 0.6  # of a re-implementation, DARE
  cfg.eval.sampler.steps = length
  cfg.sft.gen_length = length

  cfg.steps = {"countdown": 560, "sudoku": 400}[task]
  cfg.learn.n_mc = 32 if task == "sudoku" else 16
  cfg.learn.score_norm = "token"  # as DARE; the paper's sums in `bgpo`
  cfg.learn.micro_batch = 64  # a row per chip of a v5e-64
  cfg.learn.logps_chunk = 32
  cfg.learn.optimizer.learning_rate = 5e-7
  cfg.learn.optimizer.weight_decay = 0.01
  cfg.learn.optimizer.b2 = 0.999
  cfg.eval.size = 256
  cfg.eval.batch_size = 64
  cfg.eval.every = 20
  return cfg


def d1(cfg: ml_collections.ConfigDict, *, epochs: int) -> None:
  """The settings that d1's code (arXiv 2504.12216) handed down, in place.

  96 completions a step in groups of 6, each used `epochs` times. Adapters are
  on all matrices of the layers, as the papers say; the names in their code are
  found in LLaDA for q, k, v and up alone: `--config.lora.targets=
  'layers/(attention/(q|k|v)|mlp/up)'`. Most of them have a 4-bit base:
  `--config.lora.quantize=nf4`. There is no dropout here.
  """
  cfg.lora.rank, cfg.lora.alpha = 128, 64.0
  cfg.model.param_dtype = "bfloat16"  # frozen
  cfg.rollout.group_size = 6
  cfg.rollout.sampler.temperature = 0.9
  cfg.learn.epochs = epochs
  cfg.learn.micro_batch = 32
  cfg.learn.optimizer.learning_rate = 3e-6
  cfg.learn.optimizer.b2 = 0.99
  cfg.learn.optimizer.weight_decay = 0.1
  cfg.learn.optimizer.clip_norm = 0.2
