"""The first half of a step: from prompts to canvases to completions.

A canvas is what decoding starts from. It is all masks, or has a prior on it
(STP's spatial pruning): tokens that the task knows of every answer, or part of
a good completion of the same prompt. No loss sees the tokens of a prior.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl import data
from dlrl import keys as keys_lib
from dlrl import scoring
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.diffusion import pruning
from dlrl.diffusion import token_logps
from dlrl.models import transformer
from dlrl.run import expert_load
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise
from dlrl.sampling import mismatch
from dlrl.sampling import speed
from dlrl.sampling import turns
from dlrl.tasks import reward_calls

# (state, prompt [g, p], prompt_length [g], index [g], template [g, t]) ->
# (completions, forward passes)
Program = Callable[..., tuple[update.Batch, jax.Array]]
Measure = expert_load.Measure


def make(setup: setup_lib.Setup) -> Program:
  """The jitted rollout of `setup.cfg.rollout`; see `inputs` for arguments.

  Returns:
    A program `(state, *inputs) -> (batch, forwards)`: the completions of all
    prompts, groups contiguous, without advantages; and the number of forward
    passes that they took, a scalar int32.
  """
  return jax.jit(
    functools.partial(_rollout, setup), out_shardings=_shardings(setup))


def _rollout(
  setup: setup_lib.Setup, state: update.TrainState, prompt: jax.Array,
  prompt_length: jax.Array, index: jax.Array, template: jax.Array,
) -> tuple[update.Batch, jax.Array]:
  cfg = setup.cfg
  # One key per prompt or completion, by its place in the global batch, so that
  # a completion does not depend on the number of hosts.
  prompts, group = prompt.shape[0], cfg.rollout.group_size
  key = _key(state)
  sample_keys, draw_keys, prior_keys = (
    jax.random.split(keys_lib.of(key, purpose), n) for purpose, n in (
      (keys_lib.Step.SAMPLE, prompts * group),
      (keys_lib.Step.DRAWS, prompts * group), (keys_lib.Step.PRIOR, prompts)))
  rows = jnp.arange(prompts * group) // group
  prompt, prompt_length, template = (
    mesh_lib.shard_batch(x[rows]) for x in (prompt, prompt_length, template))
  drawn, candidates = _drawn(setup)
  canvas = None
  if not setup.model.cfg.block_length:
    canvas = canvases(
      setup.model, cfg.rollout, state, prior_keys[rows], prompt, prompt_length,
      index[rows], template)
  with jax.named_scope("rollout/denoise"):
    decoded = denoise.decode(
      setup.model, state.policy, prompt, prompt_length, sample_keys,
      sampler=cfg.rollout.sampler, canvas=canvas,
      eos_id=setup.tokenizer.eos_id, ends=tuple(setup.tokenizer.ends),
      group=group, candidates=candidates)
  trace, steps = decoded.trace, None
  if cfg.learn.forward_process == "forks":
    steps, trace = trace, method_processes.fork_steps(
      trace, decoded.confidence < cfg.rollout.sampler.threshold)
  missing = cfg.task.prompt_length - prompt.shape[1]
  return update.Batch(
    # One shape for all updates, whatever the width of the prompts here was.
    prompt=jnp.pad(prompt, ((0, 0), (0, missing)),
                   constant_values=setup.tokenizer.pad_id),
    prompt_length=prompt_length,
    completion=decoded.completion,
    # The whole canvas but the prior: what follows the end of an answer was
    # generated, too. Blocks after that of the end were not.
    maskable=(decoded.trace >= 0 if canvas is None
              else canvas == setup.model.mask_id),
    keys=draw_keys, trace=trace, steps=steps,
    drawn=dataclasses.replace(
      drawn, among=decoded.among if candidates else None),
    tokens_per_forward=speed.tokens_per_forward(
      decoded.completion, decoded.trace, setup.tokenizer.ends)
  ), decoded.forwards


def measurements(setup: setup_lib.Setup) -> Measure:
  """Both of `comparison` and `expert_load.make`."""
  compare, load = comparison(setup), expert_load.make(setup)
  return lambda step, state, batch: (
    compare(step, state, batch) | load(step, state, batch))


def comparison(setup: setup_lib.Setup) -> Measure:
  """Compares rollouts with exact decoding, as `rollout.mismatch_every` says.

  Returns:
    A function (step, state, batch) -> metrics, of the state that made the
    batch: the KLs of `sampling.mismatch`, scalars; none if the rollout is exact
    or the step is another. They are those of as many completions as are decoded
    at a time.
  """
  cfg = setup.cfg.rollout
  if not (cfg.mismatch_every and mismatch.approximates(cfg.sampler)):
    return lambda step, state, batch: {}
  return expert_load.at_intervals(setup, _mismatch, cfg.mismatch_every)


def _mismatch(
  setup: setup_lib.Setup, state: update.TrainState, batch: update.Batch
) -> dict[str, jax.Array]:
  sampler, rows = setup.cfg.rollout.sampler, batch.completion.shape[0]
  size = turns.size(sampler.slots, rows)
  decoded = mismatch.Decoded(
    batch.prompt, batch.prompt_length, batch.completion,
    batch.trace if batch.steps is None else batch.steps)
  decoded = jax.tree.map(
    lambda x: mesh_lib.shard_batch(x[:: rows // size][:size]), decoded)
  found = mismatch.mismatch(
    setup.model, state.policy, decoded,
    jax.random.split(keys_lib.of(_key(state), keys_lib.Step.MISMATCH), size),
    sampler=sampler, eos_id=setup.tokenizer.eos_id)
  return {f"rollout/{name}": kl for name, kl in found.items()}


def _key(state: update.TrainState) -> jax.Array:
  """The key of the step that comes next."""
  return jax.random.fold_in(keys_lib.of(
    jax.random.wrap_key_data(state.key), keys_lib.Seed.RL), state.step)


def _drawn(setup: setup_lib.Setup) -> tuple[token_logps.Drawn, int]:
  """What learning has to know of how tokens are drawn, without `among`.

  Forward processes that follow the trace score what the sampler did, so their
  log-probs are those of what it drew from. All others are of the model itself.
  A sampler that draws from it as it is leaves nothing to note: the mask token,
  which is never drawn, has a probability there, as in published code.

  Returns:
    The distribution, and the number of candidates that are kept per token.
  """
  sampler, size = setup.cfg.rollout.sampler, setup.model.cfg.vocab_size
  truncated = 0 < sampler.top_k < size or sampler.top_p < 1
  suppressed = sampler.eos == "suppress"
  if setup.cfg.learn.forward_process not in scoring.OF_TRACE or not (
      truncated or suppressed or sampler.temperature != 1):
    return token_logps.MODEL, 0
  never = (setup.model.mask_id, *(setup.tokenizer.eos_id,) * suppressed)
  return (token_logps.Drawn(sampler.temperature, never),
          min(sampler.top_k, size) if truncated else 0)


def _shardings(setup: setup_lib.Setup) -> tuple[update.Batch, Any]:
  split: Any = mesh_lib.batch_sharding(setup.mesh)
  drawn, candidates = _drawn(setup)
  return update.Batch(
    prompt=split, prompt_length=split, completion=split, maskable=split,
    keys=split, trace=split, tokens_per_forward=split,
    steps=split if setup.cfg.learn.forward_process == "forks" else None,
    drawn=dataclasses.replace(drawn, among=split if candidates else None)
  ), mesh_lib.replicated(setup.mesh)


def canvases(
  model: transformer.Model, cfg: config.RolloutConfig,
  state: update.TrainState, keys: jax.Array, prompt: jax.Array,
  prompt_length: jax.Array, index: jax.Array, template: jax.Array,
) -> jax.Array:
  """Canvases [b, t] int32, the same for all completions of a prompt.

  Args:
    model: the policy's model.
    cfg: the rollout's settings; `cfg.prior` says how many tokens are fixed.
    state: gives the step, for annealing, and the remembered completions.
    keys: [b], the same for all completions of a prompt.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    index: [b] int32, identifies the prompts.
    template: [b, t] int32, from `templates`.
  """
  prior = cfg.prior

  def put(canvas: jax.Array, tokens: jax.Array, known: jax.Array, share: float,
          purpose: keys_lib.Prior) -> jax.Array:
    tokens = jnp.where(known, tokens, model.mask_id)
    kept = pruning.annealed(share, state.step, prior.anneal_steps)
    # XLA drops this forward pass unless the rule reads the log-probs.
    hidden = model.hidden(
      state.policy, *model_input.assemble(tokens, prompt, prompt_length))
    logps, _ = token_logps.token_logps(
      hidden[:, : tokens.shape[1]], model.unembed(state.policy), tokens, known,
      chunk=tokens.size, shards=mesh_lib.batch_parts(tokens.shape[0]))
    order = pruning.REMASK[prior.remask](
      jax.vmap(lambda key: keys_lib.of(key, purpose))(keys), logps)
    return jnp.where(pruning.keep(order, known, kept), tokens, canvas)

  canvas = jnp.full_like(template, model.mask_id)
  if state.memory is not None:
    tokens, found = pruning.recall(state.memory, index)
    known = jnp.broadcast_to(found[:, None], tokens.shape)
    canvas = put(canvas, tokens, known, prior.memory, keys_lib.Prior.MEMORY)
  if prior.template:
    # After the memory: where both know a token, the template wins.
    canvas = put(canvas, template, template != model.mask_id, prior.template,
                 keys_lib.Prior.TEMPLATE)
  return canvas


def templates(
  task: tasks.Task, tokenizer: data.Tokenizer, asked: Sequence[tasks.Example],
  length: int, free_id: int,
) -> np.ndarray:
  """The tokens that the task knows of every answer, [g, length] int32.

  Args:
    task: a task without a template knows nothing.
    tokenizer: encodes the texts in a template.
    asked: g examples of the task.
    length: canvas length in tokens; a template is filled up with eos.
    free_id: marks a column where any token may be.

  Raises:
    strict.ConfigError: a template is longer than the canvas.
  """
  canvas = np.full((len(asked), length), free_id, np.int32)
  for line, example in zip(canvas, asked, strict=True):
    if task.template is None:
      continue
    ids: list[int] = []
    for part in task.template(example):
      ids += [free_id] * part if isinstance(part, int) else (
        tokenizer.encode(part))
    strict.require(
      len(ids) <= length, "rollout.sampler.gen_length", length,
      f"the template of {example!r} has {len(ids)} tokens; raise the length")
    line[:] = ids + [tokenizer.eos_id] * (length - len(ids))
  return canvas


def examples(setup: setup_lib.Setup) -> tasks.Examples:
  """The training examples that are asked in rollouts."""
  return setup.examples("train", setup.cfg.rollout.difficulty,
                        field="rollout.difficulty")


def check(setup: setup_lib.Setup) -> None:
  """Checks rewards and rows of rollouts before anything else begins.

  Raises:
    strict.ConfigError: a reward function cannot take the columns; or an
      example cannot be asked, or has a template longer than the canvas.
  """
  cfg = setup.cfg
  source = setup.task.load(
    cfg.task.data_dir, "train", cfg.rollout.difficulty,
    field="rollout.difficulty")
  reward_calls.check(setup.rewards, tasks.columns(data.samples(source)))
  item = data.rl_item(
    source, setup.tokenizer, setup.prompt,
    prompt_length=cfg.task.prompt_length, truncate=cfg.task.truncates)

  def whole(position: int) -> None:
    item(position)
    with data.located(source, position):
      templates(setup.task, setup.tokenizer, [source[position]],
                cfg.rollout.sampler.gen_length, setup.model.mask_id)

  data.check(source, whole)


def prompt_batches(
  setup: setup_lib.Setup, source: tasks.Examples
) -> grain.DatasetIterator:
  """An endless iterator over the prompts of a step; see `data.rl_batches`."""
  cfg = setup.cfg
  return data.rl_batches(
    source, setup.tokenizer, setup.prompt, batch_size=cfg.rollout.prompts,
    prompt_length=cfg.task.prompt_length, seed=cfg.seed,
    truncate=cfg.task.truncates)


def inputs(
  setup: setup_lib.Setup, batch: dict[str, Any],
  asked: Sequence[tasks.Example],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The rollout's arguments after the state, on all devices.

  Args:
    setup: the run's fixed parts.
    batch: from `prompt_batches`.
    asked: the g examples that the batch asks.

  Returns:
    prompt [g, w], where w is the first of `data.widths` that holds the batch's
    prompts, prompt_length [g], index [g] (the examples' positions in their
    source) and template [g, t], all int32.
  """
  width = data.width(
    batch["prompt_length"], setup.cfg.task.prompt_length)
  return setup.put_whole((
    batch["prompt_ids"][:, :width], batch["prompt_length"], batch["position"],
    templates(setup.task, setup.tokenizer, asked,
              setup.cfg.rollout.sampler.gen_length, setup.model.mask_id)))


def input_shapes(
  setup: setup_lib.Setup, width: int | None = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes of `inputs`, with shardings.

  Args:
    setup: the run's fixed parts.
    width: of the prompts; None: `task.prompt_length`.
  """
  cfg = setup.cfg
  prompts = cfg.rollout.prompts

  def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      sizes, "int32", sharding=mesh_lib.replicated(setup.mesh))

  return (shape(prompts, width or cfg.task.prompt_length), shape(prompts),
          shape(prompts), shape(prompts, cfg.rollout.sampler.gen_length))


def compile_ahead(
  setup: setup_lib.Setup, program: Program, state: update.TrainState
) -> None:
  """Compiles a rollout for prompts of all widths, so that no step has to.

  Args:
    setup: the run's fixed parts.
    program: from `make`.
    state: shapes of the state, with shardings.
  """
  widths = data.widths(setup.cfg.task.prompt_length)
  if len(widths) == 1:
    return  # the first step compiles it
  jitted: Any = program
  for width in widths:
    progress.say(f"compiling rollouts of prompts of up to {width} tokens")
    jitted.lower(state, *input_shapes(setup, width)).compile()


def output_shapes(
  setup: setup_lib.Setup, program: Program, args: tuple[Any, ...]
) -> tuple[update.Batch, jax.ShapeDtypeStruct]:
  """Shapes of what a rollout returns, with shardings.

  Args:
    setup: the run's fixed parts.
    program: from `make`.
    args: shapes of its arguments.
  """
  return setup_lib.with_shardings(
    jax.eval_shape(program, *args), _shardings(setup))
