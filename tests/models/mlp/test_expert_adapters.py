"""Adapters on experts, and quantised experts beneath them."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl import strict
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer

CFG = dataclasses.replace(networks.TINY, experts=config.ExpertsConfig(
  4, 2, 12, shared_width=8, dense_layers=1))
ALL = config.LoraConfig(rank=2, alpha=6.0)
IDS = np.random.default_rng(0).integers(0, 24, (2, 7))


def made(cfg, adapters):
  """(model, parameters, an adapter with random values)."""
  model = transformer.build(cfg, 2, adapters)
  params = networks.random_params(model)
  rng = np.random.default_rng(1)
  return model, params, jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype),
    lora.shapes(params, adapters))


def test_an_adapter_has_parts_for_every_expert_and_every_layer():
  _, _, adapter = made(CFG, ALL)
  experts = adapter["layers"]["mlp"]["experts"]
  assert experts["up"]["a"].shape == (1, 4, 16, 2)
  assert experts["down"]["b"].shape == (1, 4, 2, 16)
  assert adapter["layers"]["mlp"]["shared"]["gate"]["b"].shape == (1, 2, 8)
  assert adapter["dense_layers"]["mlp"]["gate"]["a"].shape == (1, 16, 2)
  some = dataclasses.replace(ALL, targets="layers/(attention|mlp/shared)/.*")
  found = made(CFG, some)[2]
  assert set(found["layers"]["mlp"]) == {"shared"}
  assert set(found["dense_layers"]) == {"attention"}


def test_targets_that_a_model_has_not_are_refused():
  experts = dataclasses.replace(ALL, targets="layers/mlp/experts/.*")
  with pytest.raises(strict.ConfigError, match=(
      r"config\.lora\.targets = 'layers/mlp/experts/\.\*': must match a matrix "
      "of this model: layers/attention/q, .*layers/mlp/down$")):
    made(networks.TINY, experts)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", *quantized.METHODS])
def test_an_adapter_computes_what_its_sum_with_the_matrices_does(method):
  cfg = CFG
  if method != "none":
    pytest.importorskip("qwix")
    cfg = dataclasses.replace(CFG, width=64, mlp_width=64, heads=4, head_dim=16,
      kv_heads=4, experts=config.ExpertsConfig(
        4, 2, 64, shared_width=64, dense_layers=1))
  model, base, adapter = made(cfg, ALL)
  before = model.logits(base, IDS)
  quantized.quantize(
    base, networks.shapes_of(model), method,
    lora.paths(base, lora.MATRICES))
  got = model.logits(lora.join(base, adapter), IDS)
  want = model.logits(lora.merge(base, adapter, ALL), IDS)
  np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())
  assert np.abs(got - before).max() > 0.1


@pytest.mark.parametrize("method", quantized.METHODS)
def test_each_expert_is_quantised_as_a_matrix_by_itself(method):
  pytest.importorskip("qwix")
  kernel = jax.random.normal(jax.random.key(0), (2, 3, 64, 8))
  kernel *= jnp.array([1.0, 100.0, 0.01])[None, :, None, None]
  params = {"up": {"kernel": kernel}}
  quantized.quantize(params, params, method, ("up",))
  found = quantized.dense(params["up"]["kernel"])
  one = {"up": {"kernel": kernel[1:, 2]}}
  quantized.quantize(one, one, method, ("up",))
  np.testing.assert_array_equal(
    found[1:, 2], quantized.dense(one["up"]["kernel"]))
  off = np.abs(found - kernel).max((2, 3)) / np.abs(kernel).max((2, 3))
  assert off.max() < {"int8": 0.01, "nf4": 0.2}[method]
