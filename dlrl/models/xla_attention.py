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
# q, k, v, more_k, more_v, before, live; weights of others and of the own block,
# total, out
_BlockResiduals = tuple[tuple[jax.Array, ...], jax.Array, jax.Array, jax.Array,
                        jax.Array]


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


@jax.custom_vjp
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
    [b, w, h, k] in the dtype of `v`. A query that attends to nothing has a
    finite output and no gradient.
  """
  return _blocks_forward(q, k, v, more_k, more_v, before, live)[0]


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


def _blocks_forward(
  q: jax.Array, k: jax.Array, v: jax.Array, more_k: jax.Array,
  more_v: jax.Array, before: jax.Array, live: jax.Array,
) -> tuple[jax.Array, _BlockResiduals]:
  m, _, i = live.shape[1:]
  g, width = k.shape[2:]
  others = _scores(q, more_k, jnp.repeat(before, i, 1))
  own = jnp.einsum(
    "bgrmik,bgmjk->bgrmij", _in_blocks(_heads_first(q, g), m, i),
    _keys_in_blocks(k, m), preferred_element_type=jnp.float32) * width ** -0.5
  own += jnp.where(live, 0.0, _UNSEEN)[:, None, None]
  own = own.reshape(*others.shape[:3], i)
  most = checkpoint_name(
    jnp.maximum(jnp.max(others, -1), jnp.max(own, -1)), KEPT)[..., None]
  others, own = jnp.exp(others - most), jnp.exp(own - most)
  total = checkpoint_name(
    jnp.sum(others, -1) + jnp.sum(own, -1), KEPT)[..., None]
  out = jnp.einsum(
    "bgns,bgsk->bgnk", others.astype(v.dtype), more_v.swapaxes(1, 2),
    preferred_element_type=jnp.float32)
  out += jnp.einsum(
    "bgrmij,bgmjk->bgrmik", _in_blocks(own.astype(v.dtype), m, i),
    _keys_in_blocks(v, m), preferred_element_type=jnp.float32).reshape(
      out.shape)
  out = _columns_first(out / total, q.shape).astype(v.dtype)
  out = checkpoint_name(out, KEPT)
  return out, ((q, k, v, more_k, more_v, before, live), others, own, total, out)


def _blocks_backward(
  residuals: _BlockResiduals, cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
  (q, k, v, more_k, more_v, before, live), others, own, total, out = residuals
  g, m, i = k.shape[2], live.shape[1], live.shape[3]
  sees = jnp.any(before, -1)[..., None] | jnp.any(live, -1)  # [b, m, 1 or i]
  sees = jnp.broadcast_to(sees, (len(q), m, i)).reshape(q.shape[:2])
  cotangent = jnp.where(sees[..., None, None], cotangent, 0)
  # As in `_backward`; the mean is that of the whole softmax, in both parts.
  mean = jnp.sum(cotangent.astype(jnp.float32) * out, -1, keepdims=True)
  mean, out_grad = (_heads_first(x, g) / total for x in (mean, cotangent))
  out_grad = out_grad.astype(v.dtype)
  more_v_grad = jnp.einsum(
    "bgnk,bgns->bgks", out_grad, others.astype(v.dtype))
  weights_grad = jnp.einsum(
    "bgnk,bgsk->bgns", out_grad, more_v.swapaxes(1, 2),
    preferred_element_type=jnp.float32)
  scale = q.shape[-1] ** -0.5
  others = (others * (weights_grad - mean) * scale).astype(q.dtype)
  queries = _heads_first(q, g)
  more_k_grad = jnp.einsum("bgnk,bgns->bgks", queries, others)
  q_grad = jnp.einsum("bgns,bgsk->bgnk", others, more_k.swapaxes(1, 2),
                      preferred_element_type=jnp.float32)
  out_grad, queries = (_in_blocks(x, m, i) for x in (out_grad, queries))
  v_grad = jnp.einsum(
    "bgrmik,bgrmij->bgmjk", out_grad, _in_blocks(own.astype(v.dtype), m, i))
  weights_grad = jnp.einsum(
    "bgrmik,bgmjk->bgrmij", out_grad, _keys_in_blocks(v, m),
    preferred_element_type=jnp.float32).reshape(own.shape)
  own = _in_blocks(
    (own * (weights_grad - mean) * scale).astype(q.dtype), m, i)
  k_grad = jnp.einsum("bgrmik,bgrmij->bgmjk", queries, own)
  q_grad += jnp.einsum(
    "bgrmij,bgmjk->bgrmik", own, _keys_in_blocks(k, m),
    preferred_element_type=jnp.float32).reshape(q_grad.shape)
  k_grad, v_grad = (x.transpose(0, 2, 3, 1, 4).reshape(k.shape)
                    for x in (k_grad, v_grad))
  return (_columns_first(q_grad, q.shape).astype(q.dtype), k_grad, v_grad,
          more_k_grad.transpose(0, 3, 1, 2), more_v_grad.transpose(0, 3, 1, 2),
          None, None)


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

def _in_blocks(x: jax.Array, m: int, i: int) -> jax.Array:
  """Splits n in [b, g, n, ...] into heads, m blocks and their i columns."""
  return x.reshape(*x.shape[:2], -1, m, i, x.shape[-1])


def _keys_in_blocks(x: jax.Array, m: int) -> jax.Array:
  """Rearranges [b, m i, g, k] to [b, g, m, i, k]."""
  return x.reshape(x.shape[0], m, -1, *x.shape[2:]).transpose(0, 3, 1, 2, 4)




attend.defvjp(_forward, _backward)
attend_blocks.defvjp(_blocks_forward, _blocks_backward)
