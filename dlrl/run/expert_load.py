"""Measures how rollouts' tokens spread over the experts of a mixture."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrl import update
from dlrl.diffusion import model_input
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib

Measure = Callable[
  [int, update.TrainState, update.Batch], dict[str, jax.Array]]


def make(setup: setup_lib.Setup) -> Measure:
  """Measures the load of experts, as `rollout.expert_load_every` says.

  Returns:
    A function (step, state, batch) -> metrics, scalars; none if the model has
    no experts or the step is another. They are those of the prompts and
    completions of a micro-batch, in one forward pass.
  """
  every = setup.cfg.rollout.expert_load_every
  if not (every and setup.cfg.model.experts.number):
    return lambda step, state, batch: {}
  return at_intervals(setup, _load, every)


def at_intervals(
  setup: setup_lib.Setup, metrics: Callable[..., dict[str, jax.Array]],
  every: int,
) -> Measure:
  """`metrics` of (setup, state, batch) at step 1 and every `every` steps."""
  program = jax.jit(functools.partial(metrics, setup),
                    out_shardings=mesh_lib.replicated(setup.mesh))
  return lambda step, state, batch: (
    program(state, batch) if (step - 1) % every == 0 else {})


def _load(setup: setup_lib.Setup, state: update.TrainState,
          batch: update.Batch) -> dict[str, jax.Array]:
  """The metrics.

  `experts/load/LAYER` is the share of the busiest expert, in multiples of the
  mean, which is 1 if all have the same; `experts/entropy/LAYER` is that of a
  token's scores, in nats; `experts/dropped` counts choices that no expert
  computed.
  """
  rows, size = len(batch.completion), update.micro_batch(setup.cfg)
  canvas, prompt, length = (
    mesh_lib.shard_batch(x[:: rows // size][:size])
    for x in (batch.completion, batch.prompt, batch.prompt_length))
  row = model_input.joined(canvas, prompt, length)
  found = setup.model.expert_load(state.policy, row.ids, row.lengths)
  load = (jnp.max(found.tokens, -1) * found.tokens.shape[-1]
          / jnp.maximum(jnp.sum(found.tokens, -1), 1))
  first = setup.cfg.model.experts.dense_layers
  metrics = {f"experts/load/{first + i:02}": x for i, x in enumerate(load)}
  metrics |= {f"experts/entropy/{first + i:02}": x
              for i, x in enumerate(found.entropy)}
  return metrics | {"experts/load": jnp.max(load),
                    "experts/dropped": jnp.sum(found.dropped)}
