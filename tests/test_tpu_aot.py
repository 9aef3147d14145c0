"""Programs compiled for a TPU that is not there."""

import re

import jax
import jax.numpy as jnp
import pytest
from collectives import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl.diffusion import token_logps
from dlrl.models import attention
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib

pytestmark = pytest.mark.tpu_aot

MODEL = config.Model(
  vocab_size=4096, width=256, layers=2, heads=4, kv_heads=2, head_dim=128,
  mlp_width=256, compute_dtype="bfloat16", attention="splash")


@pytest.fixture
def mesh(monkeypatch):
  """Eight chips of a v5e; no metadata server is asked for them."""
  pytest.importorskip("libtpu")
  for name, value in {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  }.items():
    monkeypatch.setenv(name, value)
  from jax.experimental import topologies
  devices = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x4").devices
  return mesh_lib.make(config.Mesh(2, 2, 2), devices)


@pytest.mark.slow
def test_the_gradient_of_log_probs_uses_the_kernel_on_every_chip(mesh):
  rows, t, chunk = 8, 300, 100
  attention.check(MODEL, mesh)
  model = transformer.build(MODEL, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes,
    mesh_lib.param_shardings(mesh, transformer.SHARDING, shapes))

  def of_rows(dtype, *sizes):
    return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=NamedSharding(
      mesh, P(mesh_lib.BATCH)))

  def total(params, ids, positions, lengths, mask):
    hidden = model.hidden(params, ids, positions, lengths)
    return jnp.sum(token_logps.token_logps(
      hidden, model.unembed(params), ids, mask, chunk=chunk,
      shards=mesh_lib.batch_parts(rows)).logps)

  with jax.set_mesh(mesh):
    hlo = jax.jit(jax.grad(total)).lower(
      params, of_rows("int32", t), of_rows("int32", t), of_rows("int32"),
      of_rows("bool", t)).compile().as_text()
  # Forward, again for the backward pass, and two of the backward pass.
  assert len(re.findall('custom_call_target="tpu_custom_call"', hlo)) == 4
  # Scores of a device's rows and heads never exist as an array.
  assert not re.findall(r"\[2,2,(300,300|384,384)\]", hlo)
  # Embedding and head: gathered once, their gradients summed once, out of all
  # loops.
  size = MODEL.width * MODEL.vocab_size // 2
  large = [x for x in collectives(hlo) if x[2] >= size]
  assert sorted(large) == [("ENTRY", "all-gather", size)] * 2 + [
    ("ENTRY", "all-reduce", size)] * 2
