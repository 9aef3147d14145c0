"""The published forward pass of block diffusion, in NumPy and float64.

Rows [noisy | clean] of 2 t tokens at positions 0..t-1 twice, under the dense
mask of SDAR's modeling code. One row at a time, without padding.
"""

import numpy as np


def mask(t, size):
  """[2t, 2t] bool: which column (second axis) each one attends to."""
  block = np.tile(np.arange(t) // size, 2)
  clean = np.arange(2 * t) >= t
  asks, seen = block[:, None], block[None]
  both_noisy = ~clean[:, None] & ~clean[None] & (asks == seen)
  noisy_to_clean = ~clean[:, None] & clean[None] & (asks > seen)
  both_clean = clean[:, None] & clean[None] & (asks >= seen)
  return both_noisy | noisy_to_clean | both_clean


def logits(params, cfg, noisy, clean):
  """Logits [2t, v] of one row: of the noisy half, then of the clean one."""
  t = len(clean)
  seen = mask(t, cfg.block_length)
  positions = np.tile(np.arange(t), 2)
  x = params["embed"]["embedding"][np.concatenate([noisy, clean])]
  stacked = params["layers"]
  for i in range(cfg.layers):
    layer = {
      part: {name: value[i] for name, value in flat(stacked[part]).items()}
      for part in stacked}
    y = norm(x, layer["attention_norm"]["scale"], cfg)
    x = x + attention(y, layer["attention"], cfg, positions, seen)
    y = norm(x, layer["mlp_norm"]["scale"], cfg)
    mlp = layer["mlp"]
    gate = y @ mlp["gate/kernel"]
    x = x + (gate / (1 + np.exp(-gate)) * (y @ mlp["up/kernel"])
             ) @ mlp["down/kernel"]
  return norm(x, params["norm"]["scale"], cfg) @ params["unembed"]["kernel"]


def flat(tree, stem=""):
  found = {}
  for name, value in tree.items():
    found |= (flat(value, f"{stem}{name}/") if isinstance(value, dict)
              else {stem + name: value})
  return found


def attention(x, w, cfg, positions, seen):
  heads = {}
  for name, count in (("q", cfg.heads), ("k", cfg.kv_heads),
                      ("v", cfg.kv_heads)):
    y = (x @ w[f"{name}/kernel"]).reshape(len(x), count, cfg.head_dim)
    if name != "v":
      if cfg.qk_norm:
        y = norm(y, w[f"{name}_norm/scale"], cfg)
      y = rotated(y, positions, cfg.rope_theta)
    heads[name] = np.repeat(y, cfg.heads // count, 1)
  scores = np.einsum("thk,shk->hts", heads["q"], heads["k"])
  scores = np.where(seen, scores / np.sqrt(cfg.head_dim), -np.inf)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  out = np.einsum("hts,shk->thk", p, heads["v"]).reshape(len(x), -1)
  return out @ w["out/kernel"]


def norm(x, scale, cfg):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.norm_eps) * scale


def rotated(x, positions, theta):
  half = x.shape[-1] // 2
  angle = positions[:, None, None] * theta ** (-np.arange(half) / half)
  a, b = x[..., :half], x[..., half:]
  return np.concatenate([a * np.cos(angle) - b * np.sin(angle),
                         b * np.cos(angle) + a * np.sin(angle)], -1)
