"""A warm start is found again by what it depends on."""

import dataclasses
import os

import jax
import numpy as np
import pytest
import runs

from dlrl import config
from dlrl import sft
from dlrl import strict
from dlrl.run import going_on
from dlrl.run import setup as setup_lib


def warm_start(cfg, workdir):
  setup = setup_lib.make(cfg)
  with jax.set_mesh(setup.mesh):
    policy, _ = sft.warm_start(setup, workdir, setup.load_base())
  return policy


@pytest.mark.slow
def test_a_warm_start_is_found_again_whatever_may_change(
    sudoku_dir, tmp_path, monkeypatch):
  cfg = runs.tiny(sudoku_dir, sft__steps=2, sft__batch_size=8)
  first = warm_start(cfg, tmp_path)
  (made,) = (tmp_path / "warm_start").iterdir()
  (tmp_path / "moved").symlink_to(sudoku_dir)
  other = runs.tiny(
    str(tmp_path / "moved"), sft__steps=2, sft__batch_size=8, sft__log_every=3,
    sft__checkpoint_every=1, sft__logps_chunk=4, model__remat="none",
    model__attention="xla")
  with monkeypatch.context() as patch:
    patch.setattr(sft, "_arrays", None)  # no step is made
    jax.tree.map(np.testing.assert_array_equal, warm_start(other, tmp_path),
                 first)
  assert list((tmp_path / "warm_start").iterdir()) == [made]
  for changes in (dict(seed=1), dict(sft__steps=1), dict(lora__rank=1)):
    changed = runs.tiny(
      sudoku_dir, **{"sft__steps": 2, "sft__batch_size": 8} | changes)
    assert sft._names(changed)[0] != made.name


@pytest.mark.slow
def test_a_warm_start_of_an_older_version_is_found(sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, sft__steps=1, sft__batch_size=8)
  values = strict.to_json(cfg)
  del values["model"]["block_length"], values["sft"]["forward_process"]
  del values["model"]["experts"], values["model"]["rotary_dim"]
  del values["sft"]["token_noise"]
  name = strict.fingerprint(*(values[part] for part in (
    "seed", "task", "model", "sft", "pretrained", "lora")))
  os.makedirs(tmp_path / "warm_start" / name)
  warm_start(cfg, tmp_path)
  assert [path.name for path in (tmp_path / "warm_start").iterdir()] == [name]
  # Settings that are new do not change the name, unless they are set.
  names = {sft._names(dataclasses.replace(
    cfg, sft=dataclasses.replace(cfg.sft, forward_process=process)))[0]
    for process in ("exact_k", "antithetic")}
  assert len(names) == 2
  assert going_on.lasting(config.Config(), "model", "sft", "task") == {}
