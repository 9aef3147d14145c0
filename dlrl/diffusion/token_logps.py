"""Log-probs of given tokens from hidden states, without all the logits.

Positions are scored a chunk at a time, masked positions first, and chunks
without a masked position are skipped. The backward pass recomputes the logits
of each chunk and accumulates the unembedding's gradient in fp32.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from dlrl.diffusion import inferred_sharding
from dlrl.losses import floats


class TokenLogps(NamedTuple):
  """Scores of each position; zero where it is not masked.

  Attributes:
    logps: [b, t] fp32, log-probs of the targets.
    entropy: [b, t] fp32, entropies of the predicted distributions, in nats.
  """

  logps: jax.Array
  entropy: jax.Array


@flax.struct.dataclass
class Drawn:
  """A distribution that targets were drawn from: some tokens, a temperature.

  The target itself is always one of them: a log-prob is never -inf, although
  rounding may order the tokens otherwise than the sampler did.

  Attributes:
    temperature: positive; logits are divided by it.
    never: ids that were not drawn from.
    among: [b, t, k] int32, the ids that were drawn from, -1 for less than k;
      None: all others.
  """

  temperature: float = flax.struct.field(pytree_node=False, default=1.0)
  never: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
  among: Any = None


MODEL = Drawn()  # all tokens at temperature 1: the model's own distribution


def token_logps(
  hidden: jax.Array, unembed: jax.Array, targets: jax.Array, mask: jax.Array,
  *, chunk: int, shards: int = 1, drawn: Drawn = MODEL,
) -> TokenLogps:
  """fp32 log softmax(hidden @ unembed) at `targets`, and its entropy.

  At most [shards, chunk, v] logits exist at a time. Reverse-mode gradients of
  both results are exact, in the dtypes of the inputs; forward mode is not
  supported. Hidden states and targets of positions that are not masked may be
  anything, even NaN.

  Args:
    hidden: [b, t, d].
    unembed: [d, v], of the dtype of `hidden`. v may be split over devices; d
      should not be, or every chunk gathers it again.
    targets: [b, t] int in 0..v-1.
    mask: [b, t] bool.
    chunk: positions of a shard per chunk. The head is read three times for
      each chunk with a masked position, and its fp32 gradient read and written.
    shards: number of equal parts of b that are on different devices. Positions
      stay in their part, and the parts' gradients are summed once, not in
      every chunk.
    drawn: the softmax is over these tokens, at this temperature.

  Raises:
    ValueError: `shards` does not divide b, or the temperature is not positive.
  """
  b, t = targets.shape
  if b % shards:
    raise ValueError(
      f"token_logps: {shards} shards do not divide {b} rows; use a divisor")
  if drawn.temperature <= 0:
    raise ValueError(
      f"token_logps: the temperature is {drawn.temperature}; without noise "
      "nothing is drawn, pass a positive one")
  n = b // shards * t

  def split(x: jax.Array) -> jax.Array:
    return x.reshape(shards, n, *x.shape[2:])

  def scores(
    hidden: jax.Array, unembed: jax.Array, targets: jax.Array, mask: jax.Array,
    *among: jax.Array,
  ) -> TokenLogps:
    out = _scores(
      split(hidden), unembed, split(targets), split(mask),
      dataclasses.replace(drawn, among=split(among[0]) if among else None),
      min(chunk, n))
    return TokenLogps(*(x.reshape(b, t) for x in out))

  return inferred_sharding.inside(scores, mask, mask)(*_alike(
    hidden, unembed, targets, mask, *jax.tree.leaves(drawn)))


def _alike(*arrays: jax.Array) -> list[jax.Array]:
  """Arrays that vary over the same axes of `jax.shard_map`.

  The gradient of one that did not, such as the unembedding, is summed over them
  once, here, and not in every chunk.
  """
  varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  axes = frozenset().union(*varying)
  return [jax.lax.pcast(x, tuple(axes - own), to="varying") if axes - own else x
          for x, own in zip(arrays, varying, strict=True)]


# Below, arrays are [s, n, ...], the positions of each shard, or in chunks
# [c, s, size, ...].

_Pair = tuple[jax.Array, jax.Array]
_Inputs = tuple[jax.Array, jax.Array, jax.Array, jax.Array, Drawn]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _scores(
  hidden: jax.Array, unembed: jax.Array, targets: jax.Array, mask: jax.Array,
  drawn: Drawn, size: int,
) -> _Pair:
  return _forward(hidden, unembed, targets, mask, drawn, size)[0]


def _forward(
  hidden: jax.Array, unembed: jax.Array, targets: jax.Array, mask: jax.Array,
  drawn: Drawn, size: int,
) -> tuple[_Pair, _Inputs]:
  order, inverse = _order(mask)

  def step(_: None, block: tuple[Any, ...]) -> tuple[None, _Pair]:
    live, hidden, targets, drawn = block

    def compute() -> _Pair:
      logp = _log_softmax(hidden, unembed, targets, drawn)
      # A select and a sum instead of a gather: XLA fuses them, and they work on
      # a vocabulary that is split over devices.
      target = jnp.sum(jnp.where(_hit(logp, targets), logp, 0.0), -1)
      return (jnp.where(live, target, 0.0),
              jnp.where(live, _entropy(logp), 0.0))

    zeros = jnp.zeros_like(live, floats.widened(hidden.dtype))
    return None, jax.lax.cond(jnp.any(live), compute, lambda: (zeros, zeros))

  _, (logps, entropy) = jax.lax.scan(
    step, None, _chunks((mask, hidden, targets, drawn), order, size))
  return (_whole(logps, inverse), _whole(entropy, inverse)), (
    hidden, unembed, targets, mask, drawn)


def _backward(
  size: int, residuals: _Inputs, cotangents: _Pair
) -> tuple[jax.Array, jax.Array, None, None, None]:
  # The residuals are only the inputs: where only gradients are used, as in the
  # second pass of joint objectives, XLA removes the forward pass.
  hidden, unembed, targets, mask, drawn = residuals
  order, inverse = _order(mask)

  def step(total: jax.Array, block: tuple[Any, ...]) -> _Pair:
    live, hidden, targets, drawn, of_logp, of_entropy = block

    def compute() -> _Pair:
      # Zeroed before any product: 0 * NaN would be NaN.
      h = jnp.where(live[..., None], hidden, 0)
      logp = _log_softmax(h, unembed, targets, drawn)
      p = jnp.exp(logp)
      # If logits are those that were divided by the temperature,
      # d logp / d logits = onehot - p; d entropy / d logits = -p (logp + H)
      hit = _hit(logp, targets).astype(p.dtype)
      slope = of_logp[..., None] * (hit - p)
      slope -= of_entropy[..., None] * p * (logp + _entropy(logp)[..., None])
      slope = jnp.where(
        live[..., None], slope / drawn.temperature, 0).astype(h.dtype)
      of_hidden = jnp.einsum("snv,dv->snd", slope, unembed,
                             preferred_element_type=total.dtype)
      return total + jnp.einsum(
        "snd,snv->sdv", h, slope, preferred_element_type=total.dtype
      ), of_hidden.astype(h.dtype)

    out: _Pair = jax.lax.cond(
      jnp.any(live), compute, lambda: (total, jnp.zeros_like(hidden)))
    return out

  total = jnp.zeros_like(
    unembed, floats.widened(hidden.dtype),
    shape=(hidden.shape[0], *unembed.shape))
  total, of_hidden = jax.lax.scan(step, total, _chunks(
    (mask, hidden, targets, drawn, *cotangents), order, size))
  return (_whole(of_hidden, inverse),
          jnp.sum(total, 0).astype(unembed.dtype), None, None, None)


_scores.defvjp(_forward, _backward)


# The logit of a token that was not drawn from. Finite, so that its product with
# a probability of 0 is 0, also where XLA computes in bf16.
_NONE = -1e30


def _log_softmax(
  hidden: jax.Array, unembed: jax.Array, targets: jax.Array, drawn: Drawn
) -> jax.Array:
  logits = jnp.einsum(
    "snd,dv->snv", hidden, unembed,
    preferred_element_type=floats.widened(hidden.dtype)) / drawn.temperature
  ids = jnp.arange(logits.shape[-1], dtype=targets.dtype)[None, None]
  for id_ in drawn.never:
    logits = jnp.where((ids == id_) & ~_hit(logits, targets), _NONE, logits)
  if drawn.among is not None:
    # Compared with one of the few ids after the other: all comparisons at once
    # would be an array of k times the logits on CPUs.
    kept, _ = jax.lax.scan(
      lambda kept, one: (kept | (ids == one[..., None]), None),
      _hit(logits, targets), jnp.moveaxis(drawn.among, -1, 0), unroll=16)
    logits = jnp.where(kept, logits, _NONE)
  # The maximum is subtracted first, the log of the sum afterwards. Their sum,
  # subtracted as one number, would lose digits where logits are large.
  logits -= jnp.max(logits, -1, keepdims=True)
  return logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))


def _entropy(logp: jax.Array) -> jax.Array:
  # A product, because XLA has no fast reduction of exp(x) x on CPUs.
  return -jnp.einsum("snv,snv->sn", jnp.exp(logp), logp, precision="highest")


def _hit(logits: jax.Array, targets: jax.Array) -> jax.Array:
  ids = jnp.arange(logits.shape[-1], dtype=targets.dtype)
  return ids[None, None] == targets[..., None]


def _order(mask: jax.Array) -> _Pair:
  """A shard's positions, the masked ones first, and the inverse permutation."""
  order = jnp.argsort(~mask, axis=1, stable=True)
  return order, jnp.argsort(order, axis=1)


def _take(x: jax.Array, order: jax.Array) -> jax.Array:
  return jnp.take_along_axis(
    x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def _chunks(arrays: Any, order: jax.Array, size: int) -> Any:
  """[s, n, ...] in that order as [c, s, size, ...], padded with zeros."""
  def one(x: jax.Array) -> jax.Array:
    x = _take(x, order)
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

  return jax.tree.map(one, arrays)


def _whole(x: jax.Array, inverse: jax.Array) -> jax.Array:
  """[c, s, size, ...] as [s, n, ...] in the original order."""
  x = jnp.moveaxis(x, 0, 1)
  return _take(x.reshape(x.shape[0], -1, *x.shape[3:]), inverse)
