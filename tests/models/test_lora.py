"""Adapters against merged weights; their base must stay as it is."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import updates

from dlrl import config
from dlrl import optimizer
from dlrl import sft
from dlrl import strict
from dlrl import update
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

# All axes of matrices and activations differ in length.
ODD = dataclasses.replace(networks.TINY, width=20, mlp_width=28, qkv_bias=True)
LORA = config.LoraConfig(rank=3, alpha=6.0)
SOME = dataclasses.replace(LORA, targets="layers/(attention/(k|out)|mlp/up)")
IDS = np.random.default_rng(0).integers(0, 24, (3, 7))


@functools.cache
def made(adapters=LORA, cfg=ODD):
  """(model, base, adapter), all random; B is not zero."""
  model = transformer.build(cfg, updates.MASK, adapters)
  base = networks.random_params(model)
  rng = np.random.default_rng(1)
  adapter = jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype),
    lora.shapes(base, adapters))
  return model, base, adapter


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params):
  return model.logits(params, IDS)


def flat(tree):
  return {networks.path_of(path): np.asarray(leaf)
          for path, leaf in jax.tree.leaves_with_path(tree)}


def merged(base, adapter, cfg=LORA):
  """Adds alpha / rank A B to the matrices of `base`, in NumPy."""
  parts = flat(adapter)

  def one(path, leaf):
    matrix = networks.path_of(path).removesuffix("/kernel")
    if matrix + "/a" not in parts:
      return leaf
    a, b = (parts[f"{matrix}/{x}"].astype(np.float64) for x in "ab")
    return jnp.asarray(leaf + cfg.alpha / cfg.rank * (a @ b), leaf.dtype)

  return jax.tree.map_with_path(one, base)


def chained(grads, adapter, cfg=LORA):
  """Computes the gradients of A and B from those of the merged matrices."""
  grads, parts = flat(grads), flat(adapter)

  def one(path, _):
    matrix, _, part = networks.path_of(path).rpartition("/")
    of_w = grads[matrix + "/kernel"].astype(np.float64)
    other = parts[f"{matrix}/{'b' if part == 'a' else 'a'}"].swapaxes(-1, -2)
    product = of_w @ other if part == "a" else other @ of_w
    return cfg.alpha / cfg.rank * product

  return jax.tree.map_with_path(one, adapter)


def test_the_matrices_are_those_of_the_layers():
  kernels = {name.removesuffix("/kernel") for name in flat(made()[1])
             if name.startswith("layers/") and name.endswith("/kernel")}
  assert kernels == set(lora.paths(made()[1], lora.MATRICES))
  assert lora.names(LORA) == lora.MATRICES
  assert set(lora.names(SOME)) == {
    "layers/attention/k", "layers/attention/out", "layers/mlp/up"}


@pytest.mark.parametrize("adapters", [LORA, SOME], ids=["all", "some"])
def test_an_adapter_is_keyed_like_the_parameters_and_starts_at_nothing(
    adapters):
  model, base, _ = made(adapters)
  like = lora.shapes(base, adapters)
  fresh, again, other = (
    lora.init(jax.random.key(seed), like) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, fresh, again)
  matrices, parts = flat(base), flat(fresh)
  assert {x.rpartition("/")[0] for x in parts} == set(
    lora.paths(base, lora.names(adapters)))
  seen = []
  for name, leaf in parts.items():
    matrix, _, part = name.rpartition("/")
    layers, inputs, outputs = matrices[matrix + "/kernel"].shape
    if part == "b":
      assert leaf.shape == (layers, 3, outputs)
      np.testing.assert_array_equal(leaf, 0)
    else:
      assert leaf.shape == (layers, inputs, 3)
      # PEFT draws A by Kaiming's rule with a = sqrt(5): +-1 / sqrt(in).
      assert 0.9 < np.abs(leaf).max() * math.sqrt(inputs) <= 1
      assert abs(leaf.std() * math.sqrt(3 * inputs) - 1) < 0.2
      seen += [*leaf, flat(other)[name][0]]
  first = {float(x[0, 0]) for x in seen}
  assert len(first) == len(seen)  # all of them differ
  np.testing.assert_array_equal(
    logits(model, lora.join(base, fresh)), logits(model, base))


@pytest.mark.parametrize("adapters", [LORA, SOME], ids=["all", "some"])
def test_an_adapted_forward_is_that_of_the_merged_matrices(adapters):
  model, base, adapter = made(adapters)
  want = logits(model, merged(base, adapter, adapters))
  got = logits(model, lora.join(base, adapter))
  np.testing.assert_allclose(got, want, atol=2e-5, rtol=0)
  assert np.abs(want - logits(model, base)).max() > 0.5
  # and by a decoder with a cache
  row = (jnp.asarray(IDS), jnp.tile(jnp.arange(7), (3, 1)), jnp.full(3, 7))
  whole, cache = model.hidden_and_cache(lora.join(base, adapter), *row)
  part = model.hidden_of_part(
    lora.join(base, adapter), *row, cache, 2, width=3)
  np.testing.assert_allclose(part, whole[:, 2:5], atol=1e-5)


def test_merging_adds_the_product_in_fp32_and_leaves_the_rest():
  for dtype in ("float32", "bfloat16"):
    model, base, adapter = made(SOME, dataclasses.replace(
      ODD, param_dtype=dtype))
    got, want = (flat(x) for x in (
      lora.merge(base, adapter, SOME), merged(base, adapter, SOME)))
    for name, leaf in got.items():
      assert leaf.dtype == dtype
      np.testing.assert_allclose(
        leaf.astype(np.float32), want[name].astype(np.float32),
        rtol=2**-7 if dtype == "bfloat16" else 1e-6, atol=1e-6, err_msg=name)
    untouched = flat(base)["layers/mlp/gate/kernel"]
    np.testing.assert_array_equal(got["layers/mlp/gate/kernel"], untouched)
    np.testing.assert_array_equal(  # the base is unchanged
      untouched, flat(made(SOME, model.cfg)[1])["layers/mlp/gate/kernel"])


# With a KL to the reference.
LEARN = dataclasses.replace(
  updates.LEARN, loss="diffu_grpo", loss_args=strict.Knobs(kl_coef=0.5),
  score_norm="none")


def state_of(trained, base=None, ref=None):
  return dataclasses.replace(
    updates.first_state(trained, updates.recorder()), base=base,
    ref_params=ref)


@functools.cache
def updated():
  """(state, metrics) of an update of an adapter, and of all parameters."""
  model, base, adapter = made()
  step = jax.jit(update.make(model, LEARN, updates.recorder()),
                 compiler_options=updates.FAST)
  batch = updates.make_batch()
  return (step(state_of(adapter, base, ref={}), batch),
          step(state_of(merged(base, adapter), ref=base), batch))


@pytest.mark.slow
def test_gradients_are_those_through_the_merged_matrices():
  (state, _), (whole, _) = updated()
  got = state.opt_state.inner_state
  assert flat(got).keys() == flat(made()[2]).keys()  # nothing of the base
  updates.assert_same(
    got, chained(whole.opt_state.inner_state, made()[2]), rtol=1e-4)
  updates.assert_same(
    state.params, jax.tree.map(lambda x, g: x - g, made()[2], got))


@pytest.mark.slow
def test_the_reference_is_the_base_without_a_copy():
  (state, metrics), (_, want) = updated()
  assert state.ref_params == {}
  assert metrics["kl"] > 0.01
  for name in ("loss", "kl", "score_mean", "delta"):
    np.testing.assert_allclose(
      metrics[name], want[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_base_is_what_it_was_after_an_update():
  (state, _), _ = updated()
  jax.tree.map(np.testing.assert_array_equal, state.base, made()[1])
  assert state.saved.base is None


def products(jaxpr):
  """Sorted shapes of the results of all products, also inside loops."""
  found = set()
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      found.add(tuple(sorted(eqn.outvars[0].aval.shape)))
    for sub in jax.tree.leaves(list(eqn.params.values())):
      if isinstance(sub, jax.extend.core.ClosedJaxpr):
        found |= products(sub.jaxpr)
      elif isinstance(sub, jax.extend.core.Jaxpr):
        found |= products(sub)
  return found


def test_no_product_is_as_large_as_a_matrix_of_the_base():
  model, base, adapter = made()
  step = update.make(model, LEARN, updates.recorder())
  batch = updates.make_batch()
  # A gradient may come out transposed.
  matrices = {tuple(sorted(leaf.shape[1:])) for name, leaf in flat(base).items()
              if name.startswith("layers/") and name.endswith("/kernel")}

  def large(state):
    return matrices & products(jax.make_jaxpr(step)(state, batch).jaxpr)

  assert large(state_of(merged(base, adapter), ref=base)) == matrices
  assert not large(state_of(adapter, base, ref={}))


def test_nothing_as_large_as_the_base_accumulates():
  model = transformer.build(
    config.ModelConfig(width=128, mlp_width=512, layers=8), updates.MASK, LORA)
  base = networks.shapes_of(model)
  size = sum(x.size * 4 for x in jax.tree.leaves(base))
  tx = optimizer.make(config.OptimizerConfig(), 10)
  state = jax.eval_shape(
    lambda x: updates.first_state(x, tx), lora.shapes(base, LORA))
  learn = config.LearnConfig(n_mc=2, micro_batch=2)
  memory = jax.jit(update.make(model, learn, tx), donate_argnums=0).lower(
    dataclasses.replace(state, base=base),
    jax.eval_shape(lambda: updates.make_batch()),
  ).compile(updates.FAST).memory_analysis()
  assert memory.temp_size_in_bytes < size / 2
  # It passes through a program that is given the state's memory.
  assert memory.alias_size_in_bytes > size


def assert_placed(tree, like):
  for leaf, wanted in zip(
      jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
    assert {s.data.shape for s in leaf.addressable_shards} == {
      wanted.sharding.shard_shape(wanted.shape)}


@pytest.mark.slow
def test_adapters_are_split_as_their_matrices_and_change_nothing_by_it():
  cfg = config.Config(
    model=networks.SHARDED,
    mesh=config.MeshConfig(2, 2, 2),
    lora=LORA,
    sft=config.SftConfig(batch_size=16, gen_length=updates.T),
  )
  tx = optimizer.make(cfg.sft.optimizer, 10)
  setup = setup_lib.make(cfg)
  _, base, adapter = made(LORA, cfg.model)
  batch = updates.make_batch(b=16, vocab=64)
  batch = {"prompt_ids": batch.prompt, "prompt_length": batch.prompt_length,
           "completion": batch.completion}
  step = sft.make_step(
    setup.model, cfg.sft, tx, setup.tokenizer.eos_id)
  want, _ = jax.jit(step, compiler_options=updates.FAST)(
    dataclasses.replace(updates.first_state(adapter, tx), base=base), batch)

  make_state, abstract = train_state.maker(
    setup, tx, functools.partial(train_state.first_state, setup, tx))
  like = setup.abstract_trained()
  specs = {networks.path_of(path): tuple(s.sharding.spec)
           for path, s in jax.tree.leaves_with_path(like)}
  kernels = {networks.path_of(path): tuple(s.spec) for path, s in
             jax.tree.leaves_with_path(setup.param_shardings)}
  assert len(specs) == 14
  for name, spec in specs.items():
    matrix, _, part = name.rpartition("/")
    layers, inputs, outputs = kernels[matrix + "/kernel"]
    assert {inputs, outputs} == {"fsdp", "tensor"}
    assert spec == ((layers, inputs, None) if part == "a"
                    else (layers, None, outputs))
  with jax.set_mesh(setup.mesh):
    state, _ = jax.jit(
      step, compiler_options=updates.FAST,
      out_shardings=(setup_lib.shardings_of(abstract), None))(
        make_state(lora.join(
          jax.device_put(base, setup.param_shardings),
          jax.device_put(adapter, setup_lib.shardings_of(like)))),
        setup.put_batch(batch))
  for tree in (state.params, optax.tree.get(state.opt_state, "mu")):
    assert_placed(tree, like)
  assert_placed(state.base, setup.abstract_params())
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=0, atol=1e-5), state.params, want.params)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), want.params, adapter)
  assert min(jax.tree.leaves(moved)) > 1e-5


def test_adapters_may_be_wider_than_their_base():
  cfg = dataclasses.replace(
    ODD, param_dtype="bfloat16", compute_dtype="bfloat16")
  model, base, adapter = made(LORA, cfg)
  policy = lora.join(base, adapter)
  row = (jnp.asarray(IDS), jnp.tile(jnp.arange(7), (3, 1)), jnp.full(3, 7))
  assert jax.eval_shape(model.hidden, policy, *row).dtype == jnp.bfloat16
  state, _ = jax.eval_shape(
    update.make(model, LEARN, updates.recorder()),
    state_of(adapter, base, ref={}), updates.make_batch())
  assert {x.dtype for x in jax.tree.leaves(state.base)} == {
    jnp.dtype("bfloat16")}
  assert {x.dtype for x in jax.tree.leaves(
    (state.params, state.opt_state.inner_state))} == {jnp.dtype("float32")}
