"""One update, one program: draws, scores, loss, gradients, optimizer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dlrl import config
from dlrl import losses
from dlrl.diffusion import elbo
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo
from dlrl.diffusion import rows
from dlrl.diffusion import token_logps
from dlrl.runtime import optimizer


@flax.struct.dataclass
class State:
  """What an update changes and a checkpoint keeps.

  Attributes:
    step: scalar int32, finished steps.
    params: nested dicts.
    opt_state: of the optimizer.
    key: the run's root key, as data; constant.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  key: jax.Array


@flax.struct.dataclass
class Batch:
  """Completions to learn from; arrays with rows b, groups contiguous.

  Attributes:
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    completion: [b, t] int32.
    maskable: [b, t] bool, the tokens whose likelihood counts.
    advantage: [b] fp32.
    keys: [b] keys of the Monte-Carlo draws.
  """

  prompt: jax.Array
  prompt_length: jax.Array
  completion: jax.Array
  maskable: jax.Array
  advantage: jax.Array
  keys: jax.Array


def draw_score(model, cfg: config.Learn, params, batch: Batch, j):
  """The ELBO estimate of draw j for every row, [b] fp32."""
  process = forward_process.PROCESSES[cfg.forward_process]
  mask, weight = process(batch.keys, batch.maskable, j, cfg.n_mc)
  noisy = jnp.where(mask, model.mask_id, batch.completion)
  row = rows.assemble(noisy, batch.prompt, batch.prompt_length)
  hidden = model.hidden(params, *row)[:, : noisy.shape[1]]
  logps = token_logps.token_logps(
    hidden, model.unembed(params), batch.completion, mask,
    chunk=cfg.logps_chunk)
  norm = noisy.shape[1] if cfg.score_norm == "token" else 1
  return elbo.score(logps, weight, norm)


def micro_batch_grads(model, cfg: config.Learn, params, batch: Batch, old):
  """`(sums over rows, gradients)` of the mean loss of a few rows.

  Args:
    model: of the policy.
    cfg: of the update.
    params: of the policy.
    batch: rows that are processed together.
    old: scores [n_mc, b] before the update; None: those of `params`.
  """
  statistic = losses.STATISTICS[cfg.loss]

  def term(params, j):
    score = draw_score(model, cfg, params, batch, j)
    old_score = jax.lax.stop_gradient(score) if old is None else old[j]
    terms = statistic(score, old_score, batch.advantage)
    sums = {
      "score": score, "square": score**2, "delta": abs(score - old_score)}
    return -jnp.mean(terms), jax.lax.stop_gradient(sums)

  (loss, sums), grads = montecarlo.separable_value_and_grad(
    term, params, cfg.n_mc)
  live = batch.advantage != 0
  mean = sums["score"] / cfg.n_mc
  var = jnp.maximum(sums["square"] / cfg.n_mc - mean**2, 0)
  stats = {
    "loss": loss / cfg.n_mc,
    "live": jnp.sum(live),
    "score_mean": jnp.sum(mean * live),
    "score_std": jnp.sum(jnp.sqrt(var) * live),
    "delta": jnp.sum(sums["delta"] / cfg.n_mc * live),
  }
  return stats, jax.tree.map(lambda g: g / cfg.n_mc, grads)


def batch_grads(model, cfg: config.Learn, params, batch: Batch, old):
  """`(metrics, gradients)` of the mean loss of all rows.

  Micro-batches in which nobody has an advantage are skipped. Arguments as of
  `micro_batch_grads`.
  """
  # Rows that teach nothing last, so that whole micro-batches of them exist.
  order = jnp.argsort(batch.advantage == 0)
  parts = _split(jax.tree.map(lambda x: x[order], batch), cfg.micro_batch)
  n = parts.advantage.shape[0]
  if old is not None:
    old = _split(old.T[order], cfg.micro_batch).swapaxes(1, 2)
  grads_of = functools.partial(micro_batch_grads, model, cfg)
  shapes = jax.eval_shape(
    grads_of, params, *jax.tree.map(lambda x: x[0], (parts, old)))

  def step(total, part):
    return jax.lax.cond(
      jnp.any(part[0].advantage != 0),
      lambda: montecarlo.add(total, grads_of(params, *part)),
      lambda: total,
    ), None

  (stats, grads), _ = jax.lax.scan(
    step, montecarlo.zeros(shapes), (parts, old))
  live = jnp.maximum(stats["live"], 1)
  metrics = {k: stats[k] / live for k in ("score_mean", "score_std", "delta")}
  metrics["loss"] = stats["loss"] / n
  return metrics, jax.tree.map(lambda g: g / n, grads)


def batch_scores(model, cfg: config.Learn, params, batch: Batch) -> jax.Array:
  """The scores of all draws, [n_mc, b] fp32, `micro_batch` rows at a time."""

  def of_rows(part):
    return jax.lax.map(
      lambda j: draw_score(model, cfg, params, part, j), jnp.arange(cfg.n_mc))

  scores = jax.lax.map(of_rows, _split(batch, cfg.micro_batch))
  return scores.swapaxes(0, 1).reshape(cfg.n_mc, -1)


def make(
  model, cfg: config.Learn, tx: optax.GradientTransformation
) -> Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]:
  """`(state, batch) -> (state, metrics)`, to be jitted; scalars as metrics."""

  def one(state: State, rows):
    metrics, grads = batch_grads(model, cfg, state.params, *rows)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {
      "grad_norm": optimizer.global_norm(grads),
      "nonfinite_in_a_row": opt_state.notfinite_count,
      "nonfinite_total": opt_state.total_notfinite,
    }
    state = dataclasses.replace(state, params=params, opt_state=opt_state)
    return state, metrics

  def update(state: State, batch: Batch):
    n = cfg.updates_per_rollout
    if n == 1:
      state, metrics = one(state, (batch, None))
      return dataclasses.replace(state, step=state.step + 1), metrics
    # The policy that made the rollout, before any of its updates.
    old = batch_scores(model, cfg, state.params, batch)
    rows = batch.advantage.shape[0] // n
    parts = _split(batch, rows), _split(old.T, rows).swapaxes(1, 2)
    state, metrics = jax.lax.scan(one, state, parts)
    metrics = {
      k: v[-1] if k.startswith("nonfinite") else jnp.mean(v)
      for k, v in metrics.items()
    }
    return dataclasses.replace(state, step=state.step + 1), metrics

  return update


def _split(tree, rows: int):
  """Arrays [b, ...] as [b / rows, rows, ...]."""
  return jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), tree)
