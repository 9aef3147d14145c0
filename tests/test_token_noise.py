"""Visible tokens that are replaced at random: what they are, and who learns."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from updates import FAST
from updates import assert_same
from updates import first_state
from updates import make_batch

from configs import bgpo
from dlrl import config
from dlrl import keys as keys_lib
from dlrl import optimizer
from dlrl import scoring
from dlrl import sft
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.diffusion import blocks
from dlrl.diffusion import token_noise
from dlrl.models import transformer

MASK, EOS, SIZE, V = 2, 1, 2, networks.TINY.vocab_size
CFG = dataclasses.replace(networks.TINY, block_length=SIZE)
MODEL = transformer.build(CFG, MASK)
RATE = 0.4


@pytest.mark.usefixtures("unoptimized")
def test_other_tokens_are_equally_likely_and_neither_mask_nor_the_same():
  b, t, v = 3000, 6, 7
  rng = np.random.default_rng(0)
  completion = rng.choice([0, 1, 3, 4, 5, 6], (b, t))
  visible = rng.random((b, t)) < 0.7
  keys = jax.random.split(jax.random.key(0), b)
  chosen, ids = (np.asarray(x) for x in token_noise.replaced(
    keys, jnp.asarray(completion), jnp.asarray(visible), 3, rate=0.3, mask_id=2,
    vocab_size=v))
  assert ids.dtype == np.int32
  assert not chosen[~visible].any()
  n = visible.sum()
  assert abs(chosen.sum() / n - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
  for token in (0, 1, 3, 4, 5, 6):
    count = np.bincount(ids[chosen & (completion == token)], minlength=v)
    assert len(count) == v
    assert count[token] == count[2] == 0
    total, p = count.sum(), 1 / (v - 2)
    other = np.delete(count, [token, 2])
    assert (abs(other - total * p) < 5 * np.sqrt(total * p * (1 - p))).all()
  # The next column's token tells nothing of this one's.
  assert abs(np.corrcoef(ids[:, 0], ids[:, 1])[0, 1]) < 5 / np.sqrt(b)


@pytest.mark.usefixtures("unoptimized")
def test_noise_is_of_the_row_and_the_draw_alone():
  keys = jax.random.split(jax.random.key(0), 4)
  tokens = jnp.full((4, 64), 5)
  options = {"rate": 0.5, "mask_id": MASK, "vocab_size": V}

  def of(rows, j):
    chosen, ids = token_noise.replaced(
      keys[rows], tokens[rows], tokens[rows] > 0, j, **options)
    return np.where(chosen, ids, -1)

  whole = of(slice(None), 1)
  np.testing.assert_array_equal(of(slice(2, 3), jnp.int32(1))[0], whole[2])
  assert (of(slice(None), 0) != whole).mean() > 0.3
  assert len({row.tobytes() for row in whole}) == 4


def scores(params, prompt, length, completion, exists, made):
  """Scores [n, b] by one pass over [noisy | clean] of all rows.

  Args:
    made: n pairs of noisy canvases and weights, from `corrupted`.
  """
  rows, width = len(made) * len(length), prompt.shape[1] + completion.shape[1]
  clean, noisy = (np.zeros((rows, width), np.int32) for _ in range(2))
  weight = np.zeros((rows, width), np.float32)
  for i in range(rows):
    k = i % len(length)
    n, m = length[k], exists[k].sum()
    clean[i, :n] = noisy[i, :n] = prompt[k, :n]
    clean[i, n:n + m] = completion[k, :m]
    for x, of in zip((noisy, weight), made[i // len(length)], strict=True):
      x[i, n:n + m] = of[k, :m]
  logits = MODEL.noisy_logits(params, noisy, clean, np.tile(
    length + exists.sum(1), len(made)))
  logps = jnp.take_along_axis(
    jax.nn.log_softmax(logits), clean[..., None], -1)[..., 0]
  return jnp.sum(jnp.where(weight > 0, weight * logps, 0.0), -1).reshape(
    len(made), -1)


def corrupted(keys, completion, exists, draw, j):
  """By hand: noisy canvases, and the weights of what is predicted."""
  mask, weight = (np.asarray(x) for x in draw)
  chosen, ids = (np.asarray(x) for x in token_noise.replaced(
    keys, jnp.asarray(completion), jnp.asarray(exists & ~mask), j, rate=RATE,
    mask_id=MASK, vocab_size=V))
  assert chosen.any() and (mask & exists).any()
  noisy = np.where(mask, MASK, np.where(chosen, ids, completion))
  return noisy, np.where(chosen, 1.0, weight)


@pytest.mark.slow
def test_fine_tuning_predicts_masks_and_replaced_tokens():
  params = networks.random_params(MODEL)
  cfg = config.SftConfig(
    batch_size=3, gen_length=6, logps_chunk=6, token_noise=RATE,
    forward_process="block_stratified",
    optimizer=config.OptimizerConfig(clip_norm=1e9))
  tx = optimizer.make(cfg.optimizer, cfg.steps)
  rng = np.random.default_rng(0)
  batch = {"prompt_ids": rng.integers(3, V, (3, 5)),
           "prompt_length": np.array([4, 3, 5]),
           "completion": rng.integers(3, V, (3, 6))}
  batch["completion"][0, 2:] = EOS
  batch["completion"][1] = EOS
  # Tokens up to the end of the block of the first end.
  exists = np.arange(6)[None] < np.array([[4], [1], [6]])
  new, metrics = jax.jit(
    sft.make_step(MODEL, cfg, tx, EOS), compiler_options=FAST)(
      first_state(params, tx), batch)
  keys = jax.random.split(jax.random.fold_in(keys_lib.of(
    jax.random.key(0), keys_lib.Seed.FINE_TUNING), 0), 3)
  made = corrupted(
    keys, batch["completion"], exists, blocks.PROCESSES["block_stratified"](
      keys, jnp.asarray(exists), 0, 1, offset=batch["prompt_length"] % SIZE,
      block_length=SIZE), 0)
  value, grads = jax.jit(jax.value_and_grad(lambda params: -jnp.sum(scores(
    params, *batch.values(), exists, [made])) / (3 * 6)),
    compiler_options=FAST)(params)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  moment = optax.tree.get_all_with_path(new.opt_state, "mu")[0][1]
  assert_same(
    jax.tree.map(lambda m: m / (1 - cfg.optimizer.b1), moment), grads)


@pytest.mark.slow
def test_ebpo_compares_scores_of_the_same_noise():
  params = networks.random_params(MODEL)
  n_mc, rows = 3, make_batch()
  learn = config.LearnConfig(
    loss="ebpo", n_mc=n_mc, micro_batch=4, logps_chunk=5, score_norm="none",
    forward_process="block_stratified", token_noise=RATE)
  b, t = rows.completion.shape
  exists = np.arange(t)[None] < np.array([5, 4, 3, 5, 1, 2, 5, 4])[:, None]
  # In the third row the sampler wrote on after the end of the text.
  rows = dataclasses.replace(
    rows, maskable=jnp.asarray(exists).at[2, 3].set(True),
    counted=jnp.asarray(exists))
  (_, found, _), (metrics, grads) = jax.jit(lambda params: (
    scoring.batch_logps(MODEL, learn, params, rows, others="scores"),
    update.batch_grads(MODEL, learn, params, rows)), compiler_options=FAST)(
      params)
  prompt, length, completion = (np.asarray(x) for x in (
    rows.prompt, rows.prompt_length, rows.completion))
  made = [corrupted(
    rows.keys, completion, exists, blocks.PROCESSES["block_stratified"](
      rows.keys, rows.counted, j, n_mc, offset=length % SIZE,
      block_length=SIZE), j) for j in range(n_mc)]

  def surrogate(params):
    # Its gradient is that of the clipped ratio where this is 1.
    each = scores(params, prompt, length, completion, exists, made)
    return -jnp.sum(rows.advantage * jnp.mean(each, 0)) / b, each

  (_, want), slope = jax.jit(
    jax.value_and_grad(surrogate, has_aux=True), compiler_options=FAST)(params)
  np.testing.assert_allclose(found.T, want, rtol=1e-4)
  assert_same(grads, slope, rtol=1e-4)
  # Both policies see the same tokens, so that equal ones have a ratio of 1.
  np.testing.assert_allclose(metrics["ratio"], 1, rtol=1e-6)


def checked(preset, **changes):
  cfg = bgpo.get_config(preset)
  cfg.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in changes.items()})
  return validate.from_dict(cfg)


EBPO = {"learn__loss": "ebpo", "learn__score_norm": "none",
        "learn__token_noise": 0.1, "sft__token_noise": 0.1}


def test_fine_tuning_and_ebpo_take_noise():
  cfg = checked("blocks", **EBPO)
  assert cfg.learn.token_noise == cfg.sft.token_noise == 0.1


@pytest.mark.parametrize(("preset", "changes", "message"), [
  ("smoke", {"sft__token_noise": 0.1},
   "config.sft.token_noise = 0.1: must be 0: only models with blocks edit"),
  ("smoke", EBPO | {"sft__token_noise": 0.0},
   "config.learn.token_noise = 0.1: must be 0: only models with blocks edit"),
  ("blocks", {"learn__token_noise": 0.1},
   "config.learn.token_noise = 0.1: must be 0 with learn.loss = 'bgpo', whose "
   "scores are bounds of likelihoods"),
  ("blocks", EBPO | {"learn__forward_process": "block_trace",
                     "learn__n_mc": 4},
   "config.learn.token_noise = 0.1: must be 0 with 'block_trace'"),
  ("blocks", {"sft__token_noise": 1.5},
   "config.sft.token_noise = 1.5: must be in 0..1")])
def test_noise_that_means_nothing_is_refused_in_one_line(
    preset, changes, message):
  with pytest.raises(strict.ConfigError) as error:
    checked(preset, **changes)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


def test_older_warm_starts_are_found():
  cfg = checked("blocks")
  values = strict.to_json(cfg)
  assert values["sft"].pop("token_noise") == 0.0
  del values["model"]["experts"], values["model"]["rotary_dim"]  # as new
  parts = ("seed", "task", "model", "sft", "pretrained", "lora")
  assert strict.fingerprint(*(values[part] for part in parts)) in (
    sft._names(cfg))
  names = {sft._names(checked("blocks", sft__token_noise=rate))[0]
           for rate in (0.0, 0.1)}
  assert len(names) == 2
