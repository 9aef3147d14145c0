"""Checkpoints that were damaged, or removed, on disk."""

import contextlib
import re
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import abstract
from checkpoints import assert_same
from checkpoints import batches

from dlrl.storage import checkpoint

DAMAGE = {
  "a flipped bit": ("state/ocdbt.process_0/d/*", lambda b: (
    b[:len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1:])),
  "half a file": ("state/ocdbt.process_0/d/*", lambda b: b[:len(b) // 2]),
  "zeros for the tree": ("state/_METADATA", lambda b: bytes(len(b))),
  "no metadata": ("_CHECKPOINT_METADATA", lambda b: None),
  "another position": ("_CHECKPOINT_METADATA", lambda b: re.sub(
    rb'"next_index": \d+', b'"next_index": 1', b)),
}


def damage(path, name):
  pattern, change = DAMAGE[name]
  victim = max(path.glob(pattern), key=lambda p: p.stat().st_size)
  before = victim.read_bytes()
  after = change(before)
  assert before != after
  victim.unlink()
  if after is not None:
    victim.write_bytes(after)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
  """Checkpoints 1, 2, 3, whose bias is their number."""
  root = tmp_path_factory.mktemp("three")
  data = batches()
  with checkpoint.Checkpoints(root, keep=9) as saver:
    for step in (1, 2, 3):
      next(data)
      saver.save(step, numbered(step), data, {"at": step})
  return root


def numbered(step):
  w = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
  return {"params": {"w": jnp.asarray(w), "b": jnp.full(5, step)}}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    name, three, tmp_path, capsys):
  root = tmp_path / "copy"
  shutil.copytree(three, root)
  damage(root / "3", name)
  data = batches()
  with checkpoint.Checkpoints(root) as saver:
    state, meta, step = saver.restore_latest(abstract(numbered(0)), data)
    assert (step, meta) == (2, {"at": 2})
    assert_same(state, numbered(2))
    assert "checkpoint 3 is damaged, continuing from 2" in capsys.readouterr(
      ).out
    assert (root / "3.damaged").is_dir()
    saver.save(3, numbered(3), data, {"at": 3})  # its name is free
    saver.wait()
    assert saver.restore_latest(
      abstract(numbered(0)), data)[2] == saver.latest == 3
  assert checkpoint.steps(root) == [2, 3]
  fresh = batches()
  next(fresh), next(fresh)
  np.testing.assert_array_equal(next(data), next(fresh))


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_a_step_damaged_again_is_set_aside_again(
    kind, three, tmp_path, capsys):
  root, data = tmp_path / "copy", batches()
  shutil.copytree(three, root)
  if kind == "file":
    (root / "3.damaged").touch()
  elif kind == "dangling link":
    (root / "3.damaged").symlink_to("nowhere")
  for names in (["3.damaged"], ["3.damaged", "3.damaged-2"],
                ["3.damaged", "3.damaged-2", "3.damaged-3"]):
    with checkpoint.Checkpoints(root, keep=9) as saver:
      if checkpoint.steps(root)[-1] < 3:
        saver.save(3, numbered(3), data, {"at": 3})
        saver.wait()
      damage(root / "3", "half a file")
      state, _, step = saver.restore_latest(abstract(numbered(0)), data)
      assert step == 2
      assert_same(state, numbered(2))
    found = sorted(p.name for p in root.glob("3.*"))
    if kind == "directory":
      assert found == names
      assert names[-1] in capsys.readouterr().out


def test_where_all_are_damaged_nothing_is_begun_anew_nor_moved(three, tmp_path):
  root = tmp_path / "copy"
  shutil.copytree(three, root)
  for step in (1, 2, 3):
    damage(root / str(step), "half a file")
  with (checkpoint.Checkpoints(root) as saver,
        pytest.raises(checkpoint.Damaged, match=r"no checkpoint in .*/3")):
    saver.restore_latest(abstract(numbered(0)), batches())
  assert checkpoint.steps(root) == [1, 2, 3]


def test_parameters_alone_are_not_read_from_a_damaged_checkpoint(
    three, tmp_path):
  root = tmp_path / "copy"
  shutil.copytree(three, root)
  damage(root / "3", "a flipped bit")
  wanted = abstract(numbered(0)["params"])
  with pytest.raises(checkpoint.Damaged, match="what was saved: params/w"):
    checkpoint.load_params(root, wanted)
  assert_same(checkpoint.load_params(root, {"b": wanted["b"]}),
              {"b": numbered(3)["params"]["b"]})
  assert_same(checkpoint.load_params(root, wanted, step=2),
              numbered(2)["params"])


def test_a_directory_removed_under_a_run_is_made_again(three, tmp_path):
  root, data = tmp_path / "copy", batches()
  shutil.copytree(three, root)
  with checkpoint.Checkpoints(root) as saver:
    saver.restore_latest(abstract(numbered(0)), data)
    shutil.rmtree(root)
    saver.save(4, numbered(4), data, {})
    shutil.rmtree(root, ignore_errors=True)  # maybe while it is written
    with contextlib.suppress(Exception):
      saver.wait()
    saver.save(5, numbered(5), data, {})
  with checkpoint.Checkpoints(root) as saver:
    state, _, step = saver.restore_latest(abstract(numbered(0)), data)
  assert step == 5
  assert_same(state, numbered(5))
