"""Digests: every bit counts, the mesh does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_checkpoint
from collectives import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

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


def words(x):
  """The bits of an array's elements as unsigned numbers, by NumPy alone."""
  x = np.ascontiguousarray(np.asarray(x))
  if x.dtype.itemsize == 8:
    return x.view(np.uint32)
  return x.view(f"uint{8 * x.dtype.itemsize}")


def expected(x):
  """The checksum by its definition, in whole numbers of Python."""
  return sum(int(bits) * (0x3C6EF362 * place + 1)
             for place, bits in enumerate(words(x).ravel())) % 2**32


CASES = {
  "matrix": (np.float32, (24, 40), ("fsdp", "tensor")),
  "columns": (jnp.bfloat16, (24, 40), (None, "tensor")),
  "layers": (np.float32, (3, 16, 26), (None, "fsdp", None)),
  "odd": (np.int8, (7, 13, 5), ()),
  "vector": (np.float16, (53,), ()),
  "split_vector": (np.int32, (48,), ("fsdp",)),
  "number": (np.int32, (), ()),
  "nothing": (np.float32, (0, 3), ()),
}


def arrays(sizes):
  """Arrays on a mesh of these sizes, and their checksums by definition."""
  rng = np.random.default_rng(1)
  mesh = test_checkpoint.sharded(sizes)["n"].mesh
  tree, wanted = {}, {}
  for name, (dtype, shape, spec) in CASES.items():
    x = (100 * rng.normal(size=shape)).astype(dtype)
    tree[name] = jax.device_put(x, NamedSharding(mesh, P(*spec)))
    wanted[name] = f"{np.dtype(dtype)}:{expected(x):08x}"
  return tree, wanted


@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize("part", [7, 1 << 16])
@pytest.mark.parametrize("sizes", [(4, 2), (2, 1), (1, 1)])
def test_sums_of_parts_are_the_sum_by_its_definition(part, sizes, monkeypatch):
  monkeypatch.setattr(array_checksums, "CPU_PART", part)
  tree, wanted = arrays(sizes)
  assert array_checksums.leaves(tree) == wanted


def test_elements_of_other_kinds_are_summed_in_parts_too(monkeypatch):
  monkeypatch.setattr(array_checksums, "CPU_PART", 4)
  keys = jax.random.split(jax.random.key(3), 11)
  flags = np.arange(11) % 3 == 0
  with jax.enable_x64(True):
    wide = jnp.arange(11, dtype="int64") << 33
    found = array_checksums.leaves(
      {"keys": keys, "flags": jnp.array(flags), "wide": wide})
  assert found == {
    "keys": f"key<fry>:{expected(jax.random.key_data(keys)):08x}",
    "flags": f"bool:{expected(flags.astype(np.int8)):08x}",
    "wide": f"int64:{expected(np.asarray(wide)):08x}"}


def test_checkpoints_of_older_versions_can_still_be_compared():
  # As they were written when each array was summed by a program of its own.
  x = np.arange(70_000, dtype=np.float32).reshape(7, 100, 100)
  tree = {"a": {"w": x, "b": jnp.asarray(x[0], jnp.bfloat16)},
          "step": jnp.int32(12), "key": jax.random.key_data(jax.random.key(5))}
  assert array_checksums.leaves(tree) == {
    "a/b": "bfloat16:b99c1df2", "a/w": "float32:d1d9cc00",
    "key": "uint32:2e2ac0ef", "step": "int32:0000000c"}


def test_devices_exchange_sums_and_no_parts(monkeypatch):
  monkeypatch.setattr(array_checksums, "CPU_PART", 64)
  found = list(arrays((4, 2))[0].values())
  program = array_checksums._sums.lower(
    found, tuple(map(array_checksums._cut, found)), None).compile()
  exchanged = collectives(program.as_text())
  assert {(computation, operation) for computation, operation, _ in exchanged
          } == {("ENTRY", "all-reduce")}


def test_parts_take_no_memory_to_speak_of():
  whole = jnp.zeros((1024, 1024))
  program = array_checksums._sums.lower(
    [whole], (array_checksums._cut(whole),), None).compile()
  assert program.memory_analysis().temp_size_in_bytes < whole.nbytes / 4


def test_all_checksums_are_read_at_once(monkeypatch):
  read = []
  get = jax.device_get
  monkeypatch.setattr(jax, "device_get", lambda x: (read.append(x), get(x))[1])
  tree, _ = arrays((4, 2))
  array_checksums.leaves(tree)
  assert [x.shape for x in read] == [(len(tree),)]
