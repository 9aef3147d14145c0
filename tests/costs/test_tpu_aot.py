"""Programs compiled for a TPU that is not there."""

import collections
import dataclasses
import functools
import re

import hlo_texts
import jax
import jax.numpy as jnp
import pytest
from collectives import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import bgpo
from dlrl import compile_only
from dlrl import config
from dlrl import rollout
from dlrl import strict
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs import hlo
from dlrl.costs import topology
from dlrl.diffusion import token_logps
from dlrl.models import attention
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.models.mlp import grouped
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand
from dlrl.sampling import block_decode
from dlrl.sampling import denoise

pytestmark = pytest.mark.tpu_aot

MODEL = config.ModelConfig(
  vocab_size=4096, width=256, layers=2, heads=4, kv_heads=2, head_dim=128,
  mlp_width=256, compute_dtype="bfloat16", attention="splash")


@pytest.fixture
def mesh():
  """Eight chips of a v5e."""
  pytest.importorskip("libtpu")
  return mesh_lib.make(config.MeshConfig(2, 2, 2), topology.devices("v5e-8"))


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "kernels"), [("full", 4), ("dots", 3)])
def test_the_gradient_of_log_probs_uses_the_kernel_on_every_chip(
    mesh, remat, kernels):
  rows, t, chunk = 8, 300, 100
  cfg = dataclasses.replace(MODEL, remat=remat)
  attention.check(cfg, mesh)
  model = transformer.build(cfg, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes,
    mesh_lib.param_shardings(mesh, layers.SHARDING, shapes))

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
  # Forward, again if nothing is kept, and two of the backward pass.
  assert len(re.findall(
    'custom_call_target="tpu_custom_call"', hlo)) == kernels
  # Scores of a device's rows and heads never exist as an array.
  assert not re.findall(r"\[2,2,(300,300|384,384)\]", hlo)
  # The head: gathered once, its gradient summed once, out of all loops. Of the
  # embedding nothing is gathered, and a device's gradient is of half the width.
  size = MODEL.width * MODEL.vocab_size // 2
  large = [x for x in collectives(hlo) if x[2] >= size]
  assert sorted(large) == [
    ("ENTRY", "all-gather", size), *[("ENTRY", "all-reduce", size)] * 2]


@pytest.mark.slow
def test_blocks_after_shared_prompts_use_the_kernel_in_every_pass(mesh):
  rows, t, size = 8, 320, 4
  cfg = dataclasses.replace(MODEL, block_length=size, remat="full")
  attention.check(cfg, mesh)
  model = transformer.build(cfg, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes,
    mesh_lib.param_shardings(mesh, layers.SHARDING, shapes))

  def of_rows(*sizes):
    return jax.ShapeDtypeStruct(sizes, "int32", sharding=NamedSharding(
      mesh, P(mesh_lib.BATCH)))

  def total(params, prompt, prompt_length, completion, noisy, lengths):
    clean = model.clean_rows(
      params, prompt, prompt_length, completion, lengths)
    start = jnp.repeat(prompt_length // size * size, 2)
    positions = start[:, None] + jnp.arange(t)[None]
    return jnp.sum(model.noisy_stream(
      params, noisy, positions, lengths, clean).astype(jnp.float32) ** 2)

  with jax.set_mesh(mesh):
    text = jax.jit(jax.grad(total)).lower(
      params, of_rows(rows // 2, 256), of_rows(rows // 2), of_rows(rows, t),
      of_rows(rows, t), of_rows(rows)).compile().as_text()
  # Of prompts, completions and noisy blocks: forward, again, and two of the
  # backward pass.
  assert len(re.findall('custom_call_target="tpu_custom_call"', text)) == 12
  # Scores of a device's rows and heads never exist as an array.
  assert not re.findall(r"\[\d+,\d+,\d{3,},(580|640|1024)\]", text)


@pytest.mark.slow
def test_the_cache_of_blocks_is_written_in_place(mesh):
  rows, prompt, size = 8, 16, 4
  cfg = dataclasses.replace(MODEL, block_length=size, attention="auto")
  model = transformer.build(cfg, 2)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  params = jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes,
    mesh_lib.param_shardings(mesh, layers.SHARDING, shapes))
  sampler = config.SamplerConfig(
    gen_length=64, block_length=size, steps=64, threshold=0.9)

  def of_rows(dtype, *sizes):
    return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=NamedSharding(
      mesh, P(mesh_lib.BATCH)))

  with jax.set_mesh(mesh):
    text = jax.jit(functools.partial(
      block_decode.decode, model, sampler=sampler, eos_ids=(1,))).lower(
        params, of_rows("int32", prompt), of_rows("int32"),
        of_rows(jax.eval_shape(jax.random.key, 0).dtype)).compile().as_text()
  cache = rf"bf16\[{cfg.layers},2,{prompt + 64},1,{cfg.head_dim}\]"
  assert re.search(cache, text)
  # XLA lays out a scatter's operand otherwise than attention, and copies it.
  assert not re.findall(rf"{cache}\S* (?:copy|scatter)\(", text)


def tiny(mesh_sizes):
  """A run whose rollouts and updates use the kernel, as all TPUs would."""
  cfg = bgpo.get_config("smoke")
  cfg.model.update(layers=2, width=256, heads=2, kv_heads=2, head_dim=128,
                   compute_dtype="bfloat16")
  cfg.sft.steps = 0
  cfg.task.prompt_length = 120
  cfg.learn.n_mc = 2
  return dataclasses.replace(
    validate.from_dict(cfg), mesh=config.MeshConfig(*mesh_sizes))


@pytest.mark.slow
@pytest.mark.parametrize("name, sizes", [
  ("v5e-1", (1, 1, 1)), ("v6e-1", (1, 1, 1)), ("2xv5e-4", (2, 4, 1)),
  ("v5p-8", (1, 2, 2))])
def test_rollout_and_update_compile_with_the_kernel(name, sizes, monkeypatch):
  pytest.importorskip("libtpu")
  setup = setup_lib.make(tiny(sizes), topology.devices(name))
  assert dict(setup.mesh.shape) == {"expert": 1} | dict(
    zip(("data", "fsdp", "tensor"), sizes, strict=True))
  texts = hlo_texts.kept(monkeypatch)
  chip = chips.find(setup.mesh.devices.flat[0].device_kind)
  rollout, learn = compile_only.compile_all(setup, chip.hbm)
  kernels = [len(re.findall('custom_call_target="tpu_custom_call"', text))
             for text in texts]
  # Of an update: forward, again, two of the backward pass; more where the
  # compiler takes layers out of a loop.
  assert kernels[0] >= 1
  assert kernels[1] >= 4
  for one in (rollout, learn):
    assert one.fits
    assert one.needed > one.arguments > 0
    assert sum(one.least_seconds(chip).values()) > 0
    # The products that the text shows, and those of the kernels: all of them.
    shown = sum(k.flops * n for k, n in one.traffic.kernels.items())
    assert 0.5 * one.flops < shown < 1.05 * one.flops
    assert any(k.opaque for k in one.traffic.kernels)
    many = sizes != (1, 1, 1)
    assert bool(sum(c["bytes"] for c in one.collectives.values())) == many


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_the_compilers_figures():
  pytest.importorskip("libtpu")
  cfg = tiny((1, 1, 1))
  cfg = dataclasses.replace(
    cfg, model=dataclasses.replace(cfg.model, width=16384, mlp_width=65536))
  setup = setup_lib.make(cfg, topology.devices("v5e-1"))
  rollout, learn = compile_only.compile_all(
    setup, chips.find("TPU v5 lite").hbm)
  assert not rollout.fits and not learn.fits
  assert learn.needed > learn.limit == int(15.75 * 2**30)


def test_slices_do_not_share_what_is_gathered():
  pytest.importorskip("libtpu")
  devices = topology.devices("2xv5e-4")
  with pytest.raises(strict.ConfigError, match="multiple of the 2 slices"):
    mesh_lib.make(config.MeshConfig(1, 8, 1), devices)
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2), devices)
  slices = [{d.slice_index for d in part.flat} for part in mesh.devices]
  assert slices == [{0}, {1}]


@pytest.mark.parametrize("name", ["v5e-16", "v5e-64"])
def test_a_scattered_sum_is_never_whole(name):
  """The compiler replaces one over a square of chips by an all-reduce."""
  pytest.importorskip("libtpu")
  mesh = mesh_lib.make(config.MeshConfig(1, -1, 1), topology.devices(name))
  chips, sizes = mesh.shape["fsdp"], (4096, 1024)

  def gradient(w, x):
    def score(w):
      return jnp.sum(by_hand.whole(w, "bfloat16") * x)

    return jax.grad(score)(by_hand.split(w, P("fsdp", None), None)).part

  def on(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(
      mesh, P("fsdp", None)))

  with jax.set_mesh(mesh):
    program = jax.jit(by_hand.run(
      gradient, (P("fsdp"), P("fsdp")), P("fsdp"))).lower(
        on("float32", *sizes),
        on("bfloat16", chips * sizes[0], sizes[1])).compile()
  received = collections.Counter()
  for one in hlo.traffic(program.as_text()).collectives:
    received[one.kind] += one.moved
  assert not received["all-reduce"]
  least = 2 * sizes[0] * sizes[1] * (1 - 1 / chips)
  assert least <= received["reduce-scatter"] < 1.1 * least


@pytest.mark.parametrize(("times", "width"), [(1, 128), (3, 128), (3, 16)])
def test_products_of_groups_cost_what_they_compute(times, width):
  """Rows by their own matrices, also in gradients, and of narrow adapters."""
  pytest.importorskip("libtpu")
  n, e, d = 2048, 16, 256
  mesh = mesh_lib.make(config.MeshConfig(1, 1, 1), topology.devices("v5e-1"))
  one = mesh_lib.replicated(mesh)

  def gradients(rows, kernel, sizes):
    return jax.grad(lambda rows, kernel: jnp.sum(grouped.product(
      rows, kernel, sizes).astype(jnp.float32) ** 2), (0, 1))(rows, kernel)

  with jax.set_mesh(mesh):
    text = jax.jit(grouped.product if times == 1 else gradients).lower(
      jax.ShapeDtypeStruct((n, d), "bfloat16", sharding=one),
      jax.ShapeDtypeStruct((e, d, width), "bfloat16", sharding=one),
      jax.ShapeDtypeStruct((e,), "int32", sharding=one)).compile().as_text()
  kernels = hlo.traffic(text).kernels
  assert sum(k.flops * runs for k, runs in kernels.items()) == (
    times * 2 * n * d * width)
  assert not any(k.opaque for k in kernels)
  if times == 1:
    accessed = sum(k.accessed * runs for k, runs in kernels.items())
    least = 2 * (n * d + e * d * width + n * width)
    assert least <= accessed < 1.01 * least


@pytest.mark.slow
def test_experts_stay_where_they_are_and_tokens_travel():
  pytest.importorskip("libtpu")
  cfg = tiny((1, 2, 1, 4))
  # Larger than all other matrices together.
  experts = config.ExpertsConfig(8, 2, 1024)
  cfg = dataclasses.replace(
    cfg, model=dataclasses.replace(cfg.model, experts=experts))
  setup = setup_lib.make(cfg, topology.devices("v5e-8"))
  matrix = experts.number * cfg.model.width * experts.width * 2  # in bf16
  for program in compile_only.compile_all(
      setup, chips.find("TPU v5 lite").hbm):
    found = program.traffic.collectives
    gathered = {c.size for c in found if c.kind == "all-gather"}
    # A device gathers what `fsdp` splits, of its own experts.
    assert max(gathered) == matrix / 4
    assert sum(c.moved for c in found if c.kind == "all-to-all") > 0


@pytest.mark.slow
def test_a_rollout_in_int8_multiplies_and_moves_integers():
  pytest.importorskip("libtpu")
  cfg = tiny((1, 2, 2))
  sampler = dataclasses.replace(
    cfg.rollout.sampler, quantize="int8", gather_once=True)
  cfg = dataclasses.replace(
    cfg, rollout=dataclasses.replace(cfg.rollout, sampler=sampler))
  setup = setup_lib.make(cfg, topology.devices("v5e-4"))
  args = train_state.abstract_rl(setup), *rollout.input_shapes(setup)
  with jax.set_mesh(setup.mesh):
    text = rollout.make(setup).lower(*args).compile().as_text()
  traffic = hlo.traffic(text, denoise.most_trips(
    sampler, cfg.rollout.prompts * cfg.rollout.group_size))
  # Products with matrices, of which only those of the head are not.
  of_int8, shown = (sum(times * getattr(k, name) for k, times in
                        traffic.kernels.items()) for name in ("int8", "flops"))
  assert of_int8 > 0.6 * shown
  # Half of every matrix of two layers, a byte each.
  matrices = {cfg.model.layers * cfg.model.width * n // 2 for n in (
    cfg.model.heads * cfg.model.head_dim, cfg.model.mlp_width)}
  gathered = {c.size for c in traffic.collectives
              if c.kind == "all-gather" and c.times == 1}
  assert matrices <= gathered
  # What two chips have parts of crosses in bf16.
  assert not re.findall(r"s32\[[\d,]*,256\]\S* all-reduce", text)
