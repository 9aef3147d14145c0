"""Attention as matrix products, for every platform.

The values of `jax.nn.dot_product_attention`, written so that XLA fuses it into
one loop on CPUs: batched products with two leading axes, masking by a sum
instead of a select, and the division by the softmax's sum after the product
with the values. The backward pass transposes matrices [t, k] only; JAX's own
transposes matrices [t, s], which XLA copies. Forward-mode differentiation is
not supported.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# Names the activations from which a rematerialised layer recomputes the
# attention weights by one product: outputs, and the softmax's maxima and sums.
KEPT = "attention"
_UNSEEN = -1e30  # finite: -inf would make a row that sees nothing NaN

# q, k, v, seen, weights, total, out
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array,
                   jax.Array, jax.Array]


@jax.custom_vjp
def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
) -> jax.Array:
  """Computes `attention.bidirectional` for any mask.

  Args:
    q: [b, t, h, k].
    k: [b, s, g, k]; g divides h.
    v: [b, s, g, k].
    seen: [b, t or 1, s] bool, the columns each query attends to. A query that
      attends to none has a finite output and no gradient.

  Returns:
    [b, t, h, k] in the dtype of `v`.
  """
  return _forward(q, k, v, seen)[0]


def attend_blocks(
  q: jax.Array, k: jax.Array, v: jax.Array, more_k: jax.Array,
  more_v: jax.Array, before: jax.Array, live: jax.Array,
) -> jax.Array:
  """Computes `attention.noisy`: one softmax over a block and other columns.

  Args:
    q: [b, w, h, k], m blocks of i = w / m columns.
    k: [b, w, g, k]; g divides h.
    v: [b, w, g, k].
    more_k: [b, s, g, k].
    more_v: [b, s, g, k].
    before: [b, m, s] bool, other columns that a block attends to.
    live: [b, m, 1 or i, i] bool, the columns of its own block that each query
      attends to.

  Returns:
    [b, w, h, k] in the dtype of `v`. Where nothing is attended to, it is
    finite.
  """
  b, m, _, i = live.shape
  g, width = k.shape[2:]
  in_blocks = b, g, -1, m, i, width  # queries, beside [b, g, m, i, k] for keys
  k, v = (x.reshape(b, m, i, g, width).transpose(0, 3, 1, 2, 4) for x in (k, v))
  others = _scores(q, more_k, jnp.repeat(before, i, 1))
  own = jnp.einsum(
    "bgrmik,bgmjk->bgrmij", _heads_first(q, g).reshape(in_blocks), k,
    preferred_element_type=jnp.float32) * width ** -0.5
  own += jnp.where(live, 0.0, _UNSEEN)[:, None, None]
  own = own.reshape(*others.shape[:3], i)
  # Softmax does not depend on it, so that it needs no gradient.
  most = jax.lax.stop_gradient(
    jnp.maximum(jnp.max(others, -1), jnp.max(own, -1)))[..., None]
  others, own = jnp.exp(others - most), jnp.exp(own - most)
  total = jnp.sum(others, -1) + jnp.sum(own, -1)
  out = jnp.einsum(
    "bgns,bgsk->bgnk", others.astype(v.dtype), more_v.swapaxes(1, 2),
    preferred_element_type=jnp.float32)
  out += jnp.einsum(
    "bgrmij,bgmjk->bgrmik", own.astype(v.dtype).reshape(*in_blocks[:-1], i), v,
    preferred_element_type=jnp.float32).reshape(out.shape)
  return _columns_first(out / total[..., None], q.shape).astype(v.dtype)


# Below, queries are [b, g, n, k] with n = (h / g) t: all heads that share a key
# side by side, so that grouped attention is one product per group without
# repeating keys. Scores and weights are [b, g, n, s].


def _forward(
  q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
) -> tuple[jax.Array, _Residuals]:
  scores = _scores(q, k, seen)
  most = checkpoint_name(jnp.max(scores, -1), KEPT)[..., None]
  weights = jnp.exp(scores - most)
  total = checkpoint_name(jnp.sum(weights, -1), KEPT)[..., None]
  # Dividing k outputs per query is less work than dividing s weights.
  out = jnp.einsum("bgns,bgsk->bgnk", weights.astype(v.dtype),
                   v.swapaxes(1, 2), preferred_element_type=jnp.float32)
  out = _columns_first(out / total, q.shape).astype(v.dtype)
  out = checkpoint_name(out, KEPT)
  return out, (q, k, v, seen, weights, total, out)


def _backward(
  residuals: _Residuals, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
  q, k, v, seen, weights, total, out = residuals
  cotangent = jnp.where(jnp.any(seen, -1)[..., None, None], cotangent, 0)
  # With p = weights / total, the gradient of scores is p (dp - sum(p dp)). The
  # sum equals sum(cotangent out), known without another pass over [t, s].
  mean = jnp.sum(cotangent.astype(jnp.float32) * out, -1, keepdims=True)
  mean, out_grad = (
    _heads_first(x, k.shape[2]) / total for x in (mean, cotangent))
  out_grad = out_grad.astype(v.dtype)
  v_grad = jnp.einsum("bgnk,bgns->bgks", out_grad, weights.astype(v.dtype))
  weights_grad = jnp.einsum("bgnk,bgsk->bgns", out_grad, v.swapaxes(1, 2),
                            preferred_element_type=jnp.float32)
  scores_grad = weights * (weights_grad - mean) * q.shape[-1] ** -0.5
  scores_grad = scores_grad.astype(q.dtype)
  q_grad = jnp.einsum("bgns,bgsk->bgnk", scores_grad, k.swapaxes(1, 2))
  k_grad = jnp.einsum(
    "bgnk,bgns->bgks", _heads_first(q, k.shape[2]), scores_grad)
  return (_columns_first(q_grad, q.shape), k_grad.transpose(0, 3, 1, 2),
          v_grad.transpose(0, 3, 1, 2), None)


def _scores(q: jax.Array, k: jax.Array, seen: jax.Array) -> jax.Array:
  """Computes scaled scores in fp32, far below all others where not seen."""
  scores: jax.Array = jnp.einsum(
    "bgnk,bgsk->bgns", _heads_first(q, k.shape[2]), k.swapaxes(1, 2),
    preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  unseen = jnp.where(seen, 0.0, _UNSEEN)[:, None]
  if seen.shape[1] > 1:
    unseen = jnp.tile(unseen, (1, 1, q.shape[2] // k.shape[2], 1))
  return scores + unseen


def _heads_first(x: jax.Array, g: int) -> jax.Array:
  """Rearranges [b, t, h, k] to [b, g, n, k]."""
  b, t, h, width = x.shape
  x = x.reshape(b, t, g, h // g, width).transpose(0, 2, 3, 1, 4)
  return x.reshape(b, g, h // g * t, width)


def _columns_first(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Rearranges [b, g, n, k] to `shape`, [b, t, h, k]."""
  b, t, h, width = shape
  x = x.reshape(b, x.shape[1], h // x.shape[1], t, width)
  return x.transpose(0, 3, 1, 2, 4).reshape(shape)


attend.defvjp(_forward, _backward)
