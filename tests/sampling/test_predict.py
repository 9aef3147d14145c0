"""One prediction: which token is drawn, and what its score is of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import config
from dlrl.sampling import predict

PROBS = np.array([0.6, 0.2, 0.15, 0.05])


@functools.partial(jax.jit, static_argnames="sampler")
def predicted(logits, keys, sampler):
  return predict.predict(
    logits, keys, jnp.zeros(len(keys), jnp.int32), sampler, None)


def draws(n, **sampler):
  """(token, score, confidence) of n rows with one column of PROBS."""
  logits = jnp.tile(jnp.log(jnp.asarray(PROBS, jnp.float32)), (n, 1, 1))
  found = predicted(logits, jax.random.split(jax.random.key(0), n),
                    config.SamplerConfig(**sampler))
  return (np.asarray(x)[:, 0] for x in found)


def test_of_equal_logits_the_first_is_taken():
  logits = np.random.default_rng(0).integers(0, 3, (4, 8, 16))
  token, _, _ = predict.predict(
    jnp.asarray(logits, jnp.float32), jax.random.split(jax.random.key(0), 4),
    jnp.zeros(4, int), config.SamplerConfig(temperature=0.0), None)
  assert token.dtype == jnp.int32
  np.testing.assert_array_equal(token, logits.argmax(-1))


def test_a_column_of_nan_has_a_token_of_the_vocabulary():
  token, _, _ = predicted(
    jnp.full((1, 2, 5), jnp.nan), jax.random.split(jax.random.key(0), 1),
    config.SamplerConfig())
  assert ((np.asarray(token) >= 0) & (np.asarray(token) < 5)).all()


@pytest.mark.parametrize("temperature, kept", [(0.5, 1), (1.0, 2), (2.0, 3)])
def test_top_p_is_of_the_tempered_distribution(temperature, kept):
  n = 2**13
  token, _, _ = draws(n, temperature=temperature, top_p=0.7)
  want = PROBS ** (1 / temperature)
  want /= want.sum()
  want[kept:] = 0
  want /= want.sum()
  share = np.bincount(token, minlength=4) / n
  error = np.sqrt(want * (1 - want) / n)
  assert (abs(share - want) <= 5 * error).all()


@pytest.mark.parametrize("options", [
  {}, {"top_p": 0.9}, {"remasking": "random"}], ids=str)
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_confidence_is_of_the_models_own_distribution(temperature, options):
  token, score, confidence = draws(64, temperature=temperature, **options)
  np.testing.assert_allclose(confidence, PROBS[token], rtol=1e-5)
  if "remasking" not in options:
    np.testing.assert_array_equal(score, confidence)
  assert len(set(token)) > 1


def test_a_random_order_does_not_depend_on_the_tokens():
  n = 2**13
  token, score, _ = draws(n, temperature=1.0, remasking="random")
  for i in range(3):
    of_token = score[token == i]
    error = np.sqrt(1 / 12 / len(of_token))  # of a uniform variable's mean
    assert abs(of_token.mean() - 0.5) <= 5 * error


@pytest.mark.parametrize("top_k, top_p, kept", [
  (1, 1.0, 1), (3, 1.0, 3), (0, 1.0, 4), (9, 1.0, 4),
  # Of all four tokens, 0.6 would not be 0.7, but of the first two it is 0.75.
  (2, 0.7, 1), (2, 0.8, 2)])
def test_top_k_comes_before_top_p(top_k, top_p, kept):
  n = 2**13
  token, score, confidence = draws(
    n, temperature=1.0, top_k=top_k, top_p=top_p)
  want = np.where(np.arange(4) < kept, PROBS, 0)
  want /= want.sum()
  share = np.bincount(token, minlength=4) / n
  assert (abs(share - want) <= 5 * np.sqrt(want * (1 - want) / n)).all()
  # The model's own, as ever.
  np.testing.assert_allclose(score, PROBS[token], rtol=1e-6)
  np.testing.assert_allclose(confidence, PROBS[token], rtol=1e-6)


@pytest.mark.parametrize("options, want", [
  ({"temperature": 1.0, "top_k": 2}, [0.75, 0.25, 0, 0]),
  ({"temperature": 1.0, "top_k": 1}, [1, 0, 0, 0]),
  ({"temperature": 0.0}, PROBS), ({"temperature": 0.0, "top_k": 2}, [0.75]),
  ({"temperature": 0.5, "top_p": 0.9}, np.array([.36, .04]) / 0.4),
  ({"temperature": 2.0, "top_k": 3}, PROBS[:3]**.5 / sum(PROBS[:3]**.5))],
  ids=str)
def test_what_is_drawn_is_as_likely_as_it_was(options, want):
  n = 2**9
  logits = jnp.tile(jnp.log(jnp.asarray(PROBS, jnp.float32)), (n, 1, 1))
  token, score, confidence = (np.asarray(x)[:, 0] for x in jax.jit(
    predict.predict_drawn, static_argnums=3)(
    logits, jax.random.split(jax.random.key(0), n), jnp.zeros(n, int),
    config.SamplerConfig(**options)))
  found = len(set(token.tolist()))
  assert found == (1 if not options["temperature"] else np.sum(
    np.asarray(want) > 0))
  np.testing.assert_allclose(confidence, np.asarray(want)[token], rtol=1e-5)
  np.testing.assert_array_equal(score, confidence)
