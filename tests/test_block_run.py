"""Block-diffusion models in runs: settings, fine-tuning, rollouts, steps."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import runs
from updates import FAST
from updates import first_state

from configs import bgpo
from dlrl import compile_only
from dlrl import config
from dlrl import keys as keys_lib
from dlrl import optimizer
from dlrl import rollout
from dlrl import sft
from dlrl import strict
from dlrl import train
from dlrl import validate
from dlrl.diffusion import blocks
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

BLOCKS = {
  "model__block_length": 4, "sft__forward_process": "block_stratified",
  "rollout__sampler__block_length": 4, "eval__sampler__block_length": 4,
  "learn__forward_process": "block_exact", "learn__n_mc": 15}


def problems(**changes):
  cfg = bgpo.get_config("blocks")
  cfg.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in changes.items()})
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(cfg)
  return str(error.value)


@pytest.mark.parametrize(("changes", "message"), [
  ({"learn__n_mc": 16}, "learn.n_mc = 16: must be 15 with 'block_exact' and "
   "blocks of 4 tokens"),
  ({"model__block_length": 0}, "learn.forward_process = 'block_exact': is for "
   "models with blocks: set model.block_length"),
  ({"model__block_length": 0}, "sft.forward_process = 'block_stratified': is "),
  ({"model__block_length": 8}, "learn.forward_process = 'block_exact': has 255 "
   "draws for blocks of 8 tokens; above 4 tokens choose 'block_balanced'"),
  ({"model__block_length": 8}, "rollout.sampler.block_length = 4: must be 8"),
  ({"learn__forward_process": "trace", "learn__n_mc": 8},
   "for a model with blocks choose 'block_trace'"),
  ({"learn__forward_process": "block_trace"}, "learn.n_mc = 15: must be 4 "),
  ({"learn__forward_process": "block_complementary"},
   "learn.n_mc = 15: must be a multiple of 2"),
  ({"learn__prompt_noise": 0.1}, "learn.prompt_noise = 0.1: must be 0"),
  ({"rollout__prior__template": 0.5}, "rollout.prior.template = 0.5: must be"),
  ({"rollout__prior__memory": 0.5}, "rollout.prior.memory = 0.5: must be 0"),
  ({"sft__forward_process": "block_exact"}, "sft.forward_process = 'block_ex"),
  ({"rollout__sampler__cache": "dual"}, "rollout.sampler.cache = 'dual': ")])
def test_what_does_not_fit_blocks_is_one_line(changes, message):
  found = [line for line in problems(**changes).splitlines() if message in line]
  assert len(found) == 1


def test_rounds_that_are_joined_are_fewer_draws():
  cfg = bgpo.get_config("blocks")
  cfg.learn.forward_process, cfg.learn.n_mc = "block_trace", 2
  cfg.learn.process_args = {"shrink": 2}
  assert validate.from_dict(cfg).learn.n_mc == 2


def test_a_text_exists_until_the_block_of_its_first_end():
  end = np.zeros((4, 8), bool)
  end[0, 5], end[1, 5], end[2, 0], end[2, 6] = True, True, True, True
  found = blocks.until(jnp.asarray(end), jnp.array([0, 3, 2, 1]), 4)
  np.testing.assert_array_equal(np.asarray(found).sum(-1), [8, 8, 2, 8])
  assert np.asarray(found)[2, :2].all()
  found = blocks.until(jnp.asarray(end), jnp.array([0, 0, 0, 0]), 2)
  np.testing.assert_array_equal(np.asarray(found).sum(-1), [6, 6, 2, 8])


MASK, EOS, SIZE = 2, 1, 4
CFG = dataclasses.replace(networks.TINY, block_length=SIZE)


@pytest.mark.slow
def test_fine_tuning_is_the_bound_of_the_blocks_that_exist():
  model = transformer.build(CFG, MASK)
  params = networks.random_params(model)
  cfg = config.SftConfig(
    batch_size=3, gen_length=6, logps_chunk=6,
    forward_process="block_stratified",
    optimizer=config.OptimizerConfig(clip_norm=1e9))
  tx = optimizer.make(cfg.optimizer, cfg.steps)
  rng = np.random.default_rng(0)
  batch = {"prompt_ids": rng.integers(3, CFG.vocab_size, (3, 5)),
           "prompt_length": np.array([4, 3, 5]),
           "completion": rng.integers(3, CFG.vocab_size, (3, 6))}
  batch["completion"][0, 2:] = EOS
  batch["completion"][1, 0:] = EOS
  exists = np.array([4, 1, 6])  # tokens up to the end of that block
  new, metrics = jax.jit(
    sft.make_step(model, cfg, tx, EOS), compiler_options=FAST)(
      first_state(params, tx), batch)

  keys = jax.random.split(jax.random.fold_in(keys_lib.of(
    jax.random.key(0), keys_lib.Seed.FINE_TUNING), 0), 3)
  mask, weight = (np.asarray(x) for x in blocks.PROCESSES["block_stratified"](
    keys, jnp.arange(6)[None] < exists[:, None], 0, 1,
    offset=batch["prompt_length"] % SIZE, block_length=SIZE))

  def oracle(params):
    total = 0.0
    for i in range(3):
      n = batch["prompt_length"][i]
      prompt, answer = batch["prompt_ids"][i, :n], batch["completion"][i]
      clean = np.concatenate([prompt, answer[:exists[i]]])
      noisy = np.concatenate(
        [prompt, np.where(mask[i], MASK, answer)[:exists[i]]])
      logp = jax.nn.log_softmax(
        model.noisy_logits(params, noisy[None], clean[None])[0])
      total += sum(weight[i, j] * logp[n + j, answer[j]]
                   for j in np.flatnonzero(mask[i]))
    return -total / (3 * 6)

  value, grads = jax.jit(
    jax.value_and_grad(oracle), compiler_options=FAST)(params)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  moments = jax.tree.leaves(new.opt_state)
  assert any(
    np.shape(m) == np.shape(grads["embed"]["embedding"]) and np.allclose(
      m / (1 - cfg.optimizer.b1), grads["embed"]["embedding"], atol=1e-5)
    for m in moments)


@pytest.mark.slow
def test_a_rollout_has_what_was_decoded_and_drawn_from(sudoku_dir):
  setup = setup_lib.make(runs.tiny(sudoku_dir, **BLOCKS | {
    "learn__forward_process": "block_trace", "learn__n_mc": 4,
    "rollout__sampler__temperature": 0.9, "rollout__sampler__top_k": 6}))
  with jax.set_mesh(setup.mesh):
    _, make, _ = train_state.for_rl(setup)
    state = make(setup.init_policy(setup.load_base()))
    prompt = np.random.default_rng(0).integers(5, 15, (4, 32)).astype(np.int32)
    template = np.full((4, 16), setup.model.mask_id, np.int32)
    batch, forwards = rollout.make(setup)(
      state, *setup.put_whole((prompt, np.array([32, 30, 29, 7], np.int32),
                               np.arange(4, dtype=np.int32), template)))
  completion, trace = np.asarray(batch.completion), np.asarray(batch.trace)
  assert (completion != setup.model.mask_id).all()
  np.testing.assert_array_equal(batch.maskable, trace >= 0)
  np.testing.assert_array_equal(batch.prompt_length, np.repeat(
    [32, 30, 29, 7], 4))
  ended = np.cumsum(completion == setup.tokenizer.eos_id, 1)
  assert (ended[trace < 0] > 0).all()
  among = np.asarray(batch.drawn.among)
  assert among.shape == (*completion.shape, 6)
  assert (among == completion[..., None]).any(-1)[trace >= 0].all()
  assert (among[trace < 0] == -1).all()
  assert batch.drawn.temperature == 0.9
  assert 8 <= int(forwards) <= 2 * trace.max() + 2


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
  {}, {"learn__forward_process": "block_trace", "learn__n_mc": 4,
       "learn__loss": "trace_rl", "learn__score_norm": "none",
       "learn__loss_args": {"kl_coef": 0.1}, "rollout__sampler__slots": 6,
       "rollout__sampler__temperature": 0.9, "rollout__sampler__top_k": 6,
       "rollout__sampler__top_p": 0.95, "learn__updates_per_rollout": 2}],
  ids=["bgpo", "trace_rl in slots"])
def test_a_run_learns_continues_and_compiles_once(
    sudoku_dir, tmp_path, monkeypatch, changes):
  cfg = runs.tiny(sudoku_dir, **BLOCKS | {
    "sft__steps": 60, "steps": 4, "learn__tokens": "until_eos"} | changes)
  programs, make = [], train.make_programs

  def noted(*args, **kwargs):
    programs.append(make(*args, **kwargs))
    return programs[-1]

  monkeypatch.setattr(train, "make_programs", noted)
  _, want = runs.run_here(cfg, tmp_path / "whole")
  assert all(math.isfinite(row["update/loss"]) for row in want[1:])
  assert any(row["update/grad_norm"] > 0 for row in want[1:])
  # The update's second entry is for states that it has made itself.
  assert [program._cache_size() for program in programs[-1]] == [1, 2]
  # Step 3 is logged, step 2 was the last one saved.
  runs.cut(cfg, tmp_path / "cut", monkeypatch)
  assert runs.run_here(cfg, tmp_path / "cut")[1] == want


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
def test_programs_are_reported_without_a_device(sudoku_dir):
  cfg = runs.tiny(sudoku_dir, **BLOCKS)
  found = {report.name: report for report in compile_only.compile_all(
    setup_lib.make(cfg), limit=None)}
  assert found.keys() == {"fine-tuning", "rollout", "update"}
  # At least every token of every row once through the layer's matrices.
  rows, model = 16, cfg.model
  layer = 2 * (4 * model.width * model.heads * model.head_dim
               + 3 * model.width * model.mlp_width)
  assert all(found[name].flops > rows * 16 * layer for name in found)
  # 15 draws of the update, forward and backward, against one of fine-tuning.
  assert found["update"].flops > 5 * found["fine-tuning"].flops


def test_every_pattern_is_counted_once():
  for size in (1, 2, 4):
    assert blocks.patterns(size) == sum(
      1 for k in range(1, size + 1)
      for _ in itertools.combinations(range(size), k))
