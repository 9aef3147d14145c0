"""LLaDA2-mini (16 billion parameters, 1.4 of them active), and its settings.

The presets `llada2_mini_TASK` of `configs/bgpo.py` and `configs/ebpo.py`, for
the tasks of `dlrl/presets/sdar.py`. With `_1gpu` at the end they train adapters
of attention and shared experts on one GPU with 80 GB. They have not been run at
this size. Pass weights with `--config.pretrained`: LLaDA2.0-mini or
LLaDA2.1-mini (https://github.com/inclusionAI/LLaDA2.X).

Rollouts are those of DARE's recipe for LLaDA2.0-mini
(https://github.com/yjyddq/DARE), the rest that for SDAR. For 2.1, which also
edits what it has written, set `threshold` and `edit_threshold` of the samplers
to 0.7 and 0.5 (Q mode) or 0.5 and 0 (S mode).
"""

import ml_collections

from dlrl import config
from dlrl.presets import names
from dlrl.presets import sdar

PREFIX = "llada2_mini_"
PRESETS = [f"{PREFIX}{task}{devices}" for task in sdar.TASKS
           for devices in ("", sdar.ONE_GPU)]


def base(preset: str) -> ml_collections.ConfigDict:
  """BGPO's settings for `preset`; the file of a method changes them.

  Raises:
    ValueError: the preset is unknown.
  """
  if preset not in PRESETS:
    raise names.unknown(preset, PRESETS)
  cfg = config.default()
  cfg.model.update(
    vocab_size=157184, width=2048, layers=20, heads=16, kv_heads=4,
    head_dim=128, mlp_width=5120, rope_theta=600000.0, rotary_dim=64,
    norm_eps=1e-6, qk_norm=True)
  cfg.model.experts.update(
    number=256, per_token=8, width=512, shared_width=512, dense_layers=1,
    router="sigmoid", scale=2.5, groups=8, groups_per_token=4)
  task = preset.removeprefix(PREFIX).removesuffix(sdar.ONE_GPU)
  sdar.blocks(cfg, task, 32)
  sdar.of_experts(cfg)
  cfg.rollout.sampler.temperature = 0.6
  cfg.rollout.sampler.top_k = 0
  for sampler in (cfg.rollout.sampler, cfg.eval.sampler):
    sampler.threshold = 0.95
  cfg.learn.forward_process = "block_balanced"
  cfg.learn.n_mc = 16
  if preset.endswith(sdar.ONE_GPU):
    sdar.one_gpu(cfg)
    cfg.lora.targets = "layers/(attention|mlp/shared)/.*"
  return cfg
