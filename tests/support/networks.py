"""Networks for tests: tiny random ones, and published golden ones."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl.models import transformer

TINY = config.ModelConfig(
  vocab_size=24,
  width=16,
  layers=2,
  heads=2,
  kv_heads=2,
  head_dim=8,
  mlp_width=24,
  remat="none",
)

# Its axes can be split over 2 x 2 x 2 devices.
SHARDED = config.ModelConfig(
  vocab_size=64,
  width=32,
  layers=2,
  heads=4,
  kv_heads=4,
  head_dim=8,
  mlp_width=64,
)

# Names in the published checkpoints, whose matrices are [out, in].
TOP = {
  "embed/embedding": "wte", "norm/scale": "ln_f", "unembed/kernel": "ff_out"}
BLOCK = {
  "attention/q/kernel": "q_proj", "attention/k/kernel": "k_proj",
  "attention/v/kernel": "v_proj", "attention/out/kernel": "attn_out",
  "mlp/gate/kernel": "ff_proj", "mlp/up/kernel": "up_proj",
  "mlp/down/kernel": "ff_out", "attention_norm/scale": "attn_norm",
  "mlp_norm/scale": "ff_norm",
}


def path_of(path):
  return jax.tree_util.keystr(path, simple=True, separator="/")


def read_safetensors(path):
  """Reads a file of fp32 arrays as {name: array}."""
  data = path.read_bytes()
  size = int.from_bytes(data[:8], "little")
  arrays = {}
  for name, entry in json.loads(data[8:8 + size]).items():
    if name != "__metadata__":
      assert entry["dtype"] == "F32"
      start, end = entry["data_offsets"]
      arrays[name] = np.frombuffer(
        data[8 + size + start:8 + size + end], "<f4").reshape(entry["shape"])
  return arrays


def from_torch(arrays, model):
  """Makes parameters of published arrays, each of which must be used once."""
  arrays = dict(arrays)
  layers = model.cfg.layers

  def one(path, leaf):
    name = path_of(path)
    turn = (lambda x: x.T) if name.endswith("kernel") else (lambda x: x)
    stem = "model.transformer."
    if name.startswith("layers/"):
      theirs = BLOCK[name.removeprefix("layers/")]
      made = np.stack([
        turn(arrays.pop(f"{stem}blocks.{i}.{theirs}.weight"))
        for i in range(layers)])
    else:
      made = turn(arrays.pop(f"{stem}{TOP[name]}.weight"))
    assert made.shape == leaf.shape, name
    return jnp.asarray(made)

  params = jax.tree.map_with_path(one, shapes_of(model))
  assert not arrays
  return params


@functools.cache
def published(folder):
  """Loads (model, params) without the code under test."""
  cfg = json.loads((folder / "config.json").read_text())
  width, heads = cfg["d_model"], cfg["n_heads"]
  model = transformer.build(config.ModelConfig(
    vocab_size=cfg["embedding_size"], width=width, layers=cfg["n_layers"],
    heads=heads, kv_heads=cfg["n_kv_heads"], head_dim=width // heads,
    mlp_width=cfg["mlp_hidden_size"], rope_theta=cfg["rope_theta"],
    norm_eps=cfg["rms_norm_eps"]), cfg["mask_token_id"])
  return model, from_torch(read_safetensors(folder / "model.safetensors"),
                           model)


def random_params(model, seed=0):
  """Draws parameters without compiling; unlike `init`'s, norms differ from 1.
  """
  rng = np.random.default_rng(seed)

  def one(path, leaf):
    noise = rng.normal(size=leaf.shape)
    if path_of(path).endswith("kernel"):
      noise /= np.sqrt(leaf.shape[-2])
    elif path_of(path).endswith("scale"):
      noise = 1 + 0.2 * noise
    return jnp.asarray(noise, leaf.dtype)

  return jax.tree.map_with_path(one, shapes_of(model))


@functools.cache
def decodable(cfg=TINY, mask_id=2):
  """(model, params) whose greedy completions are varied and unequally sure."""
  model = transformer.build(cfg, mask_id)
  params = random_params(model, seed=1)
  # With a small embedding, a mask's state comes from its surroundings;
  # otherwise a row would be one token repeated.
  table = params["embed"]["embedding"]
  params["embed"]["embedding"] = table.at[mask_id].multiply(0.1)
  for name in "qk":  # or all columns would attend to the same
    params["layers"]["attention"][name]["kernel"] *= 2
  params["unembed"]["kernel"] *= 2
  return model, params


@functools.cache
def shapes_of(model):
  return jax.eval_shape(model.init, jax.random.key(0))
