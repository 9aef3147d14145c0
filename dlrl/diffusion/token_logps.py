"""Log-probs of given tokens from hidden states, without all the logits.

Positions are scored a chunk at a time, those that are masked first, and chunks
in which none is masked are skipped. The backward pass computes a chunk's logits
again and adds up the unembedding's gradient in fp32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class TokenLogps(NamedTuple):
  """Of each position; zero where it is not masked.

  Attributes:
    logps: [b, t] fp32, log-probs of the targets.
    entropy: [b, t] fp32, of the distributions they are of, in nats.
  """

  logps: jax.Array
  entropy: jax.Array


def token_logps(
  hidden: jax.Array,
  unembed: jax.Array,
  targets: jax.Array,
  mask: jax.Array,
  *,
  chunk: int,
  shards: int = 1,
) -> TokenLogps:
  """fp32 log softmax(hidden @ unembed) at `targets`, and its entropy.

  [b, chunk, v] is all of the logits that ever exists. Reverse-mode gradients of
  both are exact, in the dtypes of the inputs; there are no forward-mode ones.
  What a position holds that is not masked does not matter.

  Args:
    hidden: [b, t, d].
    unembed: [d, v], of the dtype of `hidden`. v may be split over devices; d
      should not be, or every chunk gathers it again.
    targets: [b, t] int in 0..v-1.
    mask: [b, t] bool.
    chunk: columns' worth of positions at a time.
    shards: equal parts of b that lie on different devices. No position leaves
      its part, and the parts' gradients are summed once, not in every chunk.

  Raises:
    ValueError: `shards` does not divide b.
  """
  b, t = targets.shape
  if b % shards:
    raise ValueError(f"{shards} shards do not divide {b} rows")
  n = b // shards * t

  def split(x):
    return x.reshape(shards, n, *x.shape[2:])

  out = _scores(split(hidden), unembed, split(targets), split(mask),
                n // t * min(chunk, t))
  return TokenLogps(*(x.reshape(b, t) for x in out))


# Below, arrays are [s, n, ...], the positions of each shard, or in chunks
# [c, s, size, ...].


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scores(hidden, unembed, targets, mask, size):
  return _forward(hidden, unembed, targets, mask, size)[0]


def _forward(hidden, unembed, targets, mask, size):
  order, inverse = _order(mask)

  def step(_, block):
    live, hidden, targets = block

    def compute():
      logp = _log_softmax(hidden, unembed)
      # A select and a sum, not a gather: it fuses, and shards by vocabulary.
      target = jnp.sum(jnp.where(_hit(logp, targets), logp, 0.0), -1)
      return (jnp.where(live, target, 0.0),
              jnp.where(live, _entropy(logp), 0.0))

    zeros = jnp.zeros(live.shape, jnp.float32)
    return None, jax.lax.cond(jnp.any(live), compute, lambda: (zeros, zeros))

  _, out = jax.lax.scan(step, None, tuple(
    _chunks(x, order, size) for x in (mask, hidden, targets)))
  return tuple(_whole(x, inverse) for x in out), (
    hidden, unembed, targets, mask)


def _backward(size, residuals, cotangents):
  # Nothing of the forward pass is kept: where only gradients are used, as in
  # the second pass of joint objectives, XLA leaves it out.
  hidden, unembed, targets, mask = residuals
  order, inverse = _order(mask)

  def step(total, block):
    live, hidden, targets, of_logp, of_entropy = block

    def compute():
      # Garbage must not get as far as being multiplied by zero.
      h = jnp.where(live[..., None], hidden, 0)
      logp = _log_softmax(h, unembed)
      p = jnp.exp(logp)
      slope = of_logp[..., None] * (_hit(logp, targets) - p)
      slope -= of_entropy[..., None] * p * (logp + _entropy(logp)[..., None])
      slope = jnp.where(live[..., None], slope, 0).astype(h.dtype)
      of_hidden = jnp.einsum("snv,dv->snd", slope, unembed,
                             preferred_element_type=jnp.float32)
      return total + jnp.einsum(
        "snd,snv->sdv", h, slope, preferred_element_type=jnp.float32
      ), of_hidden.astype(h.dtype)

    return jax.lax.cond(
      jnp.any(live), compute, lambda: (total, jnp.zeros_like(hidden)))

  total = jnp.zeros((hidden.shape[0], *unembed.shape), jnp.float32)
  total, of_hidden = jax.lax.scan(step, total, tuple(
    _chunks(x, order, size) for x in (mask, hidden, targets, *cotangents)))
  return (_whole(of_hidden, inverse),
          jnp.sum(total, 0).astype(unembed.dtype), None, None)


_scores.defvjp(_forward, _backward)


def _log_softmax(hidden, unembed):
  logits = jnp.einsum(
    "snd,dv->snv", hidden, unembed, preferred_element_type=jnp.float32)
  # First the largest, then the rest: the other way round, logits far from zero
  # would cost digits.
  logits -= jnp.max(logits, -1, keepdims=True)
  return logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))


def _entropy(logp):
  # As a product: on CPUs, XLA has no fast reduction of exp(x) x.
  return -jnp.einsum("snv,snv->sn", jnp.exp(logp), logp, precision="highest")


def _hit(logits, targets):
  return jnp.arange(logits.shape[-1])[None, None] == targets[..., None]


def _order(mask):
  """The masked positions of a shard, then the others; and the way back."""
  order = jnp.argsort(~mask, axis=1, stable=True)
  return order, jnp.argsort(order, axis=1)


def _take(x, order):
  return jnp.take_along_axis(
    x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def _chunks(x, order, size):
  """[s, n, ...] in that order as [c, s, size, ...], filled up with zeros."""
  x = _take(x, order)
  x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))
  return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


def _whole(x, inverse):
  """[c, s, size, ...] as [s, n, ...] in the original order."""
  x = jnp.moveaxis(x, 0, 1)
  return _take(x.reshape(x.shape[0], -1, *x.shape[3:]), inverse)
