"""Published architectures, by `model_type`.

A family is a table from our parameter paths to published tensor names, used for
loading and saving, and a function from `config.json` to `config.ModelConfig`.
"""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl import config
from dlrl import strict
from dlrl.buckets import models
from dlrl.buckets import objects
from dlrl.hub import snapshots
from dlrl.models.published import architectures
from dlrl.own_code import imported
from dlrl.runtime import json_file

# Makes the error about a directory that cannot be used, from its value and a
# fix; says whether the user named it by a setting, a flag or an argument.
Refusal = Callable[[object, str], strict.ConfigError]
PRETRAINED: Refusal = functools.partial(strict.ConfigError, "pretrained")

_QWEN = {
  "embed/embedding": "model.embed_tokens.weight",
  "layers/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
  "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
  "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
  "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
  "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
  "layers/attention/out/kernel": "model.layers.{}.self_attn.o_proj.weight",
  "norm/scale": "model.norm.weight",
  "unembed/kernel": "lm_head.weight",
} | {
  f"layers/attention/{x}/{ours}": f"model.layers.{{}}.self_attn.{x}_proj.{hf}"
  for x in "qkv" for ours, hf in (("kernel", "weight"), ("bias", "bias"))
} | {
  f"layers/attention/{x}_norm/scale":
    f"model.layers.{{}}.self_attn.{x}_norm.weight" for x in "qk"
}
_EXPERTS = {
  f"layers/mlp/experts/{x}/kernel":
    f"model.layers.{{}}.mlp.experts.{{}}.{x}_proj.weight"
  for x in ("gate", "up", "down")
} | {"layers/mlp/router/kernel": "model.layers.{}.mlp.gate.weight"}
# The same name for several parameters: their rows, one after another.
_LLADA2 = {path: name.replace("embed_tokens", "word_embeddings")
           for path, name in _QWEN.items() if "/attention/" not in path
           } | _EXPERTS | {
  "layers/mlp/router/bias": "model.layers.{}.mlp.gate.expert_bias",
  "layers/attention/out/kernel": "model.layers.{}.attention.dense.weight",
  "layers/attention/q_norm/scale":
    "model.layers.{}.attention.query_layernorm.weight",
  "layers/attention/k_norm/scale":
    "model.layers.{}.attention.key_layernorm.weight",
} | {
  f"layers/attention/{x}/kernel":
    "model.layers.{}.attention.query_key_value.weight" for x in "qkv"
} | {
  f"layers/mlp/shared/{x}/kernel":
    f"model.layers.{{}}.mlp.shared_experts.{x}_proj.weight"
  for x in ("gate", "up", "down")
}
_LLADA = {
  "embed/embedding": "model.transformer.wte.weight",
  "norm/scale": "model.transformer.ln_f.weight",
  "unembed/kernel": "model.transformer.ff_out.weight",
} | {
  f"layers/{ours}": f"model.transformer.blocks.{{}}.{hf}.weight"
  for ours, hf in (
    ("attention/q/kernel", "q_proj"), ("attention/k/kernel", "k_proj"),
    ("attention/v/kernel", "v_proj"), ("attention/out/kernel", "attn_out"),
    ("mlp/gate/kernel", "ff_proj"), ("mlp/up/kernel", "up_proj"),
    ("mlp/down/kernel", "ff_out"), ("attention_norm/scale", "attn_norm"),
    ("mlp_norm/scale", "ff_norm"))
}


@dataclasses.dataclass(frozen=True)
class Family:
  """Checkpoints with the same tensor names.

  Attributes:
    names: maps our path to the published name, with `{}` for the layer number,
      and a second one for that of an expert. Parameters of the same name are
      its rows, in this order. A path in `dense_layers/` has the name of that in
      `layers/`.
    model: reads the fields of `config.json` as those of `config.ModelConfig`.
    expected: options of `config.json` with the values that the network here
      implements; an option may be absent.
    known: fields that `config.json` may leave out, with their values. Families
      with block-causal attention have `block_size`.
  """

  names: Mapping[str, str]
  model: Callable[[json_file.Fields], dict[str, Any]]
  expected: Mapping[str, Sequence[Any]]
  known: Mapping[str, int] = dataclasses.field(default_factory=dict)


_ANY: dict[str, Sequence[Any]] = {
  "quantization_config": (None,), "partial_rotary_factor": (1.0, None)}
_PLAIN = _ANY | {
  "hidden_act": ("silu",), "use_sliding_window": (False, None),
  "use_mrope": (False, None), "mlp_bias": (False, None)}
FAMILIES = {
  "llada": Family(_LLADA, architectures.llada, _ANY | {
    "activation_type": ("silu",), "alibi": (False,), "block_type": ("llama",),
    "attention_layer_norm": (False,), "bias_for_layer_norm": (False, None),
    "clip_qkv": (None,), "include_bias": (False,),
    "include_qkv_bias": (False, None), "input_emb_norm": (False,),
    "layer_norm_type": ("rms",), "layer_norm_with_affine": (True,),
    "multi_query_attention": (None, False), "rope": (True,),
    "scale_logits": (False,)}),
  "Dream": Family(
    _QWEN, lambda f: architectures.qwen(f) | dict(
      qkv_bias=True, shifted=True), _PLAIN),
  "a2d-qwen2": Family(
    _QWEN, lambda f: architectures.qwen(f) | dict(qkv_bias=True), _PLAIN),
  "a2d-qwen3": Family(
    _QWEN, lambda f: architectures.qwen(f) | dict(qk_norm=True),
    _PLAIN | {"attention_bias": (False, None)}),
  "sdar": Family(
    _QWEN, lambda f: architectures.qwen(f) | dict(
      qk_norm=True, block_length=architectures.block_length(f)),
    _PLAIN | {
      "attention_bias": (False, None), "attention_dropout": (0.0, None),
      "num_experts": (None, 0)},
    known={"block_size": 4, "mask_token_id": 151669}),
  "sdar_moe": Family(
    _QWEN | _EXPERTS, lambda f: architectures.qwen(f) | dict(
      qk_norm=True, block_length=architectures.block_length(f),
      experts=architectures.softmax_experts(f)),
    _PLAIN | {
      "attention_bias": (False, None), "attention_dropout": (0.0, None),
      "decoder_sparse_step": (1, None), "mlp_only_layers": ([], None)},
    known={"block_size": 4, "mask_token_id": 151669}),
  "llada2_moe": Family(
    _LLADA2, architectures.llada2, {
      "quantization_config": (None,), "hidden_act": ("silu",),
      "use_sliding_window": (False, None), "use_bias": (False,),
      "use_qkv_bias": (False,), "use_qk_norm": (True,), "use_rmsnorm": (True,),
      "norm_head": (False, None), "norm_softmax": (False, None),
      "attention_dropout": (0.0, None), "embedding_dropout": (0.0, None),
      "output_dropout": (0.0, None), "router_dtype": ("fp32",),
      "score_function": ("sigmoid",), "moe_router_enable_expert_bias": (True,),
      "using_split_qkv_in_self_attention": (False,)},
    known={"block_size": 32, "mask_token_id": 156895}),
  "llada_moe": Family(
    _QWEN | _EXPERTS, architectures.llada_moe, _PLAIN | {
      "attention_bias": (False, None), "attention_dropout": (0.0, None),
      "clip_qkv": (None,), "moe_router_enable_expert_bias": (False, None),
      "moe_router_score_function": ("softmax", None),
      "norm_topk_prob": (False, None), "qk_layernorm": (True,),
      "routed_scaling_factor": (1, None), "router_num_group": (None,),
      "router_topk_group": (None,),
      "shared_expert_intermediate_size": (None,)},
    known={"mask_token_id": 156895}),
}


def read_config(
  directory: str | pathlib.Path, *, dtype: str = "float32",
  block_length: int | None = None, mask_id: int | None = None,
  family: Family | None = None, error: Refusal = PRETRAINED,
) -> tuple[config.ModelConfig, dict[str, Any]]:
  """Reads the architecture of a checkpoint from its `config.json`.

  Args:
    directory: the checkpoint, as of `folder`.
    dtype: of parameters and computation, whatever the file says.
    block_length: replaces the file's `block_size`, with a warning.
    mask_id: replaces the file's `mask_token_id`.
    family: the user's, whatever the file's `model_type` is; None: that of
      `model_type`.
    error: makes the error to raise.

  Returns:
    The architecture, and the whole file as a dict, `completed` and with what
    was replaced. `mask_token_id` is the id of a row of the embedding.

  Raises:
    strict.ConfigError: the file is missing or damaged, the family is unknown,
      or fields are missing, of the wrong type, out of range, contradictory or
      not supported; all of them in one message.
  """
  refuse = functools.partial(error, str(directory))
  file = json_file.read(folder(directory, refuse) / "config.json", refuse)
  given = {"block_size": block_length, "mask_token_id": mask_id}
  hf = completed(file, family) | {
    k: v for k, v in given.items() if v is not None}
  fields = json_file.Fields("config.json", hf)
  kind = _kind(hf)
  if family is None and kind not in list(FAMILIES):
    raise refuse(
      f"model_type is {json_file.shown(kind)} in its config.json; supported: "
      f"{', '.join(FAMILIES)}, and with config.family, dlrl chat's --family or "
      "load's family, one of your own")
  family = of(hf, family)
  for name, allowed in family.expected.items():
    fields.one_of(name, allowed)
  model = family.model(fields) | dict(
    rope_theta=architectures.rope_theta(fields))
  fields.require(
    block_length is None or "block_size" in family.known,
    f"block_length is {block_length}, and models of model_type {kind!r} have "
    "no blocks; leave it out")
  mask = fields.integer("mask_token_id", 0, architectures.VOCABULARY)
  fields.finish(refuse)
  _check_heads(fields, model)
  fields.require(
    mask < model["vocab_size"], f"{_mask(file, mask_id, mask)}; must be below "
    f"the vocabulary's {model['vocab_size']}")
  fields.finish(refuse)
  if block_length not in (None, file.get("block_size") or block_length):
    warnings.warn(
      f"block_length is {block_length}, but {directory} was trained with "
      f"blocks of {json_file.shown(file['block_size'])} (block_size in its "
      "config.json): its predictions will be worse", stacklevel=3)
  return config.ModelConfig(**model, param_dtype=dtype, compute_dtype=dtype), hf


def _check_heads(fields: json_file.Fields, model: Mapping[str, Any]) -> None:
  fields.require(
    model["heads"] % model["kv_heads"] == 0, f"its config.json has "
    f"{model['kv_heads']} heads of keys, which do not divide the "
    f"{model['heads']} of queries")
  fields.require(
    model["head_dim"] % 2 == 0, f"its config.json gives heads of size "
    f"{model['head_dim']}; must be even, for rotary positions")


def _mask(file: Mapping[str, Any], given: int | None, mask: int) -> str:
  """Says where the id of the mask token comes from."""
  if given is not None:
    return f"mask_id is {mask}"
  if file.get("mask_token_id") is not None:
    return f"mask_token_id is {mask} in its config.json"
  return (f"its config.json has no field 'mask_token_id', and {mask} is usual "
          "for its model_type")


def of(hf: Mapping[str, Any], family: Family | None = None) -> Family:
  """The user's family, or ours of a `config.json`, by its `model_type`."""
  return family or FAMILIES[_kind(hf)]


def _kind(hf: Mapping[str, Any]) -> Any:
  """The `model_type`; LLaDA-MoE, which has LLaDA's, is told by its class."""
  kind, classes = hf.get("model_type"), hf.get("architectures")
  mixture = isinstance(classes, list) and "LLaDAMoEModelLM" in classes
  return "llada_moe" if kind == "llada" and mixture else kind


def named(path: str, field: str = "family",
          error: type[strict.ConfigError] = strict.ConfigError
          ) -> Family | None:
  """The user's family `package.module:name`; None for "".

  A checkpoint's files cannot name one: only settings and flags do.

  Args:
    path: its name.
    field: the setting or flag, for messages.
    error: how a wrong one is reported.

  Raises:
    strict.ConfigError: it cannot be imported, or is something else.
  """
  if not path:
    return None
  found = imported.load(path, field, error)
  if not isinstance(found, Family):
    raise error(field, path, "must be a dlrl.models.families.Family, got "
                f"{type(found).__name__}")
  return found


def completed(hf: Mapping[str, Any], family: Family | None = None
              ) -> dict[str, Any]:
  """Adds to a `config.json` what it leaves out and its family implies."""
  known: Mapping[str, int] = {}
  if family or _kind(hf) in list(FAMILIES):
    known = of(hf, family).known
  return dict(hf) | {name: value for name, value in known.items()
                     if hf.get(name) is None}


def folder(
  directory: str | pathlib.Path, refuse: json_file.Refuse,
  files: Sequence[str] = snapshots.DESCRIPTION,
) -> pathlib.Path:
  """The directory of a checkpoint: as it is named, or of a cache.

  Args:
    directory: its path, in which `~` is replaced; gs://BUCKET/PATH; or ORG/NAME
      or ORG/NAME@REVISION on the Hub, unless there is such a path.
    refuse: makes the error to raise.
    files: patterns of those that are wanted, which are downloaded.
  """
  if isinstance(directory, str) and objects.named(directory):
    return models.fetch(directory, files, refuse)
  repo = snapshots.model(directory) if isinstance(directory, str) else None
  if repo:
    return snapshots.fetch(repo, files, refuse)
  try:
    path = pathlib.Path(directory).expanduser()
  except RuntimeError as e:  # `~name` of an unknown user
    raise refuse(f"{e}; name the directory of a downloaded checkpoint") from e
  if not os.path.exists(path):
    raise refuse(
      "there is no such directory, and it is not ORG/NAME or "
      "ORG/NAME@REVISION, as a model on the Hub is named; correct it, or name "
      "the directory of a downloaded checkpoint")
  return path
