"""Published architectures: LLaDA, Dream, bidirectional Qwen, SDAR.

A family is a table from our parameter paths to published tensor names, used for
loading and saving, and a function from `config.json` to `config.ModelConfig`. A
matrix is `[out, in]` there and `[in, out]` here. Each layer has tensors of its
own there; here it is one row of a stacked axis.
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
    names: maps our path to the published name, with `{}` for the layer number.
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


# Bounds far above all published models: a larger number is a mistake, and
# would take hours or all memory before anything else notices it.
_VOCABULARY, _WIDTH, _LAYERS, _HEADS, _BLOCK = 2**24, 2**18, 1024, 4096, 2**16


def _llada(f: json_file.Fields) -> dict[str, Any]:
  heads = f.integer("n_heads", 1, _HEADS)
  width = f.integer("d_model", 1, _WIDTH)
  _divides(f, "n_heads", heads, "d_model", width)
  rows = f.integer("embedding_size", 1, _VOCABULARY, null=0)
  if not rows or "vocab_size" in f.values:
    used = f.integer("vocab_size", 1, _VOCABULARY)
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


def _qwen(f: json_file.Fields) -> dict[str, Any]:
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
    vocab_size=f.integer("vocab_size", 1, _VOCABULARY), width=width,
    layers=layers, heads=heads,
    kv_heads=f.integer("num_key_value_heads", 1, _HEADS, null=heads),
    head_dim=head_dim, mlp_width=f.integer("intermediate_size", 1, _WIDTH),
    norm_eps=f.number("rms_norm_eps", *_EPSILON),
    tied=f.boolean("tie_word_embeddings"))


_EPSILON = 1e-12, 0.1
_THETA = 1.0, 1e12


def _divides(f: json_file.Fields, part: str, n: int, whole: str, of: int
             ) -> None:
  f.require(bool(f.problems) or of % n == 0, f"{part} is {n} in its "
            f"config.json; must divide {whole} = {of}")


def _rope_theta(f: json_file.Fields) -> float:
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


_PLAIN_ROPE: Mapping[str, Sequence[Any]] = {
  "rope_type": ("default",), "type": ("default",),
  "partial_rotary_factor": (1.0,)}
_ANY: dict[str, Sequence[Any]] = {
  "quantization_config": (None,), "partial_rotary_factor": (1.0, None)}
_PLAIN = _ANY | {
  "hidden_act": ("silu",), "use_sliding_window": (False, None),
  "use_mrope": (False, None), "mlp_bias": (False, None)}
FAMILIES = {
  "llada": Family(_LLADA, _llada, _ANY | {
    "activation_type": ("silu",), "alibi": (False,), "block_type": ("llama",),
    "attention_layer_norm": (False,), "bias_for_layer_norm": (False, None),
    "clip_qkv": (None,), "include_bias": (False,),
    "include_qkv_bias": (False, None), "input_emb_norm": (False,),
    "layer_norm_type": ("rms",), "layer_norm_with_affine": (True,),
    "multi_query_attention": (None, False), "rope": (True,),
    "scale_logits": (False,)}),
  "Dream": Family(
    _QWEN, lambda f: _qwen(f) | dict(qkv_bias=True, shifted=True), _PLAIN),
  "a2d-qwen2": Family(
    _QWEN, lambda f: _qwen(f) | dict(qkv_bias=True), _PLAIN),
  "a2d-qwen3": Family(
    _QWEN, lambda f: _qwen(f) | dict(qk_norm=True),
    _PLAIN | {"attention_bias": (False, None)}),
  "sdar": Family(
    _QWEN, lambda f: _qwen(f) | dict(
      qk_norm=True, block_length=f.integer("block_size", 1, _BLOCK)),
    _PLAIN | {
      "attention_bias": (False, None), "attention_dropout": (0.0, None),
      "num_experts": (None, 0)},
    known={"block_size": 4, "mask_token_id": 151669}),
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
    was replaced. `model_type` is a key of `FAMILIES`, unless the family is the
    user's, and `mask_token_id` the id of a row of the embedding.

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
  kind = hf.get("model_type")
  if family is None and kind not in list(FAMILIES):
    raise refuse(
      f"model_type is {json_file.shown(kind)} in its config.json; supported: "
      f"{', '.join(FAMILIES)}, and with config.family, dlrl chat's --family or "
      "load's family, one of your own")
  family = of(hf, family)
  for name, allowed in family.expected.items():
    fields.one_of(name, allowed)
  model = family.model(fields) | dict(rope_theta=_rope_theta(fields))
  fields.require(
    block_length is None or "block_size" in family.known,
    f"block_length is {block_length}, and models of model_type {kind!r} have "
    "no blocks; leave it out")
  mask = fields.integer("mask_token_id", 0, _VOCABULARY)
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
  return family or FAMILIES[hf["model_type"]]


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
  if family or hf.get("model_type") in list(FAMILIES):
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


def transposed(path: str) -> bool:
  """Tells whether our parameter is the transpose of the published tensor."""
  return path.endswith("/kernel")


def stacked(path: str) -> bool:
  """Tells whether the first axis of our parameter counts layers."""
  return path.startswith("layers/")


def published(
  family: Family, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
  """Returns the names and shapes of all tensors of a checkpoint.

  Args:
    family: the family of the checkpoint.
    shapes: shapes of our parameters, by path.
  """
  result = {}
  for path, shape in shapes.items():
    one = shape[1:] if stacked(path) else shape
    for i in range(shape[0] if stacked(path) else 1):
      result[family.names[path].format(i)] = (
        one[::-1] if transposed(path) else one)
  return result
