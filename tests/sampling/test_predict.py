"""The token that is predicted, where logits leave a choice."""

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl.sampling import predict


def test_of_equal_logits_the_first_is_taken():
  logits = np.random.default_rng(0).integers(0, 3, (4, 8, 16))
  token, _, _ = predict.predict(
    jnp.asarray(logits, jnp.float32), jax.random.split(jax.random.key(0), 4),
    jnp.zeros(4, int), config.SamplerConfig(temperature=0.0), None)
  assert token.dtype == jnp.int32
  np.testing.assert_array_equal(token, logits.argmax(-1))
