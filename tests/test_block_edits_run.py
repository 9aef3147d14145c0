"""Rollouts that edit tokens: what learns from them, and what refuses them."""

import jax
import numpy as np
import pytest
import runs

from configs import bgpo
from dlrl import rollout
from dlrl import strict
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

EDITS = {
  "rollout.sampler.threshold": 0.5, "rollout.sampler.edit_threshold": 0.0,
  "rollout.sampler.max_post_edit": 4}


def checked(**changes):
  cfg = bgpo.get_config("blocks")
  cfg.update_from_flattened_dict(
    EDITS | {k.replace("__", "."): v for k, v in changes.items()})
  return validate.from_dict(cfg)


@pytest.mark.parametrize(("loss", "norm"), [
  ("trace_rl", "none"), ("bgpo", "step")], ids=["trace_rl", "cj_grpo"])
def test_learning_from_a_trace_refuses_edits_in_one_line(loss, norm):
  with pytest.raises(strict.ConfigError) as error:
    checked(learn__forward_process="block_trace", learn__n_mc=4,
            learn__loss=loss, learn__score_norm=norm)
  assert str(error.value) == (
    "config.rollout.sampler.edit_threshold = 0.0: must be 1 with "
    "'block_trace': an edited token lacks the steps that it replaced; or "
    "choose a process of the ELBO, such as 'block_stratified'")
  checked(learn__forward_process="block_trace", learn__n_mc=4,
          learn__loss=loss, learn__score_norm=norm,
          rollout__sampler__edit_threshold=1.0,
          eval__sampler__edit_threshold=0.5)  # no update sees evaluations


@pytest.mark.parametrize("loss", [
  "bgpo", "ebpo", "elbo_reinforce", "espo", "vrpo_online"])
def test_learning_from_an_elbo_takes_edits(loss):
  norm = "token" if loss in ("bgpo", "elbo_reinforce") else "none"
  cfg = checked(learn__loss=loss, learn__score_norm=norm)
  assert cfg.rollout.sampler.max_post_edit == 4


def test_a_model_with_full_attention_refuses_edits_in_one_line():
  cfg = bgpo.get_config("smoke")
  cfg.eval.sampler.edit_threshold = 0.5
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(cfg)
  assert str(error.value) == (
    "config.eval.sampler.edit_threshold = 0.5: must be 1: only models with "
    "blocks edit tokens")


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
def test_an_edited_rollout_is_a_batch_like_any_other(sudoku_dir):
  setup = setup_lib.make(runs.tiny(sudoku_dir, **{
    "model__block_length": 4, "sft__forward_process": "block_stratified",
    "rollout__sampler__block_length": 4, "eval__sampler__block_length": 4,
    "learn__forward_process": "block_stratified", "learn__loss": "ebpo",
    "learn__score_norm": "none"} | {
    k.replace(".", "__"): v for k, v in EDITS.items()}))
  with jax.set_mesh(setup.mesh):
    _, make, _ = train_state.for_rl(setup)
    state = make(setup.init_policy(setup.load_base()))
    prompt = np.random.default_rng(0).integers(5, 15, (4, 32)).astype(np.int32)
    template = np.full((4, 16), setup.model.mask_id, np.int32)
    batch, forwards = rollout.make(setup)(
      state, *setup.put_whole((prompt, np.array([32, 30, 29, 7], np.int32),
                               np.arange(4, dtype=np.int32), template)))
    # No trace tells what the steps saw, so that there is nothing to compare.
    assert rollout.comparison(setup)(1, state, batch) == {}
  completion, trace = np.asarray(batch.completion), np.asarray(batch.trace)
  assert (completion != setup.model.mask_id).all()
  np.testing.assert_array_equal(batch.maskable, trace >= 0)
  whole = (trace >= 0).all(1)
  assert whole.any()
  # Random weights never settle: 4 passes after those with masks, in each of
  # the 4 or 5 blocks, the last of which wrote a token.
  assert trace[whole].max(1).min() >= 4 * (1 + 4) - 1
  assert int(forwards) >= trace.max() + 1
