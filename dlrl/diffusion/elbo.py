"""The ELBO estimate of one draw: a weighted sum of masked tokens' log-probs."""

import jax
import jax.numpy as jnp


def score(
  logps: jax.Array, weight: jax.Array, norm: float | jax.Array
) -> jax.Array:
  """One draw's estimate of `log p(y | x) / norm`, from below, [b] fp32.

  Args:
    logps: [b, t] fp32 log-probs of the true tokens given the masked response.
    weight: [b, t] from the forward process; zero where nothing was masked, and
      there `logps` may hold anything finite.
    norm: scalar or [b]; 1 for the paper's sum over tokens (BGPO Eq. 4), the
      canvas length for a mean per token, which keeps exp(difference of scores)
      and 1 + difference near 1 whatever the length.
  """
  return jnp.sum(logps * weight, axis=-1) / norm
