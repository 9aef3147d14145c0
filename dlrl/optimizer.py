"""The optimizer, its schedule, and the treatment of non-finite gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlrl import config

SCHEDULES = ("constant", "cosine")
OPTIMIZERS = {
  "adamw": optax.adamw,  # two moments
  "lion": optax.lion,  # one moment (arXiv 2302.06675)
}


def schedule(cfg: config.OptimizerConfig, steps: int) -> optax.Schedule:
  """Linear warm-up from zero, then constant or a cosine to zero at `steps`.

  The first of `warmup_steps` updates has rate 0, and the first after them the
  peak, as in optax and in Transformers, whose schedules the papers' code uses.
  """
  rest = max(steps - cfg.warmup_steps, 1)
  after = {
    "constant": optax.constant_schedule(cfg.learning_rate),
    "cosine": optax.cosine_decay_schedule(cfg.learning_rate, rest),
  }[cfg.schedule]
  if not cfg.warmup_steps:
    return after
  up = optax.linear_schedule(0.0, cfg.learning_rate, cfg.warmup_steps)
  return optax.join_schedules([up, after], [cfg.warmup_steps])


def make(
  cfg: config.OptimizerConfig, steps: int
) -> optax.GradientTransformation:
  """Clips by the global norm, then steps; skips non-finite gradients.

  A skipped update only raises `opt_state.notfinite_count`, the number skipped
  in a row, on which the loop aborts (`stop_if_stuck`). Weight decay applies to
  matrices, not to norms and biases. Moments are fp32 whatever the parameters'
  dtype; `moment_dtype` can lower the first. The second stays fp32: with b2 near
  1 it moves by less than bf16 resolves, and would stand still.
  """
  tx = optax.chain(
    optax.clip_by_global_norm(cfg.clip_norm),
    OPTIMIZERS[cfg.name](
      schedule(cfg, steps), b1=cfg.b1, b2=cfg.b2, mu_dtype=cfg.moment_dtype,
      weight_decay=cfg.weight_decay, mask=_decays),
  )
  # Without a practical limit: optax would apply a non-finite update after that
  # many errors in a row.
  return optax.apply_if_finite(_in_fp32(tx), max_consecutive_errors=2**31 - 1)


def for_rl(cfg: config.Config) -> optax.GradientTransformation:
  """The optimizer of RL's updates."""
  return make(cfg.learn.optimizer, rl_updates(cfg))


def for_sft(cfg: config.Config) -> optax.GradientTransformation:
  """The optimizer of fine-tuning."""
  return make(cfg.sft.optimizer, cfg.sft.steps)


def rl_updates(cfg: config.Config) -> int:
  """Optimizer steps of a whole RL run, which its schedule spans."""
  return cfg.steps * cfg.learn.epochs * cfg.learn.updates_per_rollout


def rate(
  cfg: config.OptimizerConfig, steps: int, state: optax.OptState
) -> jax.Array:
  """The learning rate of the next update, fp32; see `make` for `steps`."""
  # The first `count` found is Adam's; the schedule's is equal, because both
  # count updates that were not skipped.
  count = optax.tree.get_all_with_path(state, "count")[0][1]
  return jnp.asarray(schedule(cfg, steps)(count), jnp.float32)


def _in_fp32(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx` on gradients and parameters cast to fp32."""
  def wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

  return optax.GradientTransformation(
    lambda params: tx.init(wide(params)),
    lambda grads, state, params: tx.update(wide(grads), state, params))


def _decays(params: Any) -> Any:
  # By names, because the vectors of all layers are stacked to matrices.
  return jax.tree.map_with_path(
    lambda path, _: path[-1].key not in ("scale", "bias"), params)


def global_norm(tree: Any) -> jax.Array:
  """Euclidean norm over all leaves, accumulated in fp32."""
  return optax.global_norm(jax.tree.map(
    lambda x: x.astype(jnp.float32), tree))


def stop_if_stuck(step: int, in_a_row: float, limit: int) -> None:
  """Ends a run whose gradients stay non-finite; its checkpoints are intact.

  Raises:
    RuntimeError: `in_a_row` updates up to `step` were skipped, `limit` or more.
  """
  if in_a_row >= limit:
    raise RuntimeError(
      f"step {step}: the gradients of the last {in_a_row:.0f} updates were not "
      "finite; they were skipped, and the parameters are as before. Lower the "
      "learning rate, or start again from the last checkpoint")
