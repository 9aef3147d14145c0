"""Published architectures: LLaDA, Dream, bidirectional Qwen.

A family is a table from our parameter paths to published tensor names, used for
loading and saving, and a function from `config.json` to `config.ModelConfig`. A
matrix is `[out, in]` there and `[in, out]` here. Each layer has tensors of its
own there; here it is one row of a stacked axis.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from dlrl import config
from dlrl import strict

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
    model: maps the fields of `config.json` to those of `config.ModelConfig`.
    expected: options of `config.json` with the only value that the network here
      implements; an option may be absent.
  """

  names: Mapping[str, str]
  model: Callable[[Mapping[str, Any]], dict[str, Any]]
  expected: Mapping[str, Any]


def _llada(hf: Mapping[str, Any]) -> dict[str, Any]:
  heads = hf["n_heads"]
  return dict(
    vocab_size=hf["embedding_size"] or hf["vocab_size"], width=hf["d_model"],
    layers=hf["n_layers"], heads=heads, kv_heads=hf["n_kv_heads"] or heads,
    head_dim=hf["d_model"] // heads, mlp_width=hf["mlp_hidden_size"],
    rope_theta=float(hf["rope_theta"]), norm_eps=hf["rms_norm_eps"],
    tied=hf["weight_tying"])


def _qwen(hf: Mapping[str, Any]) -> dict[str, Any]:
  heads = hf["num_attention_heads"]
  return dict(
    vocab_size=hf["vocab_size"], width=hf["hidden_size"],
    layers=hf["num_hidden_layers"], heads=heads,
    kv_heads=hf["num_key_value_heads"],
    head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
    mlp_width=hf["intermediate_size"], rope_theta=float(hf["rope_theta"]),
    norm_eps=hf["rms_norm_eps"], tied=hf["tie_word_embeddings"])


_PLAIN = {"hidden_act": "silu", "rope_scaling": None,
          "use_sliding_window": False}
FAMILIES = {
  "llada": Family(_LLADA, _llada, {
    "activation_type": "silu", "alibi": False, "block_type": "llama",
    "attention_layer_norm": False, "bias_for_layer_norm": False,
    "include_bias": False, "include_qkv_bias": False, "input_emb_norm": False,
    "layer_norm_type": "rms", "rope": True, "scale_logits": False}),
  "Dream": Family(
    _QWEN, lambda hf: _qwen(hf) | dict(qkv_bias=True, shifted=True), _PLAIN),
  "a2d-qwen2": Family(
    _QWEN, lambda hf: _qwen(hf) | dict(qkv_bias=True), _PLAIN),
  "a2d-qwen3": Family(
    _QWEN, lambda hf: _qwen(hf) | dict(qk_norm=True),
    _PLAIN | {"attention_bias": False}),
}


def read_config(
  directory: str | pathlib.Path, *, dtype: str = "float32",
  error: Refusal = PRETRAINED,
) -> tuple[config.ModelConfig, dict[str, Any]]:
  """Reads the architecture of a checkpoint from its `config.json`.

  Args:
    directory: the checkpoint.
    dtype: of parameters and computation, whatever the file says.
    error: makes the error to raise.

  Returns:
    The architecture, and the whole file as a dict.

  Raises:
    strict.ConfigError: the file is missing or damaged, the family is unknown, a
      field is missing, or an option is not supported.
  """
  path = pathlib.Path(directory).expanduser() / "config.json"

  def require(ok: bool, fix: str) -> None:
    if not ok:
      raise error(str(directory), fix)

  try:
    hf = json.loads(path.read_text())
  except (OSError, ValueError) as e:
    raise error(
      str(directory), f"cannot read {path} ({e}); name the directory of a "
      "downloaded checkpoint") from e
  kind = hf.get("model_type")
  require(kind in FAMILIES, f"model_type is {kind!r} in its config.json; "
          f"supported: {', '.join(FAMILIES)}")
  family = FAMILIES[kind]
  for name, value in family.expected.items():
    require(name not in hf or hf[name] == value,
            f"{name} is {hf.get(name)!r} in its config.json; only {value!r} is "
            "supported")
  try:
    return config.ModelConfig(
      **family.model(hf), param_dtype=dtype, compute_dtype=dtype), hf
  except KeyError as e:
    raise error(str(directory), f"its config.json has no field {e}") from e


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
