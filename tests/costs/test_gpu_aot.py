"""Programs compiled for GPUs that are not there."""

import dataclasses
import json
import os
import subprocess
import sys

import hlo_texts
import jax
import jax.numpy as jnp
import pytest

from configs import bgpo
from dlrl import compile_only
from dlrl import config
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs import hlo
from dlrl.costs import topology
from dlrl.models.mlp import grouped
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib

pytestmark = pytest.mark.gpu_aot


@pytest.fixture(autouse=True, scope="module")
def plugin():
  pytest.importorskip("jax_cuda12_plugin")


def run(mesh_sizes, **changes):
  cfg = bgpo.get_config("smoke")
  cfg.model.update(layers=2, heads=2, kv_heads=2, head_dim=64,
                   compute_dtype="bfloat16")
  cfg.sft.steps, cfg.learn.n_mc = 0, 2
  with cfg.unlocked():
    cfg.update_from_flattened_dict(changes)
  return dataclasses.replace(
    validate.from_dict(cfg), mesh=config.MeshConfig(*mesh_sizes))


@pytest.mark.slow
@pytest.mark.parametrize("name, sizes, prompt_length", [
  ("h100-1", (1, 1, 1), 31), ("h100-8", (2, 4, 1), 32)])
def test_rollout_and_update_compile_with_cudnn(
    name, sizes, prompt_length, monkeypatch):
  cfg = run(sizes, **{"task.prompt_length": prompt_length})
  setup = setup_lib.make(cfg, topology.devices(name))
  texts = hlo_texts.kept(monkeypatch)
  chip = chips.find(setup.mesh.devices.flat[0].device_kind)
  reports = compile_only.compile_all(
    setup, chips.pool(chip, "gpu", cfg.mesh.gpu_memory))
  assert '"__cudnn$fmhaSoftmax"' in texts[0]
  assert '"__cudnn$fmhaSoftmaxBackward"' in texts[1]
  for one in reports:
    assert one.fits and one.limit == int(0.9 * chip.hbm)
    assert one.needed > one.arguments > 0
    assert one.temporaries > 0
    shown = sum(k.flops * n for k, n in one.traffic.kernels.items())
    assert 0.5 * one.flops < shown < 1.05 * one.flops
    assert any(k.opaque for k in one.traffic.kernels)
    assert sum(one.least_seconds(chip).values()) > 0
    many = sizes != (1, 1, 1)
    assert bool(sum(c["bytes"] for c in one.collectives.values())) == many
  if sizes != (1, 1, 1):
    assert reports[1].collectives["all-gather"]["count"] > 0


@pytest.mark.slow
def test_products_of_groups_are_few_batched_products():
  n, e, d, f = 4096, 32, 256, 128
  mesh = mesh_lib.make(config.MeshConfig(1, 1, 1), topology.devices("h100-1"))
  one = mesh_lib.replicated(mesh)

  def gradients(rows, kernel, sizes):
    return jax.grad(lambda rows, kernel: jnp.sum(grouped.product(
      rows, kernel, sizes).astype(jnp.float32) ** 2), (0, 1))(rows, kernel)

  with jax.set_mesh(mesh):
    program = jax.jit(gradients).lower(
      jax.ShapeDtypeStruct((n, d), "bfloat16", sharding=one),
      jax.ShapeDtypeStruct((e, d, f), "bfloat16", sharding=one),
      jax.ShapeDtypeStruct((e,), "int32", sharding=one)).compile()
  kernels = hlo.traffic(program.as_text()).kernels
  computed = sum(k.flops * runs for k, runs in kernels.items())
  # Of the product and its two gradients, with room for a quarter more rows.
  assert computed == 1.25 * 3 * 2 * n * d * f
  # All rows under the masks of all matrices would be 64 MiB.
  assert program.memory_analysis().temp_size_in_bytes < 2**24


@pytest.mark.parametrize("name, kind, hosts", [
  ("h100-1", "NVIDIA H100 80GB HBM3", [0]),
  ("h200-8", "NVIDIA H200", [0] * 8),
  ("b200-16", "NVIDIA B200", [0] * 8 + [1] * 8),
  ("a100-2", "NVIDIA A100-SXM4-80GB", [0, 0])])
def test_devices_are_those_of_their_hosts(name, kind, hosts):
  devices = topology.devices(name)
  assert [d.process_index for d in devices] == hosts
  assert {d.platform for d in devices} == {"gpu"}
  assert {d.device_kind for d in devices} == {kind}


PROGRAM = """
import jax
from dlrl import config
from dlrl.costs import topology
from dlrl.runtime import gpu
from dlrl.runtime import mesh as mesh_lib
if %r:
  gpu.deterministic()
mesh = mesh_lib.make(config.MeshConfig(1, 1, 1), topology.devices("h100-1"))
of = lambda *s, d="float32": jax.ShapeDtypeStruct(
  s, d, sharding=mesh_lib.replicated(mesh))
print(jax.jit(lambda x, rows, more: x.at[rows].add(more)).lower(
  of(64, 8), of(32, d="int32"), of(32, 8)).compile().as_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_rows_are_added_in_order_if_asked_for(deterministic):
  # As the gradient of an embedding. Otherwise by atomic sums.
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM % deterministic], text=True,
    capture_output=True, check=True, timeout=300,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  assert "scatter(" in done.stdout
  assert (" sort(" in done.stdout) == deterministic


@pytest.mark.slow
def test_the_command_judges_against_the_pool(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.programs.fit",
     f"--config={os.path.abspath(bgpo.__file__)}:smoke", "--devices=h100-1",
     "--config.model.layers=1", "--config.sft.steps=0",
     "--config.mesh.gpu_memory=0.00001", "--json=out.json"],
    cwd=tmp_path, text=True, capture_output=True, check=False, timeout=300,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
  assert done.returncode == 2, done.stderr
  found = json.loads((tmp_path / "out.json").read_text())
  assert found["limit"] == int(84_942_979_072 * 0.00001)
  assert not any(p["fits"] for p in found["programs"])
  assert "A device has 79.1 GiB, of which mesh.gpu_memory = 1e-05" in (
    done.stdout)
