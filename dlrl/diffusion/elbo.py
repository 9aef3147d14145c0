"""The ELBO estimate of one draw: a weighted sum of masked tokens' log-probs."""

import jax
import jax.numpy as jnp

from dlrl.losses import floats


def score(
  logps: jax.Array, weight: jax.Array, norm: float | jax.Array
) -> jax.Array:
  """One draw's estimate of a lower bound of `log p(y | x) / norm`, [b] fp32.

  Args:
    logps: [b, t] fp32, log-probs of the true tokens given the masked response;
      anything where the weight is zero, even -inf.
    weight: [b, t] fp32 from the forward process; zero where nothing was masked.
    norm: scalar or [b]; 1 for the paper's sum over tokens (arXiv 2510.11683,
      Eq. 4), the canvas length for a mean per token, which keeps exp(difference
      of scores) and 1 + difference near 1 whatever the length.
  """
  total = jnp.sum(floats.weighted(logps, weight), axis=-1)
  return total / jnp.asarray(norm, total.dtype)
