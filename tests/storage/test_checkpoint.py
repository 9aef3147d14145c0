"""Checkpoints: exact, atomic under kill -9, independent of the mesh.

Run as a program with a directory, this file is the small training job that the
kill test kills.
"""

import os
import pathlib
import random
import subprocess
import sys
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import abstract
from checkpoints import assert_same
from checkpoints import batches
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import dlrl
from dlrl.storage import checkpoint
from dlrl.storage import metrics
from dlrl.storage import workdir

STEPS, EVERY = 24, 3


class State(typing.NamedTuple):
  params: dict
  opt_state: optax.OptState
  step: jax.Array
  key: jax.Array


OPTIMIZER = optax.sgd(1e-2, momentum=0.9)


def init(width=3):
  params = {"layer": {"w": jnp.arange(2.0 * width).reshape(2, width)},
            "bias": jnp.ones(width, jnp.bfloat16)}
  return State(params, OPTIMIZER.init(params), jnp.int32(0), jax.random.key(7))


def update(state, batch):
  key = jax.random.fold_in(state.key, state.step)
  def loss_fn(params):
    x = batch.astype(jnp.float32)[:2] + jax.random.normal(key, (2,))
    y = x @ params["layer"]["w"] + params["bias"]
    return jnp.mean(jnp.sin(y) ** 2)
  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  change, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, change)
  return State(params, opt_state, state.step + 1, state.key), loss


def train(directory, every=EVERY):
  """A job in the shape of the RL loop; continues from what it finds."""
  step_fn = jax.jit(update, donate_argnums=0)
  with (workdir.claim(directory, {"steps": STEPS}) as run,
        checkpoint.Checkpoints(run.path / "checkpoints") as saver,
        metrics.MetricsWriter(run.path, tensorboard=False) as writer):
    state, data, first = init(), batches(), 0
    found = saver.restore_latest(abstract(state), data)
    if found:
      state, meta, first = found
      assert meta == {"at": first}
    writer.truncate_after(first)
    print(first, flush=True)
    for step in range(first + 1, STEPS + 1):
      state, loss = step_fn(state, next(data))
      writer.write(step, {"loss": loss})
      print(step, flush=True)
      if step % every == 0:
        saver.save(step, state, data, {"at": step})
    saver.wait()
    return state


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(tmp_path):
  root = pathlib.Path(dlrl.__file__).parents[1]
  env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests' / 'support'}",
         "JAX_PLATFORMS": "cpu",
         "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
         "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  command = [sys.executable, __file__, str(tmp_path / "killed")]
  starts = []
  for kill in (True, True, False):
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as child:
      starts.append(int(child.stdout.readline()))
      if kill:
        # The first save is complete once the second has begun.
        for _ in range(random.randint(2 * EVERY + 1, 3 * EVERY)):
          child.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        child.kill()
      child.communicate()
  assert child.returncode == 0
  assert starts[0] == 0 < starts[2]
  expected = train(tmp_path / "whole", every=STEPS)
  read = [(tmp_path / name / "metrics.jsonl").read_bytes()
          for name in ("killed", "whole")]
  assert read[0] == read[1], starts
  with checkpoint.Checkpoints(tmp_path / "killed" / "checkpoints") as saver:
    state, _, step = saver.restore_latest(abstract(init()), batches())
  assert step == STEPS
  assert_same(state, expected)


def test_state_iterator_and_meta_come_back_exactly(tmp_path):
  state, data = init(), batches()
  for _ in range(17):  # beyond an epoch
    state, _ = jax.jit(update)(state, next(data))
  meta = {"list": [1, 2.5, None], "empty": {}, "text": "é", "flag": True}
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(17, state, data, meta)
    following = [next(data) for _ in range(20)]  # while the save goes on
  fresh = batches()
  with checkpoint.Checkpoints(tmp_path) as saver:
    got, got_meta, step = saver.restore_latest(abstract(init()), fresh)
  assert_same(got, state)
  assert (got_meta, step) == (meta, 17)
  np.testing.assert_array_equal([next(fresh) for _ in range(20)], following)


def test_a_bucket_is_handed_to_orbax_as_it_is_called(monkeypatch):
  asked = []
  monkeypatch.setattr(checkpoint.ocp.training, "Checkpointer",
                      lambda path, **kwargs: asked.append(str(path)))
  checkpoint.Checkpoints("gs://bucket/run/checkpoints")
  assert asked == ["gs://bucket/run/checkpoints"]


def test_nothing_saved_is_none(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "new") as saver:
    assert saver.restore_latest(abstract(init()), batches()) is None
    assert saver.latest is None


def test_the_latest_is_never_one_that_is_still_being_written(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    for step in (1, 2):
      saver.save(step, init(512), batches(), {})
      assert saver.latest == step
      assert (tmp_path / str(step) / "_CHECKPOINT_METADATA").exists()


def test_the_newest_are_kept_and_a_step_is_saved_once(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep=2) as saver:
    for step in (2, 9, 10):
      saver.save(step, init(), batches(), {})
    saver.wait()
    assert sorted(os.listdir(tmp_path)) == ["10", "9"]
    assert saver.latest == 10
    with pytest.raises(FileExistsError, match="10"):
      saver.save(10, init(), batches(), {})


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(5, init(), batches(), {})
  for name in ("6.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1234"):
    (tmp_path / name / "state").mkdir(parents=True)
    (tmp_path / name / "state" / "_METADATA").write_text('{"tree_meta')
  with checkpoint.Checkpoints(tmp_path) as saver:
    assert saver.restore_latest(abstract(init()), batches())[2] == 5
    saver.save(6, init(), batches(), {})
    saver.wait()
    assert sorted(os.listdir(tmp_path)) == ["5", "6"]


def test_an_old_checkpoint_whose_removal_was_interrupted_does_no_harm(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(5, init(), batches(), {})
    saver.save(6, init(), batches(), {})
  for name in ("_CHECKPOINT_METADATA", "state/_METADATA"):
    (tmp_path / "5" / name).unlink()
  with checkpoint.Checkpoints(tmp_path) as saver:
    assert saver.restore_latest(abstract(init()), batches())[2] == 6
    saver.save(7, init(), batches(), {})
    saver.wait()
    assert sorted(os.listdir(tmp_path)) == ["6", "7"]


def test_buffers_donated_right_after_save_are_saved_as_they_were(tmp_path):
  step_fn = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x),
                    donate_argnums=0)
  state = {"params": {"w": jnp.zeros((1024, 1024))}}
  with checkpoint.Checkpoints(tmp_path, keep=9) as saver:
    for step in range(1, 4):
      state = step_fn(state)
      saver.save(step, state, batches(), {})
      for _ in range(3):
        state = step_fn(state)
    got, _, step = saver.restore_latest(abstract(state), batches())
  assert step == 3
  np.testing.assert_array_equal(got["params"]["w"], 9.0)


def test_a_field_that_is_none_may_be_new(tmp_path):
  class Old(typing.NamedTuple):
    params: dict

  class New(typing.NamedTuple):
    params: dict
    added: jax.Array | None = None

  state = Old({"w": jnp.arange(3.0)})
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(1, state, batches(), {})
    got, _, _ = saver.restore_latest(New(abstract(state).params), batches())
    assert got.added is None
    np.testing.assert_array_equal(got.params["w"], [0, 1, 2])
    wanted = New(abstract(state).params, jax.ShapeDtypeStruct((2,), "int32"))
    with pytest.raises(ValueError, match="added: absent saved"):
      saver.restore_latest(wanted, batches())


def sharded(sizes):
  mesh = jax.make_mesh(sizes, ("fsdp", "tensor"),
                       axis_types=(jax.sharding.AxisType.Auto,) * 2,
                       devices=jax.devices()[:sizes[0] * sizes[1]])
  tree = {"params": {"w": P("fsdp", "tensor"), "b": P("tensor")}, "n": P()}
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), tree)


@pytest.mark.slow
def test_a_checkpoint_can_be_restored_on_any_mesh(tmp_path):
  rng = np.random.default_rng(0)
  whole = {"params": {"w": rng.normal(size=(16, 8)).astype(np.float32),
                      "b": rng.normal(size=8).astype(np.float32)},
           "n": np.int32(3)}
  state = jax.device_put(whole, sharded((4, 2)))
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(1, state, batches(), {})
    saver.wait()
    for sizes in ((4, 2), (2, 4), (2, 1), (1, 1)):
      wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state, sharded(sizes))
      got, _, _ = saver.restore_latest(wanted, batches())
      assert_same(got, whole)
      assert got["params"]["w"].sharding == wanted["params"]["w"].sharding
      assert len(got["params"]["w"].sharding.device_set) == np.prod(sizes)


def test_another_shape_type_or_name_is_an_error_that_lists_the_leaves(tmp_path):
  data = batches()
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(1, init(), batches(), {})
    saver.wait()
    with pytest.raises(ValueError, match=(
        r"params/layer/w: float32\[2, 3\] saved, float32\[2, 5\] wanted")):
      saver.restore_latest(abstract(init(5)), data)
    wanted = abstract(init())
    wanted.params["bias"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    wanted.params["extra"] = jax.ShapeDtypeStruct((), jnp.int8)
    with pytest.raises(ValueError, match="another model") as e:
      saver.restore_latest(wanted, data)
    assert "params/bias: bfloat16[3] saved, float32[3] wanted" in str(e.value)
    assert "params/extra: absent saved, int8[] wanted" in str(e.value)
    del wanted.params["extra"], wanted.params["layer"]
    with pytest.raises(ValueError, match=r"layer/w: .* saved, absent wanted"):
      saver.restore_latest(wanted, data)
  np.testing.assert_array_equal(next(data), next(batches()))  # not moved


def test_params_alone_are_read_from_the_newest_checkpoint(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(1, init(), batches(), {})
    later = init()._replace(params=jax.tree.map(lambda x: x + 1, init().params))
    saver.save(2, later, batches(), {})
    saver.wait()
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # as of a run going on
    got = checkpoint.load_params(tmp_path, abstract(init().params))
    assert_same(got, later.params)
    assert (tmp_path / "3.orbax-checkpoint-tmp").exists()
    low = {"layer": {"w": abstract(jnp.zeros((2, 3), jnp.bfloat16))}}
    got = checkpoint.load_params(tmp_path, low)
    assert got["layer"]["w"].dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"bias: \[3\] saved, \[4\] wanted"):
      checkpoint.load_params(
        tmp_path, {"bias": jax.ShapeDtypeStruct((4,), jnp.bfloat16)})


def test_loading_params_where_there_are_none_says_so(tmp_path):
  with pytest.raises(FileNotFoundError, match="no checkpoint in"):
    checkpoint.load_params(tmp_path / "nowhere", {})
  assert not (tmp_path / "nowhere").exists()
  with pytest.raises(FileNotFoundError, match="no checkpoint in"):
    checkpoint.load_params(tmp_path, {})


def test_what_was_saved_with_the_newest_state_is_read_alone(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(1, init(), batches(), {"at": 1})
    saver.save(2, init(), batches(), {"at": 2})
  assert checkpoint.load_meta(tmp_path) == {"at": 2}
  with pytest.raises(FileNotFoundError, match="no checkpoint in"):
    checkpoint.load_meta(tmp_path / "nowhere")


if __name__ == "__main__":
  train(sys.argv[1])
