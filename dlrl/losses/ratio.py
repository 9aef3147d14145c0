"""Clipped ratios and KL estimators, element by element."""

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import strict
from dlrl.losses import floats
from dlrl.strict import shapes

Clip = float | tuple[float, float]  # how far below and above 1


def bounds(clip: Clip) -> tuple[float, float]:
  """The smallest and the largest ratio that count."""
  low, high = clip if isinstance(clip, tuple) else (clip, clip)
  return 1 - low, 1 + high


def clipped(
  ratio: jax.Array, advantage: jax.Array, clip: Clip
) -> tuple[jax.Array, jax.Array]:
  """PPO's pessimistic surrogate, to be maximised, and where it is flat.

  min(ratio A, clamp(ratio, 1 - low, 1 + high) A). Source: arXiv 1707.06347,
  Eq. 7; different bounds below and above: arXiv 2503.14476.

  Args:
    ratio: fp32, any shape.
    advantage: broadcastable to `ratio`.
    clip: low and high, or one number for both.

  Returns:
    The surrogate, and a bool array that is True where the clip is what counts;
    both of the shape of `ratio`.
  """
  strict.require(
    _fits(np.shape(advantage), np.shape(ratio)), "clipped.advantage",
    np.shape(advantage), "its shape must be broadcastable to that of ratio, "
    f"{np.shape(ratio)}", strict.ArgumentError)
  free = ratio * advantage
  bound = jnp.clip(ratio, *bounds(clip)) * advantage
  return jnp.minimum(free, bound), bound < free


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
  """Whether `shape` is broadcastable to `wanted`."""
  return len(shape) <= len(wanted) and all(
    x in (1, y) for x, y in zip(shape[::-1], wanted[::-1], strict=False))


def _k1(logp: jax.Array, ref: jax.Array) -> jax.Array:
  # E[logp - ref] over samples of the policy has the gradient
  # E[(logp - ref) grad logp]; differentiating only the integrand gives
  # E[grad logp] = 0. The second term is zero and has the missing gradient.
  still = jax.lax.stop_gradient(logp)
  return logp - ref + (logp - still) * (still - ref)


def _k2(logp: jax.Array, ref: jax.Array) -> jax.Array:
  return (logp - ref) ** 2 / 2


def _k3(logp: jax.Array, ref: jax.Array) -> jax.Array:
  return floats.exp(ref - logp) - (ref - logp) - 1


KL = {"k1": _k1, "k2": _k2, "k3": _k3}


def kl(logp: jax.Array, ref: jax.Array, kind: str) -> jax.Array:
  """An estimate of KL(policy || reference) from samples of the policy.

  With d = logp - ref, `k1` is d (unbiased, of either sign), `k2` d^2 / 2
  (biased, but its gradient is an unbiased estimate of the KL's), `k3`
  exp(-d) + d - 1 (unbiased, never negative).

  Args:
    logp: log-probs or ELBO scores, fp32, any shape.
    ref: the reference's, the same shape; treated as a constant.
    kind: a key of `KL`.

  Returns:
    The estimates, of the shape of `logp`.

  Raises:
    ValueError: `kind` is not a key of `KL`.
  """
  if kind not in KL:
    raise ValueError(f"kl: unknown estimator {kind!r}; use {', '.join(KL)}")
  shapes.require("kl", logp=(logp, "*"), ref=(ref, "*"))
  logp, ref = floats.wide(logp, ref)
  return KL[kind](logp, jax.lax.stop_gradient(ref))


def require_reference(
  function: str, name: str, ref: jax.Array | None, kl_coef: float
) -> None:
  """Raises ValueError if `kl_coef` is set and the argument `ref` is None."""
  if kl_coef and ref is None:
    raise ValueError(
      f"{function}: kl_coef is {kl_coef}, but {name} is None; pass {name} or "
      "set kl_coef to 0")
