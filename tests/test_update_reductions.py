"""Devices exchange as few gradients as they can, and all are right."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from updates import FAST
from updates import assert_same
from updates import make_batch

from benchmarks import method_cost
from configs import bgpo
from dlrl import config
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.costs import hlo
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.models.mlp import exchange
from dlrl.run import setup as setup_lib

ROWS = 16
LORA = config.LoraConfig(rank=4)
# Inputs of its matrices are a multiple of NF4's tile of 64 on two devices.
WIDE = dataclasses.replace(
  networks.SHARDED, width=128, head_dim=32, mlp_width=128)
MIXTURE = dataclasses.replace(networks.SHARDED, experts=config.ExpertsConfig(
  8, 3, 32, shared_width=16, dense_layers=1, router="sigmoid", groups=4,
  groups_per_token=2))
WIDE_MIXTURE = dataclasses.replace(WIDE, experts=config.ExpertsConfig(
  4, 2, 128))


def made(axes, learn, adapters=config.NO_LORA, model=networks.SHARDED):
  """(setup, policy, batch, gradients of (policy, batch[, reference]))."""
  devices = int(np.prod(axes))
  setup = setup_lib.make(config.Config(
    model=model, learn=learn, lora=adapters, mesh=config.MeshConfig(*axes)),
    jax.devices()[:devices])
  policy = networks.random_params(setup.model)
  if adapters.rank:
    rng = np.random.default_rng(1)
    adapter = jax.tree.map(
      lambda s: jnp.asarray(0.1 * rng.normal(size=s.shape), s.dtype),
      lora.shapes(policy, adapters))
    if adapters.quantize != "none":
      quantized.quantize(policy, networks.shapes_of(setup.model),
                         adapters.quantize,
                         lora.paths(policy, lora.MATRICES))
    policy = lora.join(policy, adapter)
  batch = make_batch(b=ROWS, vocab=64)

  def grads_of(policy, batch, reference=None):
    return update.batch_grads(
      setup.model, learn, policy, batch, reference=reference)

  return setup, policy, batch, grads_of


def placed(setup, policy):
  where = setup_lib.shardings_of(lora.join(
    setup.abstract_base(), setup.abstract_trained()))
  return jax.device_put(policy, where)


def compiled(axes, learn, adapters=config.NO_LORA, model=networks.SHARDED):
  """(the program for a mesh, its arguments)."""
  setup, policy, batch, grads_of = made(axes, learn, adapters, model)
  args = placed(setup, policy), setup.put_batch(batch)
  with jax.set_mesh(setup.mesh):
    return jax.jit(grads_of).lower(*args).compile(FAST), args


def received(program):
  """Bytes that a device receives, by kind of collective."""
  found = collections.Counter()
  for one in hlo.traffic(program.as_text()).collectives:
    found[one.kind] += one.moved
  return found


def learns(n_mc, micro_batch, **changes):
  return config.LearnConfig(n_mc=n_mc, micro_batch=micro_batch, **changes)


def size(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("axes", "adapters", "trained"), [
  ((8, 1, 1), config.NO_LORA, lambda policy: policy),
  ((2, 4, 1), LORA, lambda policy: policy["adapter"])],
  ids=["data", "adapters"])
def test_gradients_are_summed_once_however_many_passes(axes, adapters, trained):
  program, (policy, _) = compiled(axes, learns(4, ROWS // 2), adapters)
  found = received(program)
  # In fp32; besides it metrics and rows in another order.
  least = 2 * 7 / 8 * size(trained(policy))
  assert least <= found["all-reduce"] < least + 4000 < 1.5 * least
  assert not found["reduce-scatter"]
  if not adapters.rank:  # whose base is gathered in each pass
    assert found.total() < least + 6000


def test_a_split_gradient_is_summed_part_by_part_and_never_whole():
  program, (policy, _) = compiled((1, 8, 1), learns(3, ROWS // 2))
  passes, found = 3 * 2, received(program)
  matrices = [x for x in jax.tree.leaves(policy["layers"]) if x.ndim == 3]
  embedding, head = policy["embed"]["embedding"], policy["unembed"]["kernel"]
  assert found["reduce-scatter"] == 7 / 8 * passes * size([*matrices, head])
  # The embedding's is exchanged as activations, norms and metrics at the end.
  assert found["all-reduce"] < 4000 < 2 * 7 / 8 * size(embedding)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(1, 1, 1, 8), (1, 2, 1, 4)],
                         ids=["experts", "and fsdp"])
def test_experts_stay_where_they_are_and_tokens_travel(axes):
  model = dataclasses.replace(
    MIXTURE, width=64, head_dim=16,
    experts=dataclasses.replace(MIXTURE.experts, width=160))
  program, (policy, batch) = compiled(
    axes, learns(3, ROWS // 2), model=model)
  found = hlo.traffic(program.as_text()).collectives
  # What `fsdp` splits is gathered, of a device's own experts.
  matrix = policy["layers"]["mlp"]["experts"]["up"]["kernel"].nbytes
  gathered = [c.size for c in found if c.kind == "all-gather"]
  assert max(gathered) == (matrix / 4 if axes[1] > 1 else 16)
  # Tokens, with room for a quarter more of them, there and back; in the forward
  # pass, again in the backward pass, and their cotangents.
  parts, passes = axes[3], 3 * 2
  pairs = (batch.completion.shape[1] + batch.prompt.shape[1]) * 3
  room = exchange.capacity(pairs, parts)
  arrays = passes * room * parts * 4 * (1 - 1 / parts)
  sent = sum(c.moved for c in found if c.kind == "all-to-all"
             and c.size == room * parts * model.width * 4)
  assert sent == 6 * arrays * model.width


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "learn", "adapters", "model"), [
  ((2, 2, 2), learns(4, 8, draws_at_once=2, loss="espo", score_norm="none"),
   dataclasses.replace(LORA, quantize="nf4"), WIDE),
  ((2, 4, 1), learns(2, 8), config.NO_LORA, dataclasses.replace(
    networks.SHARDED, remat="none", tied=True, shifted=True)),
  # Two completions are compared: on one device, and on two.
  ((2, 2, 1), learns(2, 8, loss="vrpo_offline"), config.NO_LORA,
   networks.SHARDED),
  ((8, 1, 1), learns(2, 8, loss="vrpo_offline"), config.NO_LORA,
   networks.SHARDED),
  ((1, 2, 2, 2), learns(2, 8), config.NO_LORA, MIXTURE),
  ((1, 2, 1, 4), learns(2, 8), dataclasses.replace(LORA, quantize="int8"),
   WIDE_MIXTURE),
], ids=["adapters", "tied", "pairs", "pairs of two devices", "experts",
        "adapters of experts"])
def test_gradients_are_those_of_one_device(
    axes, learn, adapters, model, unoptimized):
  _, policy, batch, grads_of = made((1, 1, 1), learn, adapters, model)
  reference = (
    lora.join(policy["base"], {}) if adapters.rank else
    networks.random_params(transformer.build(model, 2), seed=1))
  want_metrics, want = jax.jit(grads_of)(policy, batch, reference)
  setup, _, _, grads_of = made(axes, learn, adapters, model)
  with jax.set_mesh(setup.mesh):
    metrics, grads = jax.jit(grads_of)(
      placed(setup, policy), setup.put_batch(batch), reference)
  assert_same(grads, want)
  for name, value in want_metrics.items():
    np.testing.assert_allclose(
      metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
  for path, x in jax.tree.leaves_with_path(want):
    # A router's bias chooses experts and has no gradient.
    assert (np.abs(x).max() > 1e-7) != ("bias" in networks.path_of(path))


@pytest.mark.long
@pytest.mark.parametrize("name", method_cost.CONFIGS)
def test_a_mesh_changes_no_gradient_of_any_objective(name, unoptimized):
  own = method_cost.settings(name)
  n_mc = min(own.n_mc, 3)
  learn = dataclasses.replace(
    own, n_mc=n_mc, micro_batch=8, logps_chunk=16,
    process_args={"block_length": 5} if name == "spg" else own.process_args)
  objective = update.objective(learn)
  rng = np.random.default_rng(3)

  def scores(*shape):
    return jnp.asarray(-rng.uniform(0.5, 3, shape), jnp.float32)

  batch = make_batch(b=ROWS, vocab=64)
  b, t = batch.completion.shape
  batch = dataclasses.replace(
    batch, trace=jnp.asarray(rng.integers(0, n_mc, (b, t)), jnp.int32),
    old_logps=scores(*{"tokens": (b, n_mc, t), "scores": (b, n_mc),
                       "means": (b, t)}[objective.others]),
    old_scores=scores(b, n_mc) if objective.others == "means" else None)
  reference = networks.random_params(
    transformer.build(networks.SHARDED, 2), seed=1) if (
      objective.needs_ref) else None

  def gradients(axes):
    setup, policy, _, _ = made(axes, learn)
    with jax.set_mesh(setup.mesh):
      return jax.jit(lambda *args: update.batch_grads(
        setup.model, learn, *args[:2], reference=args[2]))(
          placed(setup, policy), setup.put_batch(batch), reference)

  want_metrics, want = gradients((1, 1, 1))
  metrics, grads = gradients((2, 4, 1))
  assert_same(grads, want)
  for key, value in want_metrics.items():
    np.testing.assert_allclose(
      metrics[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
  assert max(np.abs(x).max() for x in jax.tree.leaves(want)) > 1e-7


@pytest.mark.slow
def test_all_weights_of_a_layer_are_not_kept_without_rematerialization():
  def temporaries(layers):
    model = dataclasses.replace(
      networks.SHARDED, width=256, remat="none", layers=layers)
    program, _ = compiled((1, 8, 1), learns(1, ROWS), model=model)
    return program.memory_analysis().temp_size_in_bytes

  one = 4 * (4 * 256 * 32 + 3 * 256 * 64)
  assert temporaries(6) - temporaries(2) < 4 * one


@pytest.mark.parametrize(("dtype", "once", "each"), [
  ("auto", "f32", "bf16"), ("float32", "f32", "f32"),
  ("bfloat16", "bf16", "bf16")])
def test_the_dtype_in_which_gradients_cross_devices_is_a_setting(
    dtype, once, each):
  model = dataclasses.replace(networks.SHARDED, compute_dtype="bfloat16")
  setup, policy, batch, grads_of = made(
    (2, 4, 1), learns(2, 8, reduce_dtype=dtype), model=model)
  with jax.set_mesh(setup.mesh):
    text = jax.jit(grads_of).lower(
      placed(setup, policy), setup.put_batch(batch)).as_text()

  def types(kind):
    return [re.search(r"\) : \(tensor<(?:\d+x)*(\w+)>", end)[1]
            for end in text.split(f'"stablehlo.{kind}"')[1:]]

  assert set(types("reduce_scatter")) == {each}
  assert len(types("reduce_scatter")) == 7 + 1  # a layer's matrices, the head
  # Metrics are fp32 numbers.
  leaves = len(jax.tree.leaves(policy))
  assert collections.Counter(types("all_reduce"))[once] >= leaves
  if once == "bf16":
    assert types("all_reduce").count("bf16") == leaves


def test_an_unknown_dtype_is_refused():
  cfg = bgpo.get_config("smoke")
  cfg.learn.reduce_dtype = "float16"
  with pytest.raises(strict.ConfigError, match=r"reduce_dtype = 'float16'"):
    validate.from_dict(cfg)
