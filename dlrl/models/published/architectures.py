"""Reads the fields of a `config.json` as those of `config.ModelConfig`."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl import config
from dlrl.runtime import json_file

# Bounds far above all published models: a larger number is a mistake, and
# would take hours or all memory before anything else notices it.
VOCABULARY = 2**24
_WIDTH, _LAYERS, _HEADS, _EXPERTS, _BLOCK = 2**18, 1024, 4096, 2**14, 2**16
_EPSILON = 1e-12, 0.1
_THETA = 1.0, 1e12
_PLAIN_ROPE: Mapping[str, Sequence[Any]] = {
  "rope_type": ("default",), "type": ("default",),
  "partial_rotary_factor": (1.0,)}


def llada(f: json_file.Fields) -> dict[str, Any]:
  """LLaDA."""
  heads = f.integer("n_heads", 1, _HEADS)
  width = f.integer("d_model", 1, _WIDTH)
  _divides(f, "n_heads", heads, "d_model", width)
  rows = f.integer("embedding_size", 1, VOCABULARY, null=0)
  if not rows or "vocab_size" in f.values:
    used = f.integer("vocab_size", 1, VOCABULARY)
    f.require(
      bool(f.problems) or used <= (rows or used), f"embedding_size is {rows} "
      f"in its config.json; must be at least vocab_size = {used}")
    rows = rows or used
  return dict(
    vocab_size=rows, width=width, heads=heads,
    layers=f.integer("n_layers", 1, _LAYERS),
    kv_heads=f.integer("n_kv_heads", 1, _HEADS, null=heads),
    head_dim=width // heads, mlp_width=f.integer("mlp_hidden_size", 1, _WIDTH),
    norm_eps=f.number("rms_norm_eps", *_EPSILON),
    tied=f.boolean("weight_tying"))


def qwen(
  f: json_file.Fields, mlp_width: str = "intermediate_size"
) -> dict[str, Any]:
  """Qwen2 and Qwen3, and all with their names of fields but `mlp_width`."""
  heads = f.integer("num_attention_heads", 1, _HEADS)
  width = f.integer("hidden_size", 1, _WIDTH)
  layers = f.integer("num_hidden_layers", 1, _LAYERS)
  if f.values.get("head_dim") is None:
    _divides(f, "num_attention_heads", heads, "hidden_size", width)
    head_dim = width // heads
  else:
    head_dim = f.integer("head_dim", 1, _HEADS)
  kinds = f.values.get("layer_types")
  f.require(
    bool(f.problems) or kinds in (None, ["full_attention"] * layers),
    f"layer_types is {json_file.shown(kinds)} in its config.json; only "
    f"'full_attention' for each of the {layers} layers is supported")
  return dict(
    vocab_size=f.integer("vocab_size", 1, VOCABULARY), width=width,
    layers=layers, heads=heads,
    kv_heads=f.integer("num_key_value_heads", 1, _HEADS, null=heads),
    head_dim=head_dim, mlp_width=f.integer(mlp_width, 1, _WIDTH),
    norm_eps=f.number("rms_norm_eps", *_EPSILON),
    tied=f.boolean("tie_word_embeddings"))


def block_length(f: json_file.Fields) -> int:
  """Tokens per block of block-causal attention."""
  return f.integer("block_size", 1, _BLOCK)


def softmax_experts(f: json_file.Fields) -> config.ExpertsConfig:
  """Experts of every layer, as Qwen3's and SDAR's mixtures have them."""
  return dataclasses.replace(
    _experts(f, "moe_intermediate_size"),
    normalized=f.boolean("norm_topk_prob"))


def _experts(f: json_file.Fields, width: str) -> config.ExpertsConfig:
  number = f.integer("num_experts", 1, _EXPERTS)
  per_token = f.integer("num_experts_per_tok", 1, _EXPERTS)
  f.require(bool(f.problems) or per_token <= number,
            f"num_experts_per_tok is {per_token} in its config.json; must be "
            f"at most num_experts = {number}")
  return config.ExpertsConfig(
    number, per_token, f.integer(width, 1, _WIDTH))


def llada_moe(f: json_file.Fields) -> dict[str, Any]:
  """LLaDA-MoE: experts whose weights are probabilities among all of them."""
  found = qwen(f, "dense_intermediate_size")
  kinds = f.values.get("moe_layer_freq")
  f.require(
    bool(f.problems) or kinds in (None, [1] * found["layers"]),
    f"moe_layer_freq is {json_file.shown(kinds)} in its config.json; only 1 "
    f"for each of the {found['layers']} layers is supported")
  return found | dict(qk_norm=True, experts=dataclasses.replace(
    _experts(f, "expert_intermediate_size"), normalized=False))


def llada2(f: json_file.Fields) -> dict[str, Any]:
  """LLaDA2.0 and 2.1: experts in groups, and heads of which a part rotates."""
  found = qwen(f)
  rotated = f.integer("rotary_dim", 1, _HEADS)
  f.require(
    bool(f.problems) or (rotated % 2 == 0 and rotated <= found["head_dim"]),
    f"rotary_dim is {rotated} in its config.json; must be even and at most "
    f"head_dim = {found['head_dim']}")
  part = f.values.get("partial_rotary_factor")
  f.require(
    bool(f.problems) or part is None
    or json_file.same(part, rotated / found["head_dim"]),
    f"partial_rotary_factor is {json_file.shown(part)} in its config.json, and "
    f"rotary_dim {rotated} of head_dim = {found['head_dim']}")
  return found | dict(
    qk_norm=True, block_length=block_length(f),
    rotary_dim=rotated, experts=_grouped_experts(f, found["layers"]))


def _grouped_experts(f: json_file.Fields, layers: int) -> config.ExpertsConfig:
  plain = softmax_experts(f)
  groups = f.integer("n_group", 1, _EXPERTS)
  kept = f.integer("topk_group", 1, _EXPERTS)
  dense = f.integer("first_k_dense_replace", 0, _LAYERS)
  shared = f.integer("num_shared_experts", 0, _EXPERTS)
  if not f.problems:
    _divides(f, "n_group", groups, "num_experts", plain.number)
    f.require(kept <= groups, f"topk_group is {kept} in its config.json; must "
              f"be at most n_group = {groups}")
    each = plain.number // groups
    f.require(
      groups == 1 or (each > 1 and plain.per_token <= each * kept),
      f"num_experts_per_tok is {plain.per_token} in its config.json, which "
      f"does not fit {groups} groups of {each} experts, of which {kept} count")
    f.require(dense < layers, f"first_k_dense_replace is {dense} in its "
              f"config.json; must be below num_hidden_layers = {layers}")
  return dataclasses.replace(
    plain, shared_width=shared * plain.width, dense_layers=dense,
    router="sigmoid", scale=f.number("routed_scaling_factor", 1e-3, 1e3),
    groups=groups, groups_per_token=kept)


def _divides(f: json_file.Fields, part: str, n: int, whole: str, of: int
             ) -> None:
  f.require(bool(f.problems) or of % n == 0, f"{part} is {n} in its "
            f"config.json; must divide {whole} = {of}")


def rope_theta(f: json_file.Fields) -> float:
  """Reads the base of the rotary frequencies.

  It is a field of its own; transformers 5 writes it into `rope_parameters`,
  which replaces `rope_scaling` as well.
  """
  bases = []
  if f.values.get("rope_theta") is not None:
    bases.append(f.number("rope_theta", *_THETA))
  for name in ("rope_parameters", "rope_scaling"):
    value = f.values.get(name)
    inner = {} if value is None else value
    plain = isinstance(inner, dict) and all(
      any(json_file.same(option, allowed)
          for allowed in (None, *_PLAIN_ROPE.get(key, ())))
      for key, option in inner.items() if key != "rope_theta")
    f.require(plain, f"{name} is {json_file.shown(value)} in its config.json; "
              "only rope_type 'default' with a rope_theta is supported")
    if plain and inner.get("rope_theta") is not None:
      parameters = json_file.Fields(f"config.json's {name}", inner)
      bases.append(parameters.number("rope_theta", *_THETA))
      f.problems += parameters.problems
  f.require(bool(bases), "its config.json has no field 'rope_theta'")
  f.require(
    len(set(bases)) < 2, "rope_theta is given more than once in its "
    f"config.json, as {' and '.join(map(str, bases))}")
  return bases[0] if bases else 1.0
