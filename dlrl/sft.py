"""Masked-diffusion fine-tuning: RL's warm start, or a job of its own.

The loss is the negative ELBO of the answers, per token: LLaDA's training
objective (arXiv 2502.09992, Eq. 5), by default with an exact number of masked
tokens. Of models with blocks it is the ELBO over blocks (`diffusion.blocks`).
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import optax

from dlrl import config
from dlrl import data
from dlrl import keys as keys_lib
from dlrl import optimizer
from dlrl import scoring
from dlrl import strict
from dlrl import update
from dlrl.diffusion import blocks
from dlrl.diffusion import elbo
from dlrl.diffusion import model_input
from dlrl.diffusion import token_logps
from dlrl.diffusion import token_noise
from dlrl.evaluation import held_out
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.run import going_on
from dlrl.run import session
from dlrl.run import setup as setup_lib
from dlrl.run import start_params
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress

# (state, batch of arrays) -> (state, metrics)
Step = Callable[..., tuple[update.TrainState, update.Metrics]]


def make_step(
  model: transformer.Model, cfg: config.SftConfig,
  tx: optax.GradientTransformation, eos_id: int,
) -> Step:
  """`(state, batch of arrays) -> (state, metrics)`, to be jitted.

  Args:
    model: the policy's model.
    cfg: the fine-tuning's settings.
    tx: the optimizer.
    eos_id: ends answers, and fills the rest of their canvas.
  """
  def loss(trained: Any, base: Any, batch: dict[str, jax.Array],
           keys: jax.Array) -> jax.Array:
    params = lora.join(base, trained)
    completion = batch["completion"]
    exists = _exists(model, batch, eos_id)
    draw = scoring.process(
      cfg.forward_process, batch["prompt_length"], model.cfg.block_length)(
        keys, exists, 0, 1)
    noisy = jnp.where(draw.mask, model.mask_id, completion)
    if cfg.token_noise:
      chosen, ids = token_noise.replaced(
        keys, completion, exists & ~draw.mask, 0, rate=cfg.token_noise,
        mask_id=model.mask_id, vocab_size=model.cfg.vocab_size)
      draw = token_noise.predicted(draw, chosen)
      noisy = jnp.where(chosen, ids, noisy)
    mask, weight = draw
    hidden = _hidden(model, params, batch, noisy)
    logps, _ = token_logps.token_logps(
      hidden, model.unembed(params), completion, mask, chunk=cfg.logps_chunk,
      shards=mesh_lib.batch_parts(completion.shape[0]))
    return -jnp.mean(elbo.score(logps, weight, cfg.gen_length))

  def fine_tuning(state: update.TrainState, batch: dict[str, jax.Array]
                  ) -> tuple[update.TrainState, update.Metrics]:
    rate = optimizer.rate(cfg.optimizer, cfg.steps, state.opt_state)
    key = jax.random.fold_in(keys_lib.of(
      jax.random.wrap_key_data(state.key), keys_lib.Seed.FINE_TUNING),
      state.step)
    keys = jax.random.split(key, batch["completion"].shape[0])
    value, grads = jax.value_and_grad(loss)(
      state.params, state.base, batch, keys)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    metrics = {
      "loss": value,
      "grad_norm": optimizer.global_norm(grads),
      "learning_rate": rate,
      "nonfinite_in_a_row": opt_state.notfinite_count,
    }
    return dataclasses.replace(
      state, step=state.step + 1, opt_state=opt_state,
      params=optax.apply_updates(state.params, updates)), metrics

  return fine_tuning


def _exists(model: transformer.Model, batch: dict[str, jax.Array], eos_id: int
            ) -> jax.Array:
  """The tokens that are learned, [b, t] bool: the canvas, or whole blocks.

  A sampler fills the whole canvas of a model with full attention. Blocks it
  decodes up to that of the first EOS, which is full of them.
  """
  completion = batch["completion"]
  if not model.cfg.block_length:
    return jnp.ones(completion.shape, bool)
  size = model.cfg.block_length
  return blocks.until(
    completion == eos_id, batch["prompt_length"] % size, size)


def _hidden(
  model: transformer.Model, params: Any, batch: dict[str, jax.Array],
  noisy: jax.Array,
) -> jax.Array:
  """Hidden states [b, t, d] of a noisy canvas."""
  prompt, prompt_length = batch["prompt_ids"], batch["prompt_length"]
  if not model.cfg.block_length:
    row = model_input.assemble(noisy, prompt, prompt_length)
    return model.hidden(params, *row)[:, : noisy.shape[1]]
  # Blocks that do not exist come last, so that no other block sees them.
  lengths = prompt_length + noisy.shape[1]
  clean = model.clean_rows(
    params, prompt, prompt_length, batch["completion"], lengths)
  return blocks.noisy_hidden(
    model, params, noisy, prompt, prompt_length, lengths, clean)


def main(setup: setup_lib.Setup, workdir: pathlib.Path) -> dict[str, float]:
  """The job `sft`; returns the seconds per phase."""
  evaluator = held_out.make(setup)
  return train(
    setup, workdir, setup.load_base(),
    lambda params: evaluator(params, ends=True))[1]


def check(setup: setup_lib.Setup) -> None:
  """Checks the rows of fine-tuning, unless RL goes without.

  Raises:
    strict.ConfigError: an example cannot be asked, or its answer has a
      character without an id or is longer than the canvas.
  """
  cfg = setup.cfg
  if cfg.job == "rl" and (cfg.init_from or not cfg.sft.steps):
    return
  source = setup.task.load(
    cfg.task.data_dir, "train", cfg.sft.difficulty, field="sft.difficulty")
  data.check(source, data.sft_item(
    source, setup.tokenizer, setup.prompt,
    prompt_length=cfg.task.prompt_length, gen_length=cfg.sft.gen_length,
    truncate=cfg.task.truncates))


def warm_start(
  setup: setup_lib.Setup, workdir: pathlib.Path, base: start_params.Base
) -> tuple[Any, dict[str, float]]:
  """The policy that RL starts from, and seconds per phase.

  Fine-tunes in a directory below `workdir`, named after the settings that
  matter to it, so that another RL run there need not repeat it, whatever may
  change when a run goes on.
  """
  cfg = setup.cfg
  if cfg.init_from:
    return setup.init_policy(base), {}
  name, *older = _names(cfg)
  root = workdir / "warm_start"
  there = [root / each for each in older if (root / each).is_dir()]
  directory = there[0] if there else root / name
  directory.mkdir(parents=True, exist_ok=True)
  return train(setup, directory, base)


def _names(cfg: config.Config) -> list[str]:
  """What a warm start is called, here and in older versions."""
  parts = ("seed", "task", "model", "sft", "pretrained", "lora")
  values, default = strict.to_json(cfg), strict.to_json(config.Config())
  for section, setting in (
      ("sft", "token_noise"), ("model", "experts"), ("model", "rotary_dim")):
    # Older versions lacked these settings.
    if values[section][setting] == default[section][setting]:
      del values[section][setting]
  names = [strict.fingerprint(going_on.lasting(cfg, *parts)),
           strict.fingerprint(*(values[part] for part in parts))]
  if not cfg.model.block_length and cfg.sft.forward_process == "exact_k":
    # Version 0.2.0 lacked these settings.
    del values["model"]["block_length"], values["sft"]["forward_process"]
    names.append(strict.fingerprint(*(values[part] for part in parts)))
  return names


def train(
  setup: setup_lib.Setup, directory: pathlib.Path,
  base: start_params.Base = start_params.NONE,
  evaluator: Callable[[Any], dict[str, float]] | None = None,
) -> tuple[Any, dict[str, float]]:
  """Fine-tunes a run's first parameters; continues what `directory` holds.

  Args:
    setup: the run's fixed parts.
    directory: for checkpoints and metrics.
    base: frozen parameters beneath adapters. Donated: use the policy's instead.
    evaluator: applied before the first step and after the last.

  Returns:
    The policy as the model takes it, and seconds per phase over all restarts.
  """
  cfg, eos_id = setup.cfg.sft, setup.tokenizer.eos_id
  tx, make_state, abstract = train_state.for_sft(setup)
  step = jit(make_step(setup.model, cfg, tx, eos_id), abstract)
  batches = _batches(setup)
  with session.start(
      setup.cfg, directory, batches, base, setup.task.checksum,
      tracked=setup.cfg.job == "sft", steps="fine-tuning step",
      interval="sft.checkpoint_every") as run:
    restored = run.restore(abstract)
    if restored:
      state, start = restored
    else:
      state, start = make_state(setup.init_policy(base)), 0
      run.begin()
      if evaluator:
        with run.evaluation():
          run.writer.write(0, evaluator(state.policy))

    reported = start
    with progress.Progress(cfg.steps, "sft", done=start) as line:
      for now in range(start + 1, cfg.steps + 1):
        run.begin_step(now, state)
        last = now == cfg.steps
        logs = last or now == 1 or now % cfg.log_every == 0
        with run.clock.phase("fine-tuning"):
          state, metrics = step(state, setup.put_batch(_arrays(next(batches))))
          if logs:
            # Only here does the host wait for the devices.
            row = {f"sft/{k}": float(v)
                   for k, v in jax.device_get(metrics).items()}
        if logs:
          optimizer.stop_if_stuck(
            now, row["sft/nonfinite_in_a_row"], setup.cfg.max_nonfinite)
          line.tick(now - reported)
          reported = now
          line.show(now, stays=last, loss=row["sft/loss"])
          if last and evaluator:
            with run.evaluation():
              row |= evaluator(state.policy)
          run.writer.write(now, row)
        stops = run.notice.reached() and not last
        if stops or last or now % cfg.checkpoint_every == 0:
          run.save(now, state, stops=stops)
  return state.policy, run.clock.totals


def input_shapes(setup: setup_lib.Setup) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a step's batch, with shardings."""
  cfg = setup.cfg
  rows = (cfg.sft.batch_size,)
  sizes = {"prompt_ids": (*rows, cfg.task.prompt_length), "prompt_length": rows,
           "completion": (*rows, cfg.sft.gen_length)}
  return {name: jax.ShapeDtypeStruct(
            size, "int32", sharding=mesh_lib.batch_sharding(setup.mesh))
          for name, size in sizes.items()}


def jit(step: Step, abstract: update.TrainState) -> Step:
  """Jits a step from `make_step`; it takes over the memory of its state."""
  return jax.jit(step, donate_argnums=0, out_shardings=(
    setup_lib.shardings_of(abstract), None))


def _batches(setup: setup_lib.Setup) -> grain.DatasetIterator:
  cfg = setup.cfg.sft
  source = setup.examples("train", cfg.difficulty, field="sft.difficulty")
  return data.sft_batches(
    source, setup.tokenizer, setup.prompt, batch_size=cfg.batch_size,
    prompt_length=setup.cfg.task.prompt_length, gen_length=cfg.gen_length,
    seed=setup.cfg.seed, truncate=setup.cfg.task.truncates)


def _arrays(batch: dict[str, Any]) -> dict[str, Any]:
  """The arrays of a batch that the step needs."""
  return {k: batch[k] for k in ("prompt_ids", "prompt_length", "completion")}
