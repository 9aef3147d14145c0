"""The canvases that rollouts start from: all masks, or with a prior on them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.data import Tokenizer
from dlrl.diffusion import model_input
from dlrl.diffusion import pruning
from dlrl.diffusion import token_logps
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib


def templates(
  task: tasks.Task, tokenizer: Tokenizer, asked: Sequence[tasks.Example],
  length: int, free_id: int,
) -> np.ndarray:
  """What the task knows of the answers, [g, length] int32.

  Args:
    task: knows nothing if it has no template.
    tokenizer: of the texts in a template.
    asked: g rows of the task.
    length: of the canvas; the rest of it is filled with eos.
    free_id: stands where any token may be.

  Raises:
    strict.ConfigError: a template is longer than the canvas.
  """
  canvas = np.full((len(asked), length), free_id, np.int32)
  for line, row in zip(canvas, asked, strict=True):
    if task.template is None:
      continue
    ids: list[int] = []
    for part in task.template(row):
      ids += [free_id] * part if isinstance(part, int) else (
        tokenizer.encode(part))
    strict.require(
      len(ids) <= length, "rollout.sampler.gen_length", length,
      f"the template of {row!r} has {len(ids)} tokens; raise the length")
    line[:] = ids + [tokenizer.eos_id] * (length - len(ids))
  return canvas


def canvases(
  model: transformer.Model, cfg: config.RolloutConfig, state: update.TrainState,
  keys: jax.Array, prompt: jax.Array, prompt_length: jax.Array,
  index: jax.Array, template: jax.Array,
) -> jax.Array:
  """Canvases [b, t] int32, the same for all completions of a prompt.

  Args:
    model: of the policy.
    cfg: of the rollouts; its prior says how much is fixed.
    state: of the run: the step, and the completions remembered.
    keys: [b], the same for all of a prompt.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    index: [b] int32, that identify the prompts.
    template: [b, t] int32, from `templates`.
  """
  prior = cfg.prior

  def put(canvas, tokens, known, share):
    tokens = jnp.where(known, tokens, model.mask_id)
    share = pruning.annealed(share, state.step, prior.anneal_steps)
    # Not computed unless the rule reads it.
    hidden = model.hidden(
      state.policy, *model_input.assemble(tokens, prompt, prompt_length))
    logps, _ = token_logps.token_logps(
      hidden[:, : tokens.shape[1]], model.unembed(state.policy), tokens, known,
      chunk=tokens.shape[1], shards=mesh_lib.batch_parts(tokens.shape[0]))
    order = pruning.REMASK[prior.remask](keys, logps)
    return jnp.where(pruning.keep(order, known, share), tokens, canvas)

  canvas = jnp.full_like(template, model.mask_id)
  if state.memory is not None:
    tokens, found = pruning.recall(state.memory, index)
    known = jnp.broadcast_to(found[:, None], tokens.shape)
    canvas = put(canvas, tokens, known, prior.memory)
  if prior.template:
    canvas = put(canvas, template, template != model.mask_id, prior.template)
  return canvas
