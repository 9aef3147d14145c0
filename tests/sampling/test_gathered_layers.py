"""Layers that are gathered once, before decoding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.costs import hlo
from dlrl.models import layers
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import denoise
from dlrl.sampling.weights import prepare

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS, ROWS = 2, 7, 16
FULL = dataclasses.replace(networks.TINY, heads=4, kv_heads=2, layers=3)
SAMPLER = config.SamplerConfig(
  gen_length=8, block_length=4, steps=8, temperature=1.0, threshold=0.35)
# Bytes of a layer's matrices on a device that has them whole along `fsdp`.
MATRICES = [FULL.width * n * 4 // 2 for n in (
  *[FULL.heads * FULL.head_dim] * 2, *[FULL.kv_heads * FULL.head_dim] * 2,
  *[FULL.mlp_width] * 3)]


@pytest.mark.slow
@pytest.mark.parametrize("block_length", [0, 4])
def test_layers_are_moved_before_all_passes_and_tokens_are_the_same(
    block_length):
  cfg = dataclasses.replace(FULL, block_length=block_length)
  model, params = networks.decodable(cfg, MASK)
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  rng = np.random.default_rng(0)
  prompt = rng.integers(3, cfg.vocab_size, (ROWS, 5)).astype(np.int32)
  rows = (prompt, rng.integers(1, 6, ROWS), jax.random.split(
    jax.random.key(0), ROWS))
  # More passes by far than layers, so that numbers tell what is in a loop.
  trips = (50, 50, 50) if block_length else (50,)
  states, moved = [], []
  with jax.set_mesh(mesh):
    args = jax.device_put((params, *rows), (
      mesh_lib.param_shardings(mesh, layers.SHARDING, params),
      *[mesh_lib.batch_sharding(mesh)] * 3))
    for once in (False, True):
      run = jax.jit(functools.partial(
        denoise.decode, model, eos_id=EOS,
        sampler=dataclasses.replace(SAMPLER, gather_once=once)))
      states.append(run(*args))
      moved.append([
        c for c in hlo.traffic(run.lower(*args).compile().as_text(), trips)
        .collectives if c.kind == "all-gather" and c.devices == 4])
  for field in ("completion", "trace", "forwards"):
    np.testing.assert_array_equal(*(getattr(s, field) for s in states))
  each, once = moved
  assert len([c for c in each if c.size in MATRICES and c.times > 50]) >= 7
  assert max(c.size for c in each) <= max(MATRICES)
  stacks = sorted(cfg.layers * size for size in MATRICES)
  assert [(c.size, c.times) for c in sorted(once, key=lambda c: c.size)
          if c.size > max(MATRICES)] == [(size, 1) for size in stacks]
  # Only activations are moved in passes: of the looked up embeddings.
  assert len([c for c in once if c.times > 1]) <= 2


def test_only_matrices_of_layers_are_gathered():
  _, params = networks.decodable(FULL, MASK)
  joined = {"base": params, "adapter": {"layers": {"mlp": {"up": {
    "a": jnp.ones((3, 4, 2)), "b": jnp.ones((3, 2, 4))}}}}}
  cast = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, x in jax.tree_util.tree_leaves_with_path(
      prepare.gathered(joined, "bfloat16")) if x.dtype == jnp.bfloat16}
  assert cast == {f"base/layers/{name}/kernel" for name in (
    "attention/q", "attention/k", "attention/v", "attention/out",
    "mlp/gate", "mlp/up", "mlp/down")}
