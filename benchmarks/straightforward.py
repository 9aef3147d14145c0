"""An update's gradient in straightforward JAX: the baseline for speed.

Its counterpart for rollouts is `benchmarks.sampler.straightforward`. `agree`
checks both against `dlrl` before either is timed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl import losses
from dlrl import strict
from dlrl import update
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.diffusion import montecarlo
from dlrl.models import transformer

SIDES = ("ours", "plain")


def inputs(cfg: config.Config, mask_id: int) -> update.Batch:
  """A batch of random tokens in which every row has an advantage."""
  b = cfg.rollout.prompts * cfg.rollout.group_size
  p, t = cfg.task.prompt_length, cfg.rollout.sampler.gen_length
  tokens = jax.random.randint(jax.random.key(1), (b, p + t), 0, mask_id)
  return update.Batch(
    prompt=tokens[:, :p], prompt_length=jnp.full(b, p),
    completion=tokens[:, p:], maskable=jnp.ones((b, t), bool),
    advantage=jnp.where(jnp.arange(b) % 2 == 0, 1.0, -0.5),
    keys=jax.random.split(jax.random.key(2), b))


def batch_grads(
  model: transformer.Model, cfg: config.LearnConfig, params: Any,
  batch: update.Batch
) -> tuple[jax.Array, Any]:
  """Loss and gradients, equal to those of `update.batch_grads`.

  All samples of all rows are one batch whose graph is kept, and log-softmax
  runs over all logits, [n_mc, b, t, v], also where no token is masked.

  Args:
    model: the policy's network.
    cfg: the update; its loss needs no reference parameters, and its forward
      process no trace.
    params: the policy's parameters.
    batch: completions with advantages.
  """
  t = batch.completion.shape[1]
  norm = t if cfg.score_norm == "token" else 1

  def score(params, j):
    mask, weight = method_processes.PROCESSES[cfg.forward_process](
      batch.keys, batch.maskable, j, cfg.n_mc, **cfg.process_args)
    row = model_input.assemble(
      jnp.where(mask, model.mask_id, batch.completion), batch.prompt,
      batch.prompt_length)
    logits = jnp.einsum(
      "btd,dv->btv", model.hidden(params, *row)[:, :t], model.unembed(params),
      preferred_element_type=jnp.float32)
    logps = jnp.take_along_axis(
      jax.nn.log_softmax(logits), batch.completion[..., None], -1)[..., 0]
    logps = jnp.where(mask, logps, 0.0)
    return losses.Scored(
      logps, jax.lax.stop_gradient(logps), None, mask, weight / norm), {}

  tokens = jnp.sum(batch.maskable, -1, dtype=jnp.float32)
  of_rows = losses.Responses(
    batch.advantage, batch.maskable, jnp.full_like(tokens, jnp.mean(tokens)))
  (loss, _), grads = montecarlo.stacked_value_and_grad(
    losses.OBJECTIVES[cfg.loss](**cfg.loss_args), score, of_rows, params,
    cfg.n_mc)
  return loss, grads


def check(cfg: config.Config) -> None:
  """Refuses settings that the straightforward code does not implement.

  Raises:
    strict.ConfigError: prompts are masked, not all tokens count, or the sampler
      is not the exact one.
  """
  noise, decoding = cfg.learn.prompt_noise, cfg.rollout.sampler
  strict.require(
    not noise, "learn.prompt_noise", noise, "must be 0 with --vs")
  strict.require(
    cfg.learn.tokens == "canvas", "learn.tokens", cfg.learn.tokens,
    "must be 'canvas' with --vs")
  strict.require(
    decoding.gen_length % decoding.steps == 0, "rollout.sampler.steps",
    decoding.steps, f"must divide {decoding.gen_length} tokens with --vs")
  exact = config.SamplerConfig(
    decoding.gen_length, decoding.block_length, decoding.steps)
  for name, want in dataclasses.asdict(exact).items():
    value = getattr(decoding, name)
    strict.require(value == want, f"rollout.sampler.{name}", value,
                   f"must be {want!r} with --vs")


def agree(programs: dict[str, dict[str, Any]], params: Any) -> None:
  """Compares rollout and update of `dlrl` with the straightforward ones.

  Args:
    programs: functions of the parameters, {rollout, update}: {ours, plain}; in
      fp32.
    params: the policy's parameters.

  Raises:
    AssertionError: results differ by more than rounding explains.
  """
  done, tokens = (programs["rollout"][side](params) for side in SIDES)
  np.testing.assert_array_equal(done.completion, tokens)
  (metrics, grads), (loss, wanted) = (
    programs["update"][side](params) for side in SIDES)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4, atol=1e-6)
  for (path, want), grad in zip(
      jax.tree.leaves_with_path(wanted), jax.tree.leaves(grads), strict=True):
    error = float(jnp.max(abs(grad - want)) / jnp.max(abs(want)))
    if not error < 1e-3:  # also true if the error is NaN
      raise AssertionError(f"gradients of {jax.tree_util.keystr(path)} differ "
                           f"by {error} of the largest")
