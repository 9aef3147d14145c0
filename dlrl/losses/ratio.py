"""Clipped ratios and KL estimators, element by element."""

import jax
import jax.numpy as jnp

Clip = float | tuple[float, float]  # below and above 1


def clipped(
  ratio: jax.Array, advantage: jax.Array, clip: Clip
) -> tuple[jax.Array, jax.Array]:
  """PPO's pessimistic surrogate, to be maximised, and where it is flat.

  min(ratio A, clamp(ratio, 1 - low, 1 + high) A). Source: arXiv 1707.06347,
  Eq. 7; different bounds: arXiv 2503.14476.

  Args:
    ratio: fp32, any shape.
    advantage: broadcastable to `ratio`.
    clip: low and high, or one number for both.

  Returns:
    The surrogate and a bool array, both of the shape of `ratio`.
  """
  low, high = clip if isinstance(clip, tuple) else (clip, clip)
  free = ratio * advantage
  bound = jnp.clip(ratio, 1 - low, 1 + high) * advantage
  return jnp.minimum(free, bound), bound < free


def _k1(logp, ref):
  # The second term is zero; its gradient is the score function's part, without
  # which the gradient of an on-policy mean would be zero.
  still = jax.lax.stop_gradient(logp)
  return logp - ref + (logp - still) * (still - ref)


def _k2(logp, ref):
  return (logp - ref) ** 2 / 2


def _k3(logp, ref):
  return jnp.exp(ref - logp) - (ref - logp) - 1


KL = {"k1": _k1, "k2": _k2, "k3": _k3}


def kl(logp: jax.Array, ref: jax.Array, kind: str) -> jax.Array:
  """An estimate of KL(policy || reference) from samples of the policy.

  With d = logp - ref, `k1` is d (unbiased, of any sign), `k2` d^2 / 2 (biased;
  its gradient is the KL's), `k3` exp(-d) + d - 1 (unbiased, never negative).

  Args:
    logp: log-probs or ELBO scores, any shape.
    ref: of the reference, the same shape; a constant.
    kind: a key of `KL`.

  Raises:
    ValueError: an unknown kind.
  """
  if kind not in KL:
    raise ValueError(f"kl is {kind!r}, choose from {', '.join(KL)}")
  return KL[kind](logp, jax.lax.stop_gradient(ref))
