"""Forward processes of methods that are not plain ELBO estimates.

The seam is that of `forward_process`. Their weights say how often a token
counts; the mean over draws of `weight * log-prob` is what a method calls the
token's log-prob.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrl.diffusion import forward_process
from dlrl.diffusion.forward_process import Draw
from dlrl.diffusion.forward_process import count
from dlrl.diffusion.forward_process import ranks


def all_masked(keys, maskable, j, n) -> Draw:
  """Every token masked, weight 1: diffu-GRPO's one pass (arXiv 2504.12216)."""
  del keys, j, n
  return Draw(maskable, maskable.astype(jnp.float32))


def coupled(keys, maskable, j, n) -> Draw:
  """In threes: everything; a random part; the rest.

  The part's ratio is r ~ U(0.2, 0.8). Weights 3/2, 3/(2 r) and 3/(2 (1 - r)):
  the mean over a triple is coupled-GRPO's token log-prob (arXiv 2506.20639).
  n should be a multiple of 3.
  """
  del n

  def row(key, maskable):
    key_r, key_mask = jax.random.split(jax.random.fold_in(key, j // 3))
    r = jax.random.uniform(key_r, minval=0.2, maxval=0.8)
    part = jax.random.uniform(key_mask, maskable.shape) < r
    kind = j % 3
    mask = maskable & jnp.where(
      kind == 0, True, jnp.where(kind == 1, part, ~part))
    ratio = jnp.where(kind == 0, 1.0, jnp.where(kind == 1, r, 1 - r))
    return Draw(mask, jnp.where(mask, 1.5 / ratio, 0.0))

  return jax.vmap(row)(keys, maskable)


def random_ratio(keys, maskable, j, n) -> Draw:
  """Each token masked with probability r_j, weight 1; UniGRPO's.

  r_j = (r_0 + j / n) mod 1 with r_0 ~ U(0, 1): the first noise level is random
  and the others are spaced evenly. Source: arXiv 2505.15809.
  """
  def row(key, maskable):
    r_0 = jax.random.uniform(jax.random.fold_in(key, n))
    r = (r_0 + j / n) % 1.0
    noise = jax.random.uniform(jax.random.fold_in(key, j), maskable.shape)
    mask = maskable & (noise < r)
    return Draw(mask, mask.astype(jnp.float32))

  return jax.vmap(row)(keys, maskable)


def left_to_right(keys, maskable, j, n) -> Draw:
  """Part j of n of the tokens, given those before it; the rest is masked.

  Only the part counts, with weight n, so that the mean over draws is the sum
  over tokens. With n the number of tokens it is JustGRPO's exact likelihood of
  decoding from left to right (arXiv 2601.15165).
  """
  del keys

  def row(maskable):
    m = count(maskable)
    place = jnp.cumsum(maskable) - 1
    start, stop = j * m // n, (j + 1) * m // n
    mask = maskable & (place >= start)
    return Draw(mask, jnp.where(mask & (place < stop), float(n), 0.0))

  return jax.vmap(row)(maskable)


def quadrature(keys, maskable, j, n) -> Draw:
  """`exact_k` at n fixed noise levels, the midpoints (j + 1/2) / n.

  Not random where the levels are concerned, and exact in the mean where n is
  the number of tokens; with fewer levels an ELBO with the midpoint rule's
  error. The idea is EBPO's (arXiv 2602.08676) and GDPO's (arXiv 2510.08554);
  their nodes are not the same.
  """
  def row(key, maskable):
    m = count(maskable)
    k = (2 * j + 1) * m // (2 * n) + 1
    mask = maskable & (ranks(jax.random.fold_in(key, j), maskable) < k)
    return Draw(mask, jnp.where(mask, m / k, 0.0))

  return jax.vmap(row)(keys, maskable)


def truncated(keys, maskable, j, n, *, least: float = 0.5) -> Draw:
  """`stratified` over k from `least` m to m only: the noisier levels.

  A sampler that fills the last tokens in one step never asks for the levels
  below. Dropping them drops the largest weights, hence variance; but the sum
  is an ELBO only of a model whose log-probs do not depend on the mask. Source:
  a reconstruction of STP (arXiv 2602.08905).
  """

  def row(key, maskable):
    m = count(maskable)
    low = jnp.clip(jnp.ceil(least * m - 1e-3).astype(jnp.int32), 1, m)
    levels = m - low + 1
    offset = jax.random.randint(jax.random.fold_in(key, n), (), 0, levels)
    k = low + (offset + j * levels // n) % levels
    mask = maskable & (ranks(jax.random.fold_in(key, j), maskable) < k)
    return Draw(mask, jnp.where(mask, m / k, 0.0))

  return jax.vmap(row)(keys, maskable)


def block(keys, maskable, j, n, *, block_length: int = 32) -> Draw:
  """One block partly masked, those before it clean, those after it masked.

  The block is the j-th of a random order of the row's blocks with a token to
  mask, again and again where n is more than there are; within it the number of
  masked tokens is uniform. Only what is masked counts, with weight 1. Source:
  SPG (arXiv 2510.09541), whose code also counts the blocks that follow.

  Raises:
    ValueError: the canvas is not a whole number of blocks.
  """
  del n
  t = maskable.shape[-1]
  if t % block_length:
    raise ValueError(f"block_length {block_length} does not divide {t} tokens")

  def row(key, maskable):
    key_order, key_draw = jax.random.split(key)
    key_k, key_mask = jax.random.split(jax.random.fold_in(key_draw, j))
    used = jnp.any(maskable.reshape(-1, block_length), -1)
    order = jnp.argsort(
      jnp.where(used, jax.random.uniform(key_order, used.shape), 2.0))
    chosen = order[j % count(used)]
    at = jnp.arange(t) // block_length
    inside = maskable & (at == chosen)
    k = jax.random.randint(key_k, (), 1, count(inside) + 1)
    mask = (inside & (ranks(key_mask, inside) < k)) | (maskable & (at > chosen))
    return Draw(mask, mask.astype(jnp.float32))

  return jax.vmap(row)(keys, maskable)


def trace(steps, maskable, j, n, *, shrink: int = 1) -> Draw:
  """Slice j of the decode trace: what its steps committed, as they saw it.

  Consecutive steps are merged `shrink` at a time; masked is what the slice's
  first step or a later one committed, and what counts is what the slice did,
  with weight n. n slices have to cover all steps. Source: TraceRL (arXiv
  2509.06949); with `shrink` 1 also CJ-GRPO (arXiv 2509.23924).

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    maskable: [b, t] bool.
    j: the slice.
    n: number of slices.
    shrink: steps per slice.
  """
  at = steps // shrink
  mask = maskable & (at >= j)
  return Draw(mask, jnp.where(mask & (at == j), float(n), 0.0))


def forks(steps, maskable, j, n) -> Draw:
  """Fork j of the decode trace: one token, given what was there before it.

  A token that was committed without being sure of is a fork; all others count
  as determined by the forks before them. Weight n. Rows with fewer forks have
  empty draws. Source: ForkGRPO, Fork-dLLM.

  Args:
    steps: [b, t] int32, from `fork_steps`.
    maskable: [b, t] bool.
    j: the fork, from left to right in time.
    n: number of draws, at least the greatest number of forks.
  """
  mask = maskable & (steps >= 2 * j)
  return Draw(mask, jnp.where(mask & (steps == 2 * j), float(n), 0.0))


def fork_steps(steps, unsure) -> jax.Array:
  """Places between forks, [b, t] int32: 2 j for fork j, 2 j + 1 after it.

  -1 before the first fork, also where the canvas had a token already.

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    unsure: [b, t] bool, the forks; at most one a step.
  """
  def row(steps, unsure):
    before = unsure[None] & (steps[None] <= steps[:, None])
    return 2 * jnp.sum(before, -1) - 1 - unsure

  return jax.vmap(row)(steps, unsure).astype(jnp.int32)


def prompt_noise(keys, live, j, n, rate: float) -> jax.Array:
  """Which prompt tokens draw j hides, each with probability `rate`.

  diffu-GRPO's perturbation (arXiv 2504.12216), also wd1's and SPG's.

  Args:
    keys: [b], those of the draws.
    live: [b, p] bool, the prompts' tokens.
    j: the draw.
    n: number of draws; keeps the keys apart from those of the draws.
    rate: in 0..1.
  """
  def row(key, live):
    key = jax.random.fold_in(key, n + 1 + j)
    return live & (jax.random.uniform(key, live.shape) < rate)

  return jax.vmap(row)(keys, live)


PROCESSES: dict[str, Callable[..., Draw]] = {
  **forward_process.PROCESSES,
  "all_masked": all_masked,
  "coupled": coupled,
  "quadrature": quadrature,
  "random_ratio": random_ratio,
  "left_to_right": left_to_right,
  "block": block,
  "truncated": truncated,
}

# These take [b, t] steps of the decode trace where the others take keys.
OF_TRACE: dict[str, Callable[..., Draw]] = {"trace": trace, "forks": forks}
