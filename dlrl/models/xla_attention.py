"""Bidirectional attention as matrix products, for every platform.

What `jax.nn.dot_product_attention` computes, in the form that XLA fuses into
one loop on CPUs: batched products with two leading axes, what is not seen by a
sum instead of a select, and the division by the softmax's sum last. The
backward pass transposes [t, k] matrices only; JAX's own would those of [t, s],
for which XLA makes copies. There is no forward-mode gradient.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Names what a rematerialised layer keeps to compute the weights again, by one
# product, and nothing else of attention.
KEPT = "attention"
_UNSEEN = -1e30  # finite: a row that sees nothing has no NaN


@jax.custom_vjp
def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
) -> jax.Array:
  """`attention.bidirectional`, of the columns that are seen.

  Args:
    q: [b, t, h, k].
    k: [b, s, g, k]; g divides h.
    v: [b, s, g, k].
    seen: [b, t or 1, s] bool, by every query. One that sees nothing has a
      finite output and no gradient.
  """
  return _forward(q, k, v, seen)[0]


# Below, queries are [b, g, n, k]: n = (h / g) t, those of the heads that share
# a key. Scores and weights are [b, g, n, s].


def _forward(q, k, v, seen):
  scores = _scores(q, k, seen)
  most = checkpoint_name(jnp.max(scores, -1), KEPT)[..., None]
  weights = jnp.exp(scores - most)
  total = checkpoint_name(jnp.sum(weights, -1), KEPT)[..., None]
  out = jnp.einsum("bgns,bgsk->bgnk", weights.astype(v.dtype),
                   v.swapaxes(1, 2), preferred_element_type=jnp.float32)
  out = _columns_first(out / total, q.shape).astype(v.dtype)
  out = checkpoint_name(out, KEPT)
  return out, (q, k, v, seen, weights, total, out)


def _backward(residuals, cotangent):
  q, k, v, seen, weights, total, out = residuals
  cotangent = jnp.where(jnp.any(seen, -1)[..., None, None], cotangent, 0)
  # A softmax's gradient takes off the mean, which is known from the outputs.
  mean = jnp.sum(cotangent.astype(jnp.float32) * out, -1, keepdims=True)
  mean, of_out = (
    _heads_first(x, k.shape[2]) / total for x in (mean, cotangent))
  of_out = of_out.astype(v.dtype)
  of_v = jnp.einsum("bgnk,bgns->bgks", of_out, weights.astype(v.dtype))
  of_weights = jnp.einsum("bgnk,bgsk->bgns", of_out, v.swapaxes(1, 2),
                          preferred_element_type=jnp.float32)
  of_scores = weights * (of_weights - mean) * q.shape[-1] ** -0.5
  of_scores = of_scores.astype(q.dtype)
  of_q = jnp.einsum("bgns,bgsk->bgnk", of_scores, k.swapaxes(1, 2))
  of_k = jnp.einsum(
    "bgnk,bgns->bgks", _heads_first(q, k.shape[2]), of_scores)
  return (_columns_first(of_q, q.shape), of_k.transpose(0, 3, 1, 2),
          of_v.transpose(0, 3, 1, 2), None)


def _scores(q, k, seen):
  """fp32; less than any other where not seen."""
  scores = jnp.einsum(
    "bgnk,bgsk->bgns", _heads_first(q, k.shape[2]), k.swapaxes(1, 2),
    preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  unseen = jnp.where(seen, 0.0, _UNSEEN)[:, None]
  if seen.shape[1] > 1:
    unseen = jnp.tile(unseen, (1, 1, q.shape[2] // k.shape[2], 1))
  return scores + unseen


def _heads_first(x, g: int):
  """[b, g, n, k] of [b, t, h, k]."""
  b, t, h, width = x.shape
  x = x.reshape(b, t, g, h // g, width).transpose(0, 2, 3, 1, 4)
  return x.reshape(b, g, h // g * t, width)


def _columns_first(x, shape):
  """[b, t, h, k], which is the shape, of [b, g, n, k]."""
  b, t, h, width = shape
  x = x.reshape(b, x.shape[1], h // x.shape[1], t, width)
  return x.transpose(0, 3, 1, 2, 4).reshape(shape)


attend.defvjp(_forward, _backward)
