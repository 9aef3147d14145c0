"""Digests: every bit counts, the mesh does not."""

import jax
import jax.numpy as jnp
import numpy as np
import test_checkpoint

from dlrl.storage import array_checksums


def test_every_element_of_small_and_large_integers_counts():
  for dtype in ("int4", "uint4", "int8", "uint8"):
    whole = jnp.arange(6).astype(dtype).reshape(2, 3)
    found = {array_checksums.fingerprint({"x": x}) for x in (
      whole, whole.at[0, 1].set(7), whole.at[1, 2].set(0), whole[:, ::-1])}
    assert len(found) == 4, dtype
  with jax.enable_x64(True):
    whole = jnp.arange(6, dtype="int64")
    found = {array_checksums.fingerprint({"x": x}) for x in (
      whole, whole.at[3].add(1 << 40), whole.at[3].add(1))}
    assert len(found) == 3


def test_a_fingerprint_tells_any_two_trees_apart_and_no_two_meshes():
  rng = np.random.default_rng(0)
  tree = {"w": rng.normal(size=(16, 8)).astype(np.float32),
          "b": jnp.asarray(rng.normal(size=8), jnp.bfloat16)}
  found = {array_checksums.fingerprint(tree)}
  assert {len(x) for x in found} == {12}
  for sizes in ((4, 2), (2, 4), (1, 1)):
    placed = jax.device_put(tree, test_checkpoint.sharded(sizes)["params"])
    assert array_checksums.fingerprint(placed) in found
  for place in ((0, 0), (3, 5), (15, 7)):  # the last bit of one element
    other = tree["w"].copy()
    other[place] = np.nextafter(other[place], np.inf)
    found.add(array_checksums.fingerprint(tree | {"w": other}))
  found.add(array_checksums.fingerprint(tree | {"w": tree["w"][::-1].copy()}))
  found.add(array_checksums.fingerprint(tree | {"b": tree["b"].at[3].mul(-1)}))
  found.add(array_checksums.fingerprint({"v": tree["w"], "b": tree["b"]}))
  assert len(found) == 7
