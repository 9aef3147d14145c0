"""Shapes of SDAR's block-diffusion models, and settings published for them.

The presets `sdar_1b7_TASK`, `sdar_4b_TASK`, `sdar_8b_TASK` and `sdar_30b_TASK`
of `configs/bgpo.py`, `configs/cj_grpo.py`, `configs/ebpo.py` and
`configs/trace_rl.py`, for the tasks in `TASKS`. With `_1gpu` at the end they
train adapters on one GPU with 80 GB, those of the mixture of experts of 30B on
a base in NF4. They have not been run at this size. Pass weights with
`--config.pretrained`: SDAR (arXiv 2510.06303), TraDo, or another checkpoint of
that kind and shape.

Rollouts, lengths and optimizer are those of DARE's recipe for SDAR-8B
(https://github.com/yjyddq/DARE), 16 prompts apart, which are BGPO's.
"""

import ml_collections

from dlrl import config
from dlrl.presets import llada_8b
from dlrl.presets import names

PREFIX = "sdar_"
ONE_GPU = llada_8b.ONE_GPU
# Width, layers, query heads, hidden size of the MLP. All but the mixture have 8
# key heads, and heads of 128.
SHAPES = {
  "1b7": (2048, 28, 16, 6144),
  "4b": (2560, 36, 32, 9728),
  "8b": (4096, 36, 32, 12288),
}
MIXTURE = "30b"  # 3 billion of its parameters compute a token
# The task, tokens of a prompt and of a completion, RL steps.
TASKS = {
  "code": ("mbpp", 512, 2048, 560),
  "countdown": ("countdown", 256, 256, 560),
  "math": ("gsm8k+math", 512, 2048, 700),
  "sudoku": ("sudoku", 256, 256, 400),
}
PRESETS = [f"{PREFIX}{size}_{task}{devices}" for size in (*SHAPES, MIXTURE)
           for task in TASKS for devices in ("", ONE_GPU)]


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for `preset`; the file of a method changes them.

  Raises:
    ValueError: the preset is unknown.
  """
  if preset not in PRESETS:
    raise names.unknown(preset, PRESETS)
  size, _, task = preset.removeprefix(PREFIX).removesuffix(ONE_GPU).partition(
    "_")
  cfg = config.default()
  cfg.model.update(
    vocab_size=151936, kv_heads=8, head_dim=128, rope_theta=1000000.0,
    norm_eps=1e-6, qk_norm=True)
  blocks(cfg, task, 4)
  if size == MIXTURE:
    cfg.model.update(width=2048, layers=48, heads=32, kv_heads=4)
    cfg.model.experts.update(number=128, per_token=8, width=768)
    of_experts(cfg)
  else:
    (cfg.model.width, cfg.model.layers, cfg.model.heads,
     cfg.model.mlp_width) = SHAPES[size]
  # All 15 masks of a block: one draw fewer than the published 16, and no
  # Monte-Carlo error. DARE's draws are "block_global".
  cfg.learn.forward_process = "block_exact"
  cfg.learn.n_mc = 15
  if preset.endswith(ONE_GPU):
    one_gpu(cfg)
    if size == MIXTURE:
      # In bf16, its 57 GiB would leave too little.
      cfg.lora.quantize = "nf4"
      cfg.lora.targets = "layers/attention/.*"
  return cfg


def blocks(cfg: ml_collections.ConfigDict, task: str, size: int) -> None:
  """Sets, in place, rollouts and learning with blocks of `size` tokens.

  Args:
    cfg: the settings.
    task: of `TASKS`.
    size: a multiple of it is the length of completions.
  """
  cfg.model.block_length, cfg.model.compute_dtype = size, "bfloat16"
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
    sampler.block_length = size
    sampler.threshold = 0.9
    sampler.gather_once = True
  cfg.rollout.sampler.temperature = 1.0
  cfg.rollout.sampler.top_k = 50
  cfg.sft.gen_length = length
  cfg.sft.forward_process = "block_bernoulli"  # SDAR's own

  cfg.learn.tokens = "until_eos"
  llada_8b.batches_and_optimizer(cfg, task)


def of_experts(cfg: ml_collections.ConfigDict) -> None:
  """Changes settings, in place, to eight parts of the experts of a layer.

  Tokens go to eight devices at most, however many there are. Among the groups
  of these, `mesh.fsdp` splits what is left.
  """
  cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor = 1, -1, 1
  cfg.mesh.expert = 8


def one_gpu(cfg: ml_collections.ConfigDict) -> None:
  """Changes settings, in place, to adapters on a frozen bf16 model.

  Completions and draws are fewer.
  """
  cfg.mesh.fsdp = cfg.mesh.tensor = cfg.mesh.expert = 1
  cfg.model.param_dtype = "bfloat16"
  cfg.lora.rank, cfg.lora.alpha = 64, 64.0
  cfg.rollout.prompts = 8
  # A stream costs as much as the clean row: four of them, which mask each token
  # about once, leave the update twice the work of one.
  cfg.learn.forward_process = "block_balanced"
  cfg.learn.n_mc = 4
  cfg.learn.micro_batch = 8
  cfg.learn.optimizer.learning_rate = 1e-5
