"""LLaDA-MoE: bidirectional attention and experts in every layer."""

import json
import math

import jax
import joint_forward
import numpy as np
from mixtures import LLADA_MOE
from mixtures import published_tensors
from mixtures import write

from dlrl import config
from dlrl import models
from dlrl.models import families


def silu(x):
  return x / (1 + np.exp(-x))


def bidirectional_logits(tensors, cfg, ids):
  """LLaDA-MoE's forward pass of one row, from published tensors in float64."""
  w = {name: np.asarray(x, np.float64) for name, x in tensors.items()}
  everything = np.ones((len(ids), len(ids)), bool)
  x = w["model.embed_tokens.weight"][ids]
  for i in range(cfg.layers):
    stem = f"model.layers.{i}."
    parts = {f"{part}/kernel": w[f"{stem}self_attn.{name}.weight"].T
             for part, name in zip(
               ("q", "k", "v", "out"), ("q_proj", "k_proj", "v_proj", "o_proj"),
               strict=True)}
    parts |= {f"{part}_norm/scale": w[f"{stem}self_attn.{part}_norm.weight"]
              for part in "qk"}
    y = joint_forward.norm(x, w[stem + "input_layernorm.weight"], cfg)
    x = x + joint_forward.attention(
      y, parts, cfg, np.arange(len(ids)), everything)
    y = joint_forward.norm(x, w[stem + "post_attention_layernorm.weight"], cfg)
    scores = np.exp(y @ w[stem + "mlp.gate.weight"].T)
    scores /= scores.sum(-1, keepdims=True)
    out = np.zeros_like(x)
    for t, score in enumerate(scores):
      for e in np.argsort(-score)[:3]:
        up, gate, down = (w[f"{stem}mlp.experts.{e}.{name}_proj.weight"]
                          for name in ("up", "gate", "down"))
        out[t] += score[e] * (down @ (silu(gate @ y[t]) * (up @ y[t])))
    x = x + out
  return joint_forward.norm(
    x, w["model.norm.weight"], cfg) @ w["lm_head.weight"].T


def test_llada_moe_sees_whole_rows_and_weighs_by_probability(tmp_path):
  tensors = write(tmp_path / "a", LLADA_MOE)
  model, params = models.load(tmp_path / "a", dtype="float32")
  assert model.cfg == config.ModelConfig(
    vocab_size=20, width=8, layers=2, heads=2, kv_heads=2, head_dim=4,
    mlp_width=12, rope_theta=5e4, norm_eps=1e-5, qk_norm=True,
    experts=config.ExpertsConfig(8, 3, 6, normalized=False))
  ids = np.random.default_rng(3).integers(0, 20, (2, 7))
  lengths = np.array([7, 5])
  got = jax.jit(model.logits)(params, ids, lengths)
  for row, n, found in zip(ids, lengths, got, strict=True):
    np.testing.assert_allclose(
      found[:n], bidirectional_logits(tensors, model.cfg, row[:n]), atol=1e-4)


def test_llada_moe_at_full_size(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(LLADA_MOE | {
    "hidden_size": 2048, "num_hidden_layers": 16, "moe_layer_freq": [1] * 16,
    "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "expert_intermediate_size": 1024,
    "dense_intermediate_size": 8192, "vocab_size": 157_184,
    "mask_token_id": None}))
  cfg, hf = families.read_config(tmp_path)
  assert (hf["mask_token_id"], cfg.block_length) == (156_895, 0)
  ours = published_tensors(tmp_path)
  assert len(ours) == 3 + 16 * (9 + 3 * 64)
  # Published as 7.36 billion parameters.
  assert round(sum(map(math.prod, ours.values())) / 1e7) == 736
