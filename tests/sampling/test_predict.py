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
