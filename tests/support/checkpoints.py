"""Data to save in checkpoints, and comparisons to the bit."""

import grain
import jax
import jax.numpy as jnp
import numpy as np


def abstract(tree):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def batches():
  data = grain.MapDataset.range(50).shuffle(seed=3).repeat().batch(4)
  return iter(data.to_iter_dataset())


def words(tree):
  """The bytes of every leaf."""
  def plain(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x
  return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(tree)]


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert words(a) == words(b)
