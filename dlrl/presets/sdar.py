"""Shapes of SDAR's block-diffusion models, and settings published for them.

The presets `sdar_1b7_TASK`, `sdar_4b_TASK` and `sdar_8b_TASK` of
`configs/bgpo.py`, `configs/cj_grpo.py`, `configs/ebpo.py` and
`configs/trace_rl.py`, for the tasks in `TASKS`. With `_1gpu` at the end they
train adapters on one GPU with 80 GB. They have not been run at this size. Pass
weights with `--config.pretrained`: SDAR (arXiv 2510.06303), TraDo, or another
checkpoint of that kind and shape.

Rollouts, lengths and optimizer are those of DARE's recipe for SDAR-8B
(https://github.com/yjyddq/DARE), 16 prompts apart, which are BGPO's.
"""

import ml_collections

from dlrl import config
from dlrl.presets import llada_8b
from dlrl.presets import names

PREFIX = "sdar_"
ONE_GPU = llada_8b.ONE_GPU
# Width, layers, query heads, hidden size of the MLP. All have 8 key heads, and
# heads of 128.
SHAPES = {
  "1b7": (2048, 28, 16, 6144),
  "4b": (2560, 36, 32, 9728),
  "8b": (4096, 36, 32, 12288),
}
# The task, tokens of a prompt and of a completion, RL steps.
TASKS = {
  "code": ("mbpp", 512, 2048, 560),
  "countdown": ("countdown", 256, 256, 560),
  "math": ("gsm8k+math", 512, 2048, 700),
  "sudoku": ("sudoku", 256, 256, 400),
}
PRESETS = [f"{PREFIX}{size}_{task}{devices}" for size in SHAPES
           for task in TASKS for devices in ("", ONE_GPU)]


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for `preset`; the file of a method changes them.

  Raises:
    ValueError: the preset is unknown.
  """
  size, _, task = preset.removeprefix(PREFIX).removesuffix(ONE_GPU).partition(
    "_")
  if size not in SHAPES or task not in TASKS:
    raise names.unknown(preset, PRESETS)
  cfg = config.default()
  (cfg.model.width, cfg.model.layers, cfg.model.heads,
   cfg.model.mlp_width) = SHAPES[size]
  cfg.model.update(
    vocab_size=151936, kv_heads=8, head_dim=128, rope_theta=1000000.0,
    norm_eps=1e-6, qk_norm=True, block_length=4, compute_dtype="bfloat16")
  # A pass of a rollout computes a few tokens of each row: the weights must not
  # be moved for each of them. Half of those of 8B fit into a v5e. Four or more
  # chips would read them faster, but an update would take longer.
  cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = 1, -1, 2
  cfg.sft.steps = 0

  cfg.task.name, cfg.task.prompt_length, length, cfg.steps = TASKS[task]
  cfg.task.prompt = "dlrl"
  cfg.task.long_prompts = "truncate"
  cfg.rollout.prompts, cfg.rollout.group_size = 16, 8
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length = sampler.steps = length
    sampler.block_length = 4
    sampler.threshold = 0.9
    sampler.gather_once = True
  cfg.rollout.sampler.temperature = 1.0
  cfg.rollout.sampler.top_k = 50
  cfg.sft.gen_length = length
  cfg.sft.forward_process = "block_bernoulli"  # SDAR's own

  # All 15 masks of a block: one draw fewer than the published 16, and no
  # Monte-Carlo error. DARE's draws are "block_global".
  cfg.learn.forward_process = "block_exact"
  cfg.learn.n_mc = 15
  cfg.learn.tokens = "until_eos"
  llada_8b.batches_and_optimizer(cfg, task)
  if preset.endswith(ONE_GPU):
    _one_gpu(cfg)
  return cfg


def _one_gpu(cfg: ml_collections.ConfigDict) -> None:
  """Adapters on a frozen bf16 model, with fewer completions and draws."""
  cfg.mesh.fsdp = cfg.mesh.tensor = 1
  cfg.model.param_dtype = "bfloat16"
  cfg.lora.rank, cfg.lora.alpha = 64, 64.0
  cfg.rollout.prompts = 8
  # A stream costs as much as the clean row: four of them, which mask each token
  # about once, leave the update twice the work of one.
  cfg.learn.forward_process = "block_balanced"
  cfg.learn.n_mc = 4
  cfg.learn.micro_batch = 8
  cfg.learn.optimizer.learning_rate = 1e-5
