"""Tiny random checkpoints of mixtures of experts, as if published."""

import json

import jax.numpy as jnp
import networks
import numpy as np
from safetensors import numpy as safetensors_numpy

from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import transformer
from dlrl.models.published import files as files_lib
from dlrl.models.published import tensors as tensors_lib

SDAR = {
  "model_type": "sdar_moe", "attention_bias": False, "decoder_sparse_step": 1,
  "head_dim": 4, "hidden_act": "silu", "hidden_size": 8,
  "intermediate_size": 16, "mlp_only_layers": [], "moe_intermediate_size": 6,
  "norm_topk_prob": True, "num_attention_heads": 4, "num_experts": 8,
  "num_experts_per_tok": 3, "num_hidden_layers": 2, "num_key_value_heads": 2,
  "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
  "vocab_size": 20, "mask_token_id": 19, "torch_dtype": "bfloat16"}
LLADA2 = {
  "model_type": "llada2_moe", "dtype": "bfloat16", "first_k_dense_replace": 1,
  "head_dim": 4, "hidden_act": "silu", "hidden_size": 8,
  "intermediate_size": 12, "moe_intermediate_size": 6,
  "moe_router_enable_expert_bias": True, "n_group": 4, "norm_topk_prob": True,
  "num_attention_heads": 4, "num_experts": 8, "num_experts_per_tok": 3,
  "num_hidden_layers": 3, "num_key_value_heads": 2, "num_shared_experts": 1,
  "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-6, "rope_theta": 600000,
  "rotary_dim": 2, "routed_scaling_factor": 2.5, "router_dtype": "fp32",
  "score_function": "sigmoid", "tie_word_embeddings": False, "topk_group": 2,
  "use_bias": False, "use_qk_norm": True, "use_qkv_bias": False,
  "use_rmsnorm": True, "using_split_qkv_in_self_attention": False,
  "vocab_size": 20, "mask_token_id": 19}
LLADA_MOE = {
  "model_type": "llada", "architectures": ["LLaDAMoEModelLM"],
  "attention_bias": False, "clip_qkv": None, "dense_intermediate_size": 12,
  "expert_intermediate_size": 6, "hidden_act": "silu", "hidden_size": 8,
  "moe_layer_freq": [1, 1], "moe_router_enable_expert_bias": False,
  "norm_topk_prob": None, "num_attention_heads": 2, "num_experts": 8,
  "num_experts_per_tok": 3, "num_hidden_layers": 2, "num_key_value_heads": 2,
  "partial_rotary_factor": 1, "qk_layernorm": True, "rms_norm_eps": 1e-5,
  "rope_scaling": None, "rope_theta": 50000, "routed_scaling_factor": 1,
  "router_num_group": None, "router_topk_group": None,
  "shared_expert_intermediate_size": None, "tie_word_embeddings": False,
  "vocab_size": 20, "mask_token_id": 19, "torch_dtype": "bfloat16"}
BIAS = "model.layers.{}.mlp.gate.expert_bias"


def swiglu(stem, width):
  return {f"{stem}gate_proj.weight": (width, 8),
          f"{stem}up_proj.weight": (width, 8),
          f"{stem}down_proj.weight": (8, width)}


def experts(stem):
  found = {f"{stem}gate.weight": (8, 8)}
  for e in range(8):
    found |= swiglu(f"{stem}experts.{e}.", 6)
  return found


def shapes_of(hf):
  """The published names and shapes, written out."""
  llada2 = hf["model_type"] == "llada2_moe"
  found = {"lm_head.weight": (20, 8), "model.norm.weight": (8,), (
    "model.word_embeddings.weight" if llada2 else "model.embed_tokens.weight"):
      (20, 8)}
  for i in range(hf["num_hidden_layers"]):
    stem = f"model.layers.{i}."
    found |= {f"{stem}input_layernorm.weight": (8,),
              f"{stem}post_attention_layernorm.weight": (8,)}
    if llada2:
      found |= {
        f"{stem}attention.query_key_value.weight": (16 + 8 + 8, 8),
        f"{stem}attention.query_layernorm.weight": (4,),
        f"{stem}attention.key_layernorm.weight": (4,),
        f"{stem}attention.dense.weight": (8, 16)}
    else:
      q = 4 * hf["num_attention_heads"]
      found |= {f"{stem}self_attn.{name}.weight": shape for name, shape in (
        ("q_proj", (q, 8)), ("k_proj", (8, 8)), ("v_proj", (8, 8)),
        ("o_proj", (8, q)), ("q_norm", (4,)), ("k_norm", (4,)))}
    if not llada2:
      found |= experts(f"{stem}mlp.")
    elif i == 0:
      found |= swiglu(f"{stem}mlp.", 12)
    else:
      found |= experts(f"{stem}mlp.") | swiglu(
        f"{stem}mlp.shared_experts.", 6) | {BIAS.format(i): (8,)}
  return found


def write(root, hf=LLADA2, bias=jnp.bfloat16, parts=1, change=None, **changes):
  """Writes a random checkpoint in bf16, in several files, and returns it.

  Args:
    root: the directory to make.
    hf: config.json.
    bias: dtype of the router's bias.
    parts: number of files.
    change: changes the tensors.
    **changes: of config.json; ... removes a field.
  """
  root.mkdir()
  (root / "config.json").write_text(json.dumps(
    {k: v for k, v in (hf | changes).items() if v is not ...}))
  rng = np.random.default_rng(0)
  tensors = {
    name: rng.normal(size=shape).astype(
      bias if "bias" in name else jnp.bfloat16)
    for name, shape in shapes_of(hf).items()}
  if change:
    change(tensors)
  names = sorted(tensors)
  placed = {}
  for i in range(parts):
    file = (files_lib.SINGLE if parts == 1 else
            f"model-{i + 1:05}-of-{parts:05}.safetensors")
    safetensors_numpy.save_file(
      {name: tensors[name] for name in names[i::parts]}, root / file)
    placed |= dict.fromkeys(names[i::parts], file)
  if parts > 1:
    (root / files_lib.INDEX).write_text(json.dumps({"weight_map": placed}))
  return tensors


def published_tensors(root):
  """Our names and shapes of the published tensors of a config.json."""
  cfg, hf = families.read_config(root)
  shapes = hf_checkpoints._shapes(networks.shapes_of(
    transformer.build(cfg, hf["mask_token_id"])))
  return tensors_lib.published(
    families.of(hf).names, shapes)


def routed_by_hand(logits, bias, cfg):
  """The experts and weights of one token, best first, in float64."""
  logits = [float(x) for x in logits]
  if cfg.router == "softmax":
    total = sum(np.exp(x) for x in logits)
    score = [np.exp(x) / total for x in logits]
  else:
    score = [1 / (1 + np.exp(-x)) for x in logits]
  ranked = [s + float(b) for s, b in zip(score, bias, strict=True)]
  size = cfg.number // cfg.groups
  groups = [range(g * size, (g + 1) * size) for g in range(cfg.groups)]
  best = sorted(groups, reverse=True, key=lambda group: sum(
    sorted((ranked[e] for e in group), reverse=True)[:2]))
  allowed = [e for group in best[:cfg.groups_per_token] for e in group]
  chosen = sorted(allowed, key=lambda e: -ranked[e])[:cfg.per_token]
  total = sum(score[e] for e in chosen) if cfg.normalized else 1.0
  return chosen, [cfg.scale * score[e] / total for e in chosen]
