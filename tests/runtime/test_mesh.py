"""Meshes over eight devices and the table of parameter shardings."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.runtime import mesh as mesh_lib


def shape(*sizes):
  mesh = mesh_lib.make(config.MeshConfig(*sizes)).shape
  assert mesh["expert"] == 1
  return mesh["data"], mesh["fsdp"], mesh["tensor"]


def test_sizes_and_their_filler_make_a_mesh_of_all_devices():
  assert shape(-1, 1, 1) == (8, 1, 1)
  assert shape(2, -1, 2) == (2, 2, 2)
  assert shape(1, 4, -1) == (1, 4, 2)
  assert shape(4, 2, 1) == (4, 2, 1)
  assert shape(8, -1, 1) == (8, 1, 1)
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  assert mesh.axis_names == ("data", "expert", "fsdp", "tensor")
  assert mesh.axis_types == (AxisType.Auto,) * 4
  assert set(mesh.devices.flat) == set(jax.devices())


def test_a_mesh_may_have_fewer_devices_if_told_which():
  few = jax.devices()[:2]
  mesh = mesh_lib.make(config.MeshConfig(1, -1, 1), few)
  assert dict(mesh.shape) == {
    "data": 1, "expert": 1, "fsdp": 2, "tensor": 1}
  assert list(mesh.devices.flat) == few


@pytest.mark.parametrize(
  ("sizes", "message"),
  [((4, 1, 1), "data=4, .*=1, fsdp=1, .*=1.*the 8 devices.*-1 to use all"),
   ((4, 4, 1), "data=4, .*, fsdp=4, .*multiply to the 8 devices"),
   ((3, -1, 1), "data=3, .*, fsdp=-1, .*multiply to the 8 devices"),
   ((16, -1, 1), "data=16, .*, fsdp=-1, .*multiply to the 8 devices"),
   ((1, 1, 1, 3), "data=1, expert=3, fsdp=1, tensor=1.*the 8 devices"),
   ((-1, -1, 1), "data=-1, .*, fsdp=-1, .*at most one may be -1"),
   ((0, -1, 1), "data=0, .*positive"),
   ((-2, -4, 1), "data=-2, expert=1, fsdp=-4, tensor=1.*positive")])
def test_sizes_that_cannot_work_are_named(sizes, message):
  with pytest.raises(strict.ConfigError, match=message):
    mesh_lib.make(config.MeshConfig(*sizes))


def test_experts_have_an_axis_that_splits_the_batch_as_well():
  mesh = mesh_lib.make(config.MeshConfig(1, -1, 2, expert=2))
  assert dict(mesh.shape) == {"data": 1, "expert": 2, "fsdp": 2, "tensor": 2}
  assert mesh_lib.shards(mesh.shape) == 4
  x = jax.device_put(np.arange(8), mesh_lib.batch_sharding(mesh))
  assert {s.data.shape for s in x.addressable_shards} == {(2,)}


def test_batches_are_split_over_data_and_fsdp_and_not_over_tensor():
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  x = jax.device_put(np.arange(24).reshape(8, 3), mesh_lib.batch_sharding(mesh))
  assert {s.data.shape for s in x.addressable_shards} == {(2, 3)}
  starts = [s.index[0].start or 0 for s in x.addressable_shards]
  assert sorted(starts) == [0, 0, 2, 2, 4, 4, 6, 6]
  whole = jax.device_put(np.arange(6), mesh_lib.replicated(mesh))
  assert {s.data.shape for s in whole.addressable_shards} == {(6,)}


def test_activations_are_pinned_only_where_there_is_a_mesh():
  x = np.ones((8, 2, 3), np.float32)
  pinned = jax.jit(lambda x: mesh_lib.shard_batch(x + 1))
  assert len(pinned(x).sharding.device_set) == 1
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  with jax.set_mesh(mesh):
    y = jax.jit(lambda x: mesh_lib.shard_batch(x + 1))(x)
  assert {s.data.shape for s in y.addressable_shards} == {(2, 2, 3)}
  np.testing.assert_array_equal(y, x + 1)


def test_rows_have_as_many_parts_as_devices_hold_different_ones():
  assert mesh_lib.batch_parts(8) == 1
  with jax.set_mesh(mesh_lib.make(config.MeshConfig(2, 2, 2))):
    assert [mesh_lib.batch_parts(n) for n in (4, 8, 6, 1)] == [4, 4, 1, 1]
  with jax.set_mesh(mesh_lib.make(config.MeshConfig(1, 1, 8))):
    assert mesh_lib.batch_parts(8) == 1


TABLE = {r"a/(q|k)": P("fsdp", "tensor"), r"a/b/scale": P(None)}


def shapes(**leaves):
  return {"a": {k: jax.ShapeDtypeStruct(s, "float32")
                for k, s in leaves.items()}}


def test_every_leaf_gets_the_spec_of_its_row():
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  tree = shapes(q=(8, 6), k=(4, 2)) | {"z": {}}
  tree["a"]["b"] = {"scale": jax.ShapeDtypeStruct((5,), "float32")}
  got = mesh_lib.param_shardings(mesh, TABLE, tree)
  assert jax.tree.structure(got) == jax.tree.structure(tree)
  assert got["a"]["q"].spec == got["a"]["k"].spec == P("fsdp", "tensor")
  assert got["a"]["b"]["scale"].spec == P(None)
  assert got["a"]["q"].mesh == mesh


def test_a_leaf_without_a_row_is_an_error():
  mesh = mesh_lib.make(config.MeshConfig())
  with pytest.raises(ValueError, match=r"0 sharding rules match .*'a/new'"):
    mesh_lib.param_shardings(mesh, TABLE, shapes(q=(8, 8), new=(1,)))
  # A part of the path is not a match.
  with pytest.raises(ValueError, match=r"0 sharding rules match .*'a/qq'"):
    mesh_lib.param_shardings(mesh, TABLE, shapes(qq=(8, 8)))


def test_a_leaf_with_two_rows_is_an_error():
  mesh = mesh_lib.make(config.MeshConfig())
  with pytest.raises(ValueError, match=r"2 sharding rules match .*'a/q'"):
    mesh_lib.param_shardings(
      mesh, TABLE | {r".*/q": P(None, None)}, shapes(q=(8, 8)))


def test_a_row_of_another_rank_is_an_error():
  mesh = mesh_lib.make(config.MeshConfig())
  with pytest.raises(ValueError, match="zip"):
    mesh_lib.param_shardings(mesh, TABLE, shapes(q=(8, 8, 8)))


def test_an_axis_that_does_not_divide_is_named():
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  with pytest.raises(
      strict.ConfigError,
      match=r"mesh\.fsdp = 4: does not divide 6.*a/q \(6, 8\)"):
    mesh_lib.param_shardings(mesh, TABLE, shapes(q=(6, 8)))
  with pytest.raises(strict.ConfigError, match=r"mesh\.tensor = 2.*divide 3"):
    mesh_lib.param_shardings(mesh, TABLE, shapes(q=(8, 3)))
