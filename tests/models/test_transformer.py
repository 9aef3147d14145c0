"""The network against golden logits, and its invariances."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.costs.flops import flops
from dlrl.diffusion import model_input
from dlrl.diffusion import token_logps
from dlrl.models import layers
from dlrl.models import transformer

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture
def llada(shared):
  return networks.published(shared / "golden" / "llada_tiny")


@pytest.fixture
def golden(shared):
  return np.load(shared / "golden" / "llada_tiny" / "golden.npz")


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, ids, positions, lengths):
  return model.hidden(params, ids, positions, lengths) @ model.unembed(params)


def in_order(ids):
  """(ids, positions, lengths) of full rows in ordinary order."""
  b, t = ids.shape
  return (jnp.asarray(ids), jnp.tile(jnp.arange(t), (b, 1)),
          jnp.full(b, t, jnp.int32))


@functools.cache
def tiny(**changes):
  model = transformer.build(dataclasses.replace(networks.TINY, **changes), 2)
  return model, networks.random_params(model)


def ids_of(shape, seed=0):
  return np.random.default_rng(seed).integers(
    0, networks.TINY.vocab_size, shape).astype(np.int32)


@pytest.mark.shared_data
def test_golden_logits_in_ordinary_order(llada, golden):
  logits = logits_of(*llada, *in_order(golden["input_ids"]))
  np.testing.assert_allclose(logits, golden["logits"], atol=2e-4, rtol=0)


@pytest.mark.shared_data
def test_golden_hidden_states_after_the_last_norm(llada, golden):
  model, params = llada
  hidden = jax.jit(model.hidden)(params, *in_order(golden["input_ids"]))
  np.testing.assert_allclose(
    hidden[0], golden["hidden_states_row0"][-1], atol=2e-4, rtol=0)


@pytest.mark.shared_data
def test_golden_logits_with_the_canvas_first(llada, golden):
  ids, want = golden["input_ids"], golden["logits"]
  p = 13  # length of the prompt; the rest is the canvas
  row = model_input.assemble(
    jnp.asarray(ids[:, p:]), jnp.asarray(ids[:, :p]), jnp.full(3, p))
  logits = logits_of(*llada, *row)
  np.testing.assert_allclose(
    logits, np.concatenate([want[:, p:], want[:, :p]], 1), atol=2e-4, rtol=0)


@pytest.mark.shared_data
def test_golden_logits_with_padding(llada, golden):
  ids, live, want = (golden[k] for k in (
    "input_ids_padded", "attention_mask", "logits_padded"))
  # Padding moves from the left to the end; positions are kept.
  order = np.argsort(1 - live, axis=1, kind="stable")
  assert (order[1] != order[0]).any()
  logits = logits_of(
    *llada, np.take_along_axis(ids, order, 1), order, live.sum(1))
  for row in range(3):
    n = live[row].sum()
    np.testing.assert_allclose(
      logits[row, :n], want[row, order[row, :n]], atol=2e-4, rtol=0)


@pytest.mark.shared_data
def test_golden_gradients_of_masked_log_probs(llada, golden):
  model, params = llada
  ids, positions, lengths = in_order(golden["input_ids"][:1])

  def total(params):
    hidden = model.hidden(params, ids, positions, lengths)
    return jnp.sum(token_logps.token_logps(
      hidden, model.unembed(params), jnp.asarray(golden["target_ids"][:1]),
      jnp.asarray(golden["is_mask"][:1]), chunk=16).logps)

  value, grads = jax.jit(jax.value_and_grad(total))(params)
  np.testing.assert_allclose(value, golden["grad_sum_logp"], rtol=1e-5)
  stem, checked = "grad.model.transformer.", set()
  for path, ours in jax.tree.leaves_with_path(grads):
    name = networks.path_of(path)
    if name in networks.TOP:
      pairs = [(networks.TOP[name], ours)]
    else:
      theirs = networks.BLOCK[name.removeprefix("layers/")]
      pairs = [(f"blocks.{i}.{theirs}", x) for i, x in enumerate(ours)]
    for theirs, x in pairs:
      want = golden.get(f"{stem}{theirs}.weight")
      if want is not None:  # the file has only some
        checked.add(theirs)
        np.testing.assert_allclose(
          x.T if name.endswith("kernel") else x, want,
          atol=1e-4 * np.abs(want).max(), rtol=0)
  assert len(checked) == sum(k.startswith(stem) for k in golden.files) > 5


def test_what_follows_a_rows_length_changes_nothing():
  model, params = tiny()
  ids, positions, _ = in_order(ids_of((3, 9)))
  lengths = jnp.array([9, 5, 1])
  spoiled_ids, spoiled_positions = (
    jnp.where(jnp.arange(9)[None] < lengths[:, None], x, y) for x, y in (
      (ids, ids_of((3, 9), seed=1)), (positions, 77)))
  want = logits_of(model, params, ids, positions, lengths)
  got = logits_of(model, params, spoiled_ids, spoiled_positions, lengths)
  for row, n in enumerate(map(int, lengths)):
    np.testing.assert_array_equal(got[row, :n], want[row, :n])
  assert np.isfinite(np.asarray(got)).all()
  # Less padding, or none, changes nothing either.
  short = logits_of(model, params, ids[:, :5], positions[:, :5],
                    jnp.array([5, 5, 1]))
  for row, n in ((1, 5), (2, 1)):
    np.testing.assert_allclose(short[row, :n], want[row, :n], atol=1e-5)


def test_every_output_depends_on_every_live_input_and_on_no_padding():
  model, params = tiny()
  t, n = 7, 5
  # Distinct ids, so that an embedding's row stands for one input position.
  ids, positions, _ = in_order(np.arange(3, 3 + t)[None])
  probe = jnp.asarray(
    np.random.default_rng(0).normal(size=networks.TINY.width), jnp.float32)

  def outputs(table):
    changed = params | {"embed": {"embedding": table}}
    hidden = model.hidden(changed, ids, positions, jnp.array([n]))
    return hidden[0, :n] @ probe

  jacobian = jax.jit(jax.jacrev(outputs))(params["embed"]["embedding"])
  size = np.linalg.norm(jacobian, axis=-1)  # [output, id]
  assert (size[:, 3:3 + n] > 1e-6).all()
  np.testing.assert_array_equal(size[:, 3 + n:], 0)


def test_only_relative_positions_matter():
  model, params = tiny()
  ids, positions, lengths = in_order(ids_of((2, 8)))
  want = logits_of(model, params, ids, positions, lengths)
  np.testing.assert_allclose(
    logits_of(model, params, ids, positions + 11, lengths), want, atol=1e-4)
  other = logits_of(model, params, ids, positions[:, ::-1] * 3, lengths)
  assert np.abs(np.asarray(other - want)).max() > 1e-2


def test_the_order_in_memory_does_not_matter():
  model, params = tiny()
  ids, positions, lengths = in_order(ids_of((2, 8)))
  order = np.random.default_rng(0).permutation(8)
  want = logits_of(model, params, ids, positions, lengths)
  got = logits_of(model, params, ids[:, order], positions[:, order], lengths)
  np.testing.assert_allclose(got, want[:, order], atol=1e-5)


def test_shared_kv_heads_are_repeated_kv_heads():
  model, params = tiny(heads=4, kv_heads=2)
  full, _ = tiny(heads=4, kv_heads=4)

  def repeat(kernel):
    layers, width, _ = kernel.shape
    split = kernel.reshape(layers, width, 2, 8)
    return jnp.repeat(split, 2, axis=2).reshape(layers, width, 32)

  repeated = jax.tree.map_with_path(
    lambda path, x: (
      repeat(x) if re.search("/[kv]/", networks.path_of(path)) else x), params)
  row = in_order(ids_of((2, 6)))
  np.testing.assert_allclose(
    logits_of(full, repeated, *row), logits_of(model, params, *row), atol=1e-5)


def test_every_parameter_matches_one_sharding_row_of_its_rank():
  variants = (tiny(qkv_bias=True)[0], tiny(qk_norm=True)[0], tiny(
    experts=config.ExpertsConfig(
      4, 2, 8, shared_width=8, dense_layers=1, router="sigmoid"))[0])
  used = set()
  for path, leaf in (pair for model in variants for pair in
                     jax.tree.leaves_with_path(networks.shapes_of(model))):
    found = [row for row in layers.SHARDING
             if re.fullmatch(row, networks.path_of(path))]
    assert len(found) == 1, networks.path_of(path)
    assert len(layers.SHARDING[found[0]]) == leaf.ndim
    used.update(found)
  assert used == set(layers.SHARDING)


@pytest.mark.parametrize("changes", [
  {}, {"shifted": True, "qkv_bias": True}, {"qk_norm": True, "kv_heads": 1}])
def test_hidden_states_of_some_columns_are_those_of_all(changes):
  model, params = tiny(**changes)
  ids = ids_of((3, 9))
  row = model_input.assemble(ids[:, :5], ids[:, 5:], jnp.array([4, 2, 0]))
  some = jnp.array([[0, 3], [4, 0], [1, 1]])

  def loss(params, columns=None):
    hidden = model.hidden(params, *row, columns)
    if columns is None:
      hidden = hidden[jnp.arange(3)[:, None], some]
    return jnp.sum(jnp.sin(hidden)), hidden

  (_, got), ours = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    params, some)
  (_, want), theirs = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_the_last_layer_computes_no_other_columns():
  model, params = tiny()
  row = in_order(ids_of((2, 64)))
  cfg, b, t, w = model.cfg, 2, 64, 4
  saved = flops(model.hidden, params, *row) - flops(
    lambda *a: model.hidden(*a, jnp.tile(jnp.arange(w), (b, 1))), params, *row)
  inner = cfg.heads * cfg.head_dim
  want = 2 * b * (t - w) * (
    2 * cfg.width * inner + 2 * t * inner + 3 * cfg.width * cfg.mlp_width)
  assert saved == want


def test_what_is_rematerialised_changes_no_value_and_no_gradient():
  row = in_order(ids_of((2, 6)))
  results = {}
  for remat in layers.REMAT:
    model, params = tiny(remat=remat)

    def loss(params, model=model):
      return jnp.sum(jnp.sin(model.hidden(params, *row)))

    results[remat] = jax.jit(jax.value_and_grad(loss))(params)
  for remat in ("dots", "full"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
      results[remat], results["none"])


def test_dots_computes_scores_again_and_no_other_product():
  b, t = 2, 6
  row = in_order(ids_of((b, t)))

  def work(remat):
    model, params = tiny(remat=remat)
    return flops(jax.grad(lambda p: jnp.sum(model.hidden(p, *row))), params)

  cfg = tiny()[0].cfg
  scores = cfg.layers * 2 * b * t * t * cfg.heads * cfg.head_dim
  assert work("dots") == work("none") + scores
  assert work("full") > work("dots")


def test_parameters_are_those_of_the_key():
  init = jax.jit(tiny()[0].init)
  params, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, params, again)
  params, other = jax.tree.map(np.asarray, (params, other))
  for path, leaf in jax.tree.leaves_with_path(params):
    name = networks.path_of(path)
    if name.endswith("scale"):
      np.testing.assert_array_equal(leaf, 1)
      continue
    theirs = functools.reduce(lambda t, k: t[k.key], path, other)
    assert (leaf != theirs).mean() > 0.99, name
    if name.startswith("layers/"):
      assert (leaf[0] != leaf[1]).mean() > 0.99, name


def test_parameter_and_compute_dtypes_are_as_configured():
  model, params = tiny(compute_dtype="bfloat16", param_dtype="float32")
  row = in_order(ids_of((2, 6)))
  assert {x.dtype for x in jax.tree.leaves(networks.shapes_of(model))} == {
    jnp.dtype("float32")}
  hidden = jax.eval_shape(model.hidden, params, *row)
  assert hidden.dtype == jnp.bfloat16
  assert jax.eval_shape(model.unembed, params).dtype == jnp.bfloat16
  half = transformer.build(
    dataclasses.replace(networks.TINY, param_dtype="bfloat16"), 2)
  assert {x.dtype for x in jax.tree.leaves(networks.shapes_of(half))} == {
    jnp.dtype("bfloat16")}
