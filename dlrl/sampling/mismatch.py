"""Measures the KL of a rollout's policy from that of exact decoding.

A cache replaces keys and values by older ones, `quantize` rounds matrices and
activations, and tokens that a step commits together are drawn as if they were
independent. Updates know of neither: they
are of the model as it is. Here one committed token of each completion is looked
at, in the state in which it was drawn:

    q  what the rollout drew it from
    p  what a forward pass without a cache, of the parameters as they are, gives
       on the same canvas
    r  the same with those tokens of the same step that are left of it

`mismatch_kl` is KL(q || p), what a cache and rounding change; without them it
is zero.
`parallel_kl` is KL(q || r). Its sum over the tokens of a step is, averaged over
what is drawn, the KL of all of them from decoding them one after another, from
left to right. It equals `mismatch_kl` where each step commits one token.

All are at the sampler's temperature (at 1 if that is 0), before top-k and
top-p, outside of which r may have mass where q has none.

States are found from the trace, so that nothing has to be kept while decoding.
"""

import functools
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling import edits
from dlrl.sampling import forward
from dlrl.sampling import predict
from dlrl.sampling.weights import prepare

Metrics = dict[str, jax.Array]  # scalars, in nats per token


class Decoded(NamedTuple):
  """Completions and the steps that committed their tokens.

  Attributes:
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    completion: [b, t] int32, without mask tokens.
    trace: [b, t] int32, as in `DecodeState`.
  """

  prompt: jax.Array
  prompt_length: jax.Array
  completion: jax.Array
  trace: jax.Array


class _State(NamedTuple):
  """A committed token of each row, and canvases from the time before.

  Attributes:
    column: [b] int32, the token's.
    before: [b, t] int32, the canvas that the step saw.
    beside: [b, t] int32, the same with the step's tokens left of this one.
    entry: [b, t] int32, the canvas when the row came to the token's block.
    exact: [b] bool, whether the step computed whole rows.
  """

  column: jax.Array
  before: jax.Array
  beside: jax.Array
  entry: jax.Array
  exact: jax.Array


def approximates(sampler: config.SamplerConfig) -> bool:
  """Tells if a rollout differs from exact decoding, and its trace tells how.

  Apart from a fixed number of tokens per step, which is its `steps`. Edits
  leave no trace of the states before them.
  """
  return not edits.on(sampler) and (
    sampler.cache != "none" or sampler.quantize != "none"
    or sampler.threshold > 0 or sampler.factor > 0 or sampler.fill_after < 1)


def mismatch(
  model: Any, params: Any, decoded: Decoded, keys: jax.Array, *,
  sampler: config.SamplerConfig, eos_id: int,
) -> Metrics:
  """`mismatch_kl` and `parallel_kl`, from a token of each completion.

  Args:
    model: as `denoise.decode` takes it.
    params: the parameters that decoded, not rounded.
    decoded: what they decoded.
    keys: [b] PRNG keys, which draw the tokens.
    sampler: the settings of decoding.
    eos_id: the end-of-sequence token.

  Returns:
    Two scalars fp32: unbiased estimates of the mean over completions of the
    mean over their tokens.
  """
  drawn = decoded.trace >= 0
  if sampler.eos == "stop":
    # The sampler did not draw the tokens that follow the end.
    ended = decoded.completion == eos_id
    drawn &= jnp.cumsum(ended, -1) - ended == 0
  noise = jax.vmap(
    lambda key: jax.random.uniform(key, drawn.shape[1:]))(keys)
  column = jnp.argmax(jnp.where(drawn, noise, -1.0), -1)
  found = jnp.any(drawn, -1)
  kls = divergences(model, params, decoded, column.astype(jnp.int32),
                    sampler=sampler, eos_id=eos_id)
  return {
    name: jnp.sum(jnp.where(found, kl, 0.0)) / jnp.maximum(jnp.sum(found), 1)
    for name, kl in zip(("mismatch_kl", "parallel_kl"), kls, strict=True)}


def divergences(
  model: Any, params: Any, decoded: Decoded, column: jax.Array, *,
  sampler: config.SamplerConfig, eos_id: int,
) -> tuple[jax.Array, jax.Array]:
  """KL(q || p) and KL(q || r) of one token of each completion, [b] fp32 each.

  Takes two forward passes of the rows; of rounded parameters one more; with a
  cache another two, of which the second is of the canvas alone, or of a block.

  Args:
    model: as `denoise.decode` takes it.
    params: the parameters that decoded, not rounded.
    decoded: what they decoded.
    column: [b] int32, the tokens' columns; their trace is not -1.
    sampler: the settings of decoding.
    eos_id: the end-of-sequence token.
  """
  state = _state(decoded, column, sampler, model.mask_id)
  rounded = None
  if sampler.quantize != "none":
    rounded = prepare.in_eight_bits(params, sampler.quantize)
  of = _of_blocks if model.cfg.block_length else functools.partial(
    _guided, sampler=sampler)
  q, p, r = of(model, params, rounded, decoded, state)

  def logps(logits: jax.Array) -> jax.Array:
    logits = predict.allowed(forward.without_mask(
      logits[:, None], model.mask_id), sampler, eos_id)[:, 0]
    return jax.nn.log_softmax(logits / (sampler.temperature or 1.0))

  def kl(q: jax.Array, p: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(q > -jnp.inf, jnp.exp(q) * (q - p), 0.0), -1)

  q, p, r = logps(q), logps(p), logps(r)
  return kl(q, p), kl(q, r)


def _state(
  decoded: Decoded, column: jax.Array, sampler: config.SamplerConfig,
  mask_id: int,
) -> _State:
  completion, trace = decoded.completion, decoded.trace
  columns = jnp.arange(trace.shape[1])[None]
  step = jnp.take_along_axis(trace, column[:, None], 1)

  def canvas(known: jax.Array) -> jax.Array:
    return jnp.where(known, completion, mask_id)

  width = sampler.block_length
  block = (columns // width == column[:, None] // width) & (trace >= 0)
  entry = jnp.min(
    jnp.where(block, trace, trace.shape[1]), -1, keepdims=True)
  # One more pass fills the rest once enough tokens were committed before it.
  free, last = jnp.sum(trace >= 0, -1), jnp.max(trace, -1)
  before_last = jnp.sum((trace >= 0) & (trace < last[:, None]), -1)
  fills = (sampler.fill_after < 1) & (
    before_last >= jnp.ceil(sampler.fill_after * free - 1e-3))
  return _State(
    column, canvas(trace < step),
    canvas((trace < step) | ((trace == step) & (columns < column[:, None]))),
    canvas(trace < entry),
    (step == entry)[:, 0] | (fills & (step[:, 0] == last)))


def _guided(
  model: Any, params: Any, rounded: Any, decoded: Decoded, state: _State, *,
  sampler: config.SamplerConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Logits [b, v] of q, p and r; models with full attention.

  Args:
    model: as `divergences` has it.
    params: the parameters as they are.
    rounded: those that decoded, if they are others; or None.
    decoded: what they decoded.
    state: the tokens that are looked at.
    sampler: the settings of decoding.
  """
  def of(decoded: Decoded) -> jax.Array:
    p, r = _of_rows(
      model, params, decoded, state, [state.before, state.beside])
    q = p
    if rounded is not None:
      q, = _of_rows(model, rounded, decoded, state, [state.before])
    if sampler.cache != "none":
      cached = _of_cache(
        model, params if rounded is None else rounded, decoded, state, sampler)
      q = jnp.where(state.exact[:, None], q, cached)
    return jnp.stack([q, p, r])

  logits = of(decoded)
  if sampler.cfg_scale:
    unguided = of(decoded._replace(
      prompt=jnp.full_like(decoded.prompt, model.mask_id)))
    logits = unguided + (sampler.cfg_scale + 1) * (logits - unguided)
  q, p, r = logits
  return q, p, r


def _ordinary(
  decoded: Decoded, canvas: jax.Array, padding: int = 0
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Rows in ordinary order: ids and positions [b, w], and their lengths.

  A block's columns and all after it are then next to each other, and what
  follows a row's end is padding.
  """
  rows = jnp.pad(
    decoded.prompt, ((0, 0), (0, canvas.shape[1] + padding)))
  ids = jax.vmap(jax.lax.dynamic_update_slice_in_dim, (0, 0, 0, None))(
    rows, canvas.astype(rows.dtype), decoded.prompt_length, 0)
  positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
  return ids, positions, decoded.prompt_length + canvas.shape[1]


def _of_rows(
  model: Any, params: Any, decoded: Decoded, state: _State,
  canvases: Sequence[jax.Array],
) -> jax.Array:
  """Logits [n, b, v] of n canvases; models with full attention."""
  at = (decoded.prompt_length + state.column)[:, None]

  def logits(canvas: jax.Array) -> jax.Array:
    hidden = model.hidden(params, *_ordinary(decoded, canvas), at)
    return forward.unembedded(model, params, hidden)[:, 0]

  # One after the other, in the memory of one.
  found: jax.Array = jax.lax.map(logits, jnp.stack(canvases))
  return found


def _of_cache(
  model: Any, params: Any, decoded: Decoded, state: _State,
  sampler: config.SamplerConfig,
) -> jax.Array:
  """Logits [b, v] of the column, as a step gives them that has a cache."""
  t, width = state.before.shape[1], sampler.block_length
  _, cache = model.hidden_and_cache(
    params, *_ordinary(decoded, state.entry))
  # With the prefix cache all columns from the block on are computed anew: as
  # many as the canvas has, of which the last may be padding.
  part = t if sampler.cache == "prefix" else width
  padding = part if sampler.cache == "prefix" else 0
  cache = jax.tree.map(lambda x: jnp.pad(
    x, ((0, 0), (0, 0), (0, padding), (0, 0), (0, 0))), cache)
  start = state.column // width * width
  hidden = model.hidden_of_part(
    params, *_ordinary(decoded, state.before, padding), cache,
    decoded.prompt_length + start, part)
  return forward.unembedded(model, params, forward.columns(
    hidden, state.column - start, 1))[:, 0]


def _of_blocks(
  model: Any, params: Any, rounded: Any, decoded: Decoded, state: _State
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """As `_guided`; models with blocks, whose cache is exact."""
  p, r = _of_noisy(
    model, params, decoded, state, [state.before, state.beside])
  q = p
  if rounded is not None:
    q, = _of_noisy(model, rounded, decoded, state, [state.before])
  return q, p, r


def _of_noisy(
  model: Any, params: Any, decoded: Decoded, state: _State,
  canvases: Sequence[jax.Array],
) -> jax.Array:
  """Logits [n, b, v] of n canvases; models with blocks."""
  size, p = model.cfg.block_length, decoded.prompt.shape[1]
  padding = -(p + decoded.completion.shape[1]) % size
  ids, _, lengths = _ordinary(decoded, decoded.completion, padding)
  clean = model.clean_stream(params, ids, lengths)
  at = decoded.prompt_length + state.column
  start = at // size * size
  positions = start[:, None] + jnp.arange(size)[None]

  def logits(canvas: jax.Array) -> jax.Array:
    ids, _, _ = _ordinary(decoded, canvas, padding)
    hidden = model.noisy_stream(
      params, forward.columns(ids, start, size), positions, lengths, clean)
    return forward.unembedded(
      model, params, forward.columns(hidden, at - start, 1))[:, 0]

  found: jax.Array = jax.lax.map(logits, jnp.stack(canvases))
  return found
