"""Shapes of LLaDA-8B and Dream-7B, and settings that papers share at this size.

These are the presets `llada_8b_TASK` and `dream_7b_TASK` of the methods'
configs, for the tasks in `TASKS`, and with `_1gpu` at the end those of
`configs/bgpo.py` for one GPU. They have not been run at this size. Pass
weights with `--config.pretrained` or `--config.init_from`; otherwise RL starts
from random parameters. Methods that follow d1 train adapters on a frozen bf16
model, the others all parameters. Prompts are dlrl's own wording;
`--config.task.prompt=d1` and others choose a paper's. Rewards are dlrl's
graders, not the papers'.

BGPO's code runs use 16,000 problems that are not public. `code` is MBPP with
374 problems; `--config.task.name=files` reads others (`docs/tasks.md`).
"""

import ml_collections

from dlrl import config
from dlrl.presets import names

PREFIX = ("llada_8b_", "dream_7b_")
ONE_GPU = "_1gpu"  # at the end of a preset's name, see `one_gpu`
# From BGPO's table of hyperparameters (arXiv 2510.11683): the task, tokens per
# completion, denoising steps of a rollout, RL steps, Monte-Carlo samples.
TASKS = {
  "code": ("mbpp", 512, 512, 560, 16),
  "countdown": ("countdown", 256, 128, 560, 16),
  "math": ("gsm8k+math", 512, 256, 700, 16),
  "sudoku": ("sudoku", 256, 128, 400, 32),
}
PRESETS = [prefix + task for prefix in PREFIX for task in TASKS]
ONE_GPU_PRESETS = [preset + ONE_GPU for preset in PRESETS]
MATH_CODE = ("math", "code")


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for `preset`; the file of a method changes them.

  Raises:
    ValueError: the preset is unknown.
  """
  prefix = next((p for p in PREFIX if preset.startswith(p)), "")
  task = preset.removeprefix(prefix)
  if not prefix or task not in TASKS:
    raise names.unknown(preset, ["smoke", "sudoku_tiny", *PRESETS])
  cfg = config.default()
  cfg.model.update(LLADA if prefix == PREFIX[0] else DREAM)
  cfg.model.compute_dtype = "bfloat16"
  cfg.mesh.data, cfg.mesh.fsdp = 1, -1
  cfg.sft.steps = 0

  name, length, steps, cfg.steps, cfg.learn.n_mc = TASKS[task]
  cfg.task.name = name
  cfg.task.prompt = "dlrl"
  cfg.task.prompt_length = 512 if task in MATH_CODE else 256
  # A few prompts in a thousand are longer; the number that is cut is logged.
  cfg.task.long_prompts = "truncate"
  cfg.rollout.prompts, cfg.rollout.group_size = 16, 8
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length = length
    sampler.block_length = 32
  cfg.rollout.sampler.steps = steps
  cfg.rollout.sampler.temperature = 0.6  # from DARE, a re-implementation
  cfg.eval.sampler.steps = length
  cfg.sft.gen_length = length

  cfg.learn.score_norm = "token"  # as in DARE; see sudoku_tiny.py
  batches_and_optimizer(cfg, task)
  # Two rows per chip: each gathered layer and each reduction serves both.
  cfg.learn.micro_batch = 128
  return cfg


def cached(cfg: ml_collections.ConfigDict) -> None:
  """Changes `base`'s settings, in place, to rollouts with the prefix cache.

  So does BGPO's published code, for all methods that it compares. They take a
  third of the products of exact rollouts, which
  `--config.rollout.sampler.cache=none` brings back. `docs/models.md` says what
  a cache does to the policy.
  """
  cfg.rollout.sampler.cache = "prefix"
  # With a cache, a pass is too short to hide that it gathers the weights, 3.5
  # TB in a rollout. Pairs of chips share them: half of those of 8B fit into a
  # v5e, which gathers them once.
  cfg.mesh.tensor = 2
  cfg.rollout.sampler.gather_once = cfg.eval.sampler.gather_once = True


def one_gpu(cfg: ml_collections.ConfigDict) -> None:
  """Changes `base`'s settings, in place, to those of one GPU with 80 GB.

  Adapters on a frozen bf16 model, as d1 trains them; half as many prompts,
  and completions of 256 tokens, decoded with a cache. On an H100 a step takes
  at least 87 s, see `docs/compile_only.md`.
  """
  cfg.mesh.fsdp = 1
  cfg.model.param_dtype = "bfloat16"  # frozen
  cfg.lora.rank, cfg.lora.alpha = 128, 64.0
  cfg.rollout.prompts = 8
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.gen_length, sampler.steps = 256, 128
    sampler.cache = "prefix"
  cfg.sft.gen_length = 256
  cfg.learn.micro_batch = 8
  cfg.learn.optimizer.learning_rate = 3e-6
  cfg.eval.batch_size = 32


def batches_and_optimizer(cfg: ml_collections.ConfigDict, task: str) -> None:
  """Sets, in place, what does not depend on the model; `task`: of `TASKS`."""
  cfg.learn.micro_batch = 64  # one row per chip of a v5e-64
  # The head is read three times per chunk, and its fp32 gradient read and
  # written; of 512 positions the logits take 0.25 GiB.
  cfg.learn.logps_chunk = cfg.sft.logps_chunk = 512
  cfg.learn.optimizer.learning_rate = 5e-7
  cfg.learn.optimizer.weight_decay = 0.01
  cfg.learn.optimizer.b2 = 0.999
  cfg.eval.size = 90 if task == "code" else 256  # all that MBPP has
  cfg.eval.batch_size = 64
  cfg.eval.every = 20


# From the published config.json files.
LLADA = dict(
  vocab_size=126464, width=4096, layers=32, heads=32, kv_heads=32, head_dim=128,
  mlp_width=12288, rope_theta=500000.0)
DREAM = dict(
  vocab_size=152064, width=3584, layers=28, heads=28, kv_heads=4, head_dim=128,
  mlp_width=18944, rope_theta=1000000.0, norm_eps=1e-6, qkv_bias=True,
  shifted=True)


def d1(cfg: ml_collections.ConfigDict, *, epochs: int,
       math_epochs: int | None = None) -> None:
  """Sets, in place, the values that many methods took from d1's code.

  Each step has 96 completions of 256 tokens in groups of 6 (d1,
  arXiv 2504.12216). GSM8K and MATH are separate runs; this is MATH, and
  `--config.task.name=gsm8k` is the other.

  Adapters are on all matrices of the layers, as the papers say. Their code,
  however, names only q, k, v and up in LLaDA:
  `--config.lora.targets='layers/(attention/(q|k|v)|mlp/up)'`. Most of them
  quantize the base to 4 bits: `--config.lora.quantize=nf4`. dlrl has no
  dropout.

  Args:
    cfg: the config to change.
    epochs: how often a rollout is used.
    math_epochs: the same for mathematics and code; None: `epochs`.
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
