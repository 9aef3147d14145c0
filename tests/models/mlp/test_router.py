"""Which experts are chosen, by a plain loop and by published routers."""

import jax
import jax.numpy as jnp
import mixtures
import numpy as np
import pytest

from dlrl import config
from dlrl import models
from dlrl.models.mlp import router

SIGMOID = config.ExpertsConfig(
  12, 3, 4, router="sigmoid", scale=2.5, groups=4, groups_per_token=2)
CASES = {
  "softmax": config.ExpertsConfig(12, 3, 4),
  "softmax as it is": config.ExpertsConfig(12, 3, 4, normalized=False),
  "groups": SIGMOID,
  "one group": config.ExpertsConfig(12, 5, 4, router="sigmoid", scale=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_experts_and_weights_are_those_of_a_plain_loop(name):
  cfg = CASES[name]
  rng = np.random.default_rng(3)
  logits = rng.normal(size=(40, cfg.number)).astype(np.float32)
  bias = rng.normal(0, 0.3, cfg.number).astype(np.float32)
  if cfg.router == "softmax":
    bias *= 0
  found = router.choose(jnp.array(logits), jnp.array(bias), cfg)
  for row, experts, weights in zip(logits, *found, strict=True):
    chosen, want = mixtures.routed_by_hand(row, bias, cfg)
    assert experts.tolist() == chosen
    np.testing.assert_allclose(weights, want, rtol=1e-5)


def test_a_bias_chooses_and_does_not_weigh():
  logits = jnp.zeros((1, 12))
  bias = jnp.zeros(12).at[7].set(0.01)
  cfg = config.ExpertsConfig(12, 2, 4, router="sigmoid")
  found = router.choose(logits, bias, cfg)
  assert found.experts.tolist() == [[7, 0]]
  np.testing.assert_allclose(found.weights, [[0.5, 0.5]])
  # And it has no gradient, while the logits of chosen experts have one.
  def first(logits, bias):
    return router.choose(logits, bias, cfg).weights[0, 0]

  for_logits, for_bias = jax.grad(first, (0, 1))(logits, bias)
  assert not np.any(for_bias)
  assert for_logits[0, 7] > 0 > for_logits[0, 0]
  assert np.count_nonzero(for_logits) == 2


def test_scores_of_zero_do_not_divide_by_zero():
  cfg = config.ExpertsConfig(4, 2, 4, router="sigmoid")
  found = router.choose(jnp.full((1, 4), -200.0), None, cfg)
  assert np.all(np.isfinite(found.weights))


def test_scores_are_computed_in_fp32():
  cfg = config.ModelConfig(
    width=64, experts=config.ExpertsConfig(16, 2, 4),
    param_dtype="bfloat16", compute_dtype="bfloat16")
  from flax import nnx
  made = router.Router(cfg, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (8, 64), jnp.bfloat16)
  got = made.logits(x)
  kernel = np.asarray(made.kernel.get_value().astype(jnp.float32), np.float64)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(
    got, np.asarray(x, np.float64) @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "layers", "block_length"), [
  ("sdar_moe_tiny", (0, 2), 4), ("llada2_tiny", (1, 2), 8)])
def test_a_published_mixture_chooses_weighs_and_computes(
    shared, name, layers, block_length):
  root = shared / "golden" / name
  golden = np.load(root / "golden.npz")
  model, params = models.load(
    root, mask_id=318, block_length=block_length, dtype="float32")
  cfg = model.cfg.experts
  network = model._network(params)
  from flax import nnx
  definition, stacked = nnx.split(network.layers)
  for layer in layers:
    mixture = nnx.merge(definition, jax.tree.map(
      lambda x, i=layer - cfg.dense_layers: x[i], stacked)).mlp
    want = {key: golden[f"router.{layer}.{key}"] for key in (
      "hidden", "logits", "expert_ids", "expert_weights", "output")}
    hidden = jnp.array(want["hidden"])
    np.testing.assert_allclose(
      mixture.router.logits(hidden), want["logits"], atol=1e-5)
    found = mixture.router(hidden)
    order = np.argsort(found.experts, -1)
    np.testing.assert_array_equal(
      np.take_along_axis(np.asarray(found.experts), order, -1),
      want["expert_ids"])
    np.testing.assert_allclose(
      np.take_along_axis(np.asarray(found.weights), order, -1),
      want["expert_weights"], rtol=1e-5)
    np.testing.assert_allclose(
      mixture(hidden[None])[0], want["output"], rtol=0,
      atol=1e-5 * np.abs(want["output"]).max())
