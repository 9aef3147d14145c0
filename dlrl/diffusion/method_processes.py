"""Forward processes of methods that are not plain ELBO estimates.

They have the signature of `forward_process`. Their weights say how often a
token counts: the mean over draws of `weight * log-prob` is what the method
calls the token's log-prob.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrl import keys as keys_lib
from dlrl.diffusion import forward_process
from dlrl.diffusion.forward_process import Draw
from dlrl.diffusion.forward_process import Index
from dlrl.diffusion.forward_process import by_row
from dlrl.diffusion.forward_process import count
from dlrl.diffusion.forward_process import randint
from dlrl.diffusion.forward_process import ranks
from dlrl.diffusion.forward_process import subset
from dlrl.diffusion.forward_process import uniform
from dlrl.diffusion.forward_process import weighted


def all_masked(
  keys: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Masks every token, weight 1: diffu-GRPO's one pass (arXiv 2504.12216)."""
  del keys, j, n
  return Draw(maskable, maskable.astype(jnp.float32))


@by_row
def coupled(key: jax.Array, maskable: jax.Array, j: Index, n: int) -> Draw:
  """Masks, in triples of draws: all tokens, a random part, the remaining part.

  The part's ratio is r ~ U(0.2, 0.8). Weights 3/2, 3/(2 r) and 3/(2 (1 - r)):
  the mean over a triple is coupled-GRPO's token log-prob (arXiv 2506.20639).
  n should be a multiple of 3.
  """
  del n
  key_r, key_mask = jax.random.split(jax.random.fold_in(key, j // 3))
  r = uniform(key_r, minval=0.2, maxval=0.8)
  part = uniform(key_mask, maskable.shape) < r
  # Draws of a triple share r and the part, because j // 3 is in their key and j
  # is not.
  kind = j % 3
  mask = maskable & jnp.where(
    kind == 0, True, jnp.where(kind == 1, part, ~part))
  ratio = jnp.where(kind == 0, 1.0, jnp.where(kind == 1, r, 1 - r))
  return weighted(mask, 1.5 / ratio)


@by_row
def random_ratio(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Masks each token with probability r_j, weight 1, as UniGRPO does.

  r_j = (r_0 + j / n) mod 1 with r_0 ~ U(0, 1): the first noise level is random
  and the others are spaced evenly. Source: arXiv 2505.15809.
  """
  r_0 = uniform(keys_lib.level(key, n))
  r = (r_0 + jnp.asarray(j, jnp.float32) / n) % 1.0
  noise = uniform(jax.random.fold_in(key, j), maskable.shape)
  mask = maskable & (noise < r)
  return Draw(mask, mask.astype(jnp.float32))


@by_row
def left_to_right(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Scores part j of n of the tokens given those before it.

  The part and everything after it are masked; only the part counts, with weight
  n, so that the mean over draws is the sum over tokens. With n the number of
  tokens it is JustGRPO's exact likelihood of decoding from left to right (arXiv
  2601.15165).
  """
  del key
  m = count(maskable)
  place = jnp.cumsum(maskable, dtype=jnp.int32) - 1
  start, stop = j * m // n, (j + 1) * m // n
  mask = maskable & (place >= start)
  return Draw(mask, weighted(mask & (place < stop), n).weight)


@by_row
def quadrature(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """`exact_k` at n fixed noise levels, the midpoints (j + 1/2) / n.

  The masks are random, the noise levels are not. Exact in the mean if n is the
  number of tokens; with fewer levels the ELBO has the error of the midpoint
  rule. The idea is from EBPO (arXiv 2602.08676) and GDPO (arXiv 2510.08554),
  which use other nodes.
  """
  m = count(maskable)
  k = (2 * j + 1) * m // (2 * n) + 1
  return subset(jax.random.fold_in(key, j), maskable, k, m / k)


@by_row
def truncated(
  key: jax.Array, maskable: jax.Array, j: Index, n: int, *, least: float = 0.5
) -> Draw:
  """`stratified` over k from `least` m to m: only the noisier levels.

  A sampler that fills the last tokens in one step never uses the lower levels.
  Dropping them drops the largest weights and so reduces the variance, but the
  estimate is an ELBO only for a model whose log-probs do not depend on the
  mask. Source: a reconstruction of STP (arXiv 2602.08905).
  """
  m = count(maskable)
  # 1e-3: fp32 may round least * m up past the integer that it should be.
  low = jnp.ceil(least * m.astype(jnp.float32) - 1e-3)
  low = jnp.clip(low.astype(jnp.int32), 1, m)
  levels = m - low + 1
  offset = randint(keys_lib.level(key, n), 0, levels)
  k = low + (offset + j * levels // n) % levels
  return subset(jax.random.fold_in(key, j), maskable, k, m / k)


@by_row
def block(
  key: jax.Array, maskable: jax.Array, j: Index, n: int, *,
  block_length: int = 32,
) -> Draw:
  """Masks part of one block and all later blocks; earlier blocks are visible.

  The row's blocks that have a maskable token are visited in a random order,
  again and again if n exceeds their number. Within a block the number of masked
  tokens is uniform. Every masked token, of later blocks too, has weight 1.
  Source: SPG (arXiv 2510.09541) and its code, in which what follows the first
  end-of-text token is masked in every draw.

  Raises:
    ValueError: the canvas is not a whole number of blocks.
  """
  del n
  t = maskable.shape[-1]
  if t % block_length:
    raise ValueError(
      f"block: block_length {block_length} does not divide a canvas of {t} "
      "tokens; choose a divisor")
  key_order, key_draw = jax.random.split(key)
  key_k, key_mask = jax.random.split(jax.random.fold_in(key_draw, j))
  used = jnp.any(maskable.reshape(-1, block_length), -1)
  order = jnp.argsort(
    jnp.where(used, uniform(key_order, used.shape), 2.0)).astype(jnp.int32)
  chosen = order[j % count(used)]
  at = jnp.arange(t, dtype=jnp.int32) // block_length
  inside = maskable & (at == chosen)
  k = randint(key_k, 1, count(inside) + 1)
  mask = (inside & (ranks(key_mask, inside) < k)) | (maskable & (at > chosen))
  return Draw(mask, mask.astype(jnp.float32))


def trace(
  steps: jax.Array, maskable: jax.Array, j: Index, n: int, *, shrink: int = 1
) -> Draw:
  """Slice j of the decode trace: its committed tokens, as its steps saw them.

  A slice is `shrink` consecutive denoising steps. Tokens that the slice or a
  later one committed are masked; those of the slice count, with weight n.
  n slices have to cover all steps. Source: TraceRL (arXiv 2509.06949); with
  `shrink` 1 also CJ-GRPO (arXiv 2509.23924).

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    maskable: [b, t] bool.
    j: the slice.
    n: number of slices.
    shrink: steps per slice.
  """
  at = steps // shrink
  mask = maskable & (at >= j)
  return Draw(mask, weighted(mask & (at == j), n).weight)


def forks(
  steps: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Fork j of the decode trace: one token, given those committed before it.

  A fork is a token that was committed with low confidence; all other tokens
  count as determined by the forks before them. Weight n. Rows with fewer forks
  have empty draws. Source: ForkGRPO, Fork-dLLM.

  Args:
    steps: [b, t] int32, from `fork_steps`.
    maskable: [b, t] bool.
    j: the fork, in order of time.
    n: number of draws, at least the largest number of forks.
  """
  mask = maskable & (steps >= 2 * j)
  return Draw(mask, weighted(mask & (steps == 2 * j), n).weight)


def fork_steps(steps: jax.Array, unsure: jax.Array) -> jax.Array:
  """Numbers tokens by forks, [b, t] int32: 2 j for fork j, 2 j + 1 after it.

  -1 for tokens before the first fork and for those already in the canvas.

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    unsure: [b, t] bool, the forks; at most one per step.
  """
  def row(steps: jax.Array, unsure: jax.Array) -> jax.Array:
    before = unsure[None] & (steps[None] <= steps[:, None])
    return (2 * jnp.sum(before, -1, dtype=jnp.int32) - 1
            - unsure.astype(jnp.int32))

  return jax.vmap(row)(steps, unsure)


def prompt_noise(
  keys: jax.Array, live: jax.Array, j: Index, n: int, rate: float
) -> jax.Array:
  """Prompt tokens that draw j hides, each with probability `rate`, [b, p] bool.

  diffu-GRPO's perturbation (arXiv 2504.12216), which wd1 and SPG also use.

  Args:
    keys: [b], the keys of the draws.
    live: [b, p] bool, the prompts' tokens.
    j: the draw.
    n: number of draws; no key depends on it.
    rate: in 0..1.
  """
  del n

  def row(key: jax.Array, live: jax.Array) -> jax.Array:
    key = jax.random.fold_in(keys_lib.of(key, keys_lib.Draws.PROMPT), j)
    return live & (uniform(key, live.shape) < rate)

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

# These draw from the tokens that count alone, and all others that could be
# masked are, in every draw. With other processes the tokens that do not count
# are masked like those that do, but have no weight.
HIDES_REST = frozenset({block})

# Their first argument is the steps of the decode trace [b, t] instead of keys.
OF_TRACE: dict[str, Callable[..., Draw]] = {"trace": trace, "forks": forks}
