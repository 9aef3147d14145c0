"""Forward processes of block-diffusion models, and their exact ELBO.

Blocks of `block_length` tokens are counted from the first token of a row, so
that the last prompt tokens may share a block with the first of the response.
Given all blocks before it, a block of l response tokens has the bound

    E_{k ~ U{1..l}} E_{|S| = k} (l / k) sum_{i in S} log p(y_i | y_{not S})

on its log-likelihood, and the ELBO of the response is the sum over blocks.
Every draw masks tokens in all blocks at once: a noisy block sees the blocks
before it without noise, so the draws of different blocks do not interact.

A process is a function `(keys [b], maskable [b, t], j, n, *, offset [b],
block_length) -> Draw` that gives draw j of n. `offset` is the number of prompt
tokens in the block of the first response token. Those in `PROCESSES` are
unbiased.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlrl import keys as keys_lib
from dlrl.diffusion import elbo
from dlrl.diffusion import forward_process
from dlrl.diffusion import model_input
from dlrl.diffusion import token_logps
from dlrl.diffusion.forward_process import Draw
from dlrl.diffusion.forward_process import Index

Process = Callable[..., Draw]

# Above this length there are more masks of a block than anybody would draw.
MAX_EXACT = 4


def patterns(block_length: int) -> int:
  """The number of ways to mask some tokens of a block: 15 for 4 tokens."""
  return (1 << block_length) - 1


def exact(
  keys: jax.Array, maskable: jax.Array, j: Index, n: int, *,
  offset: jax.Array, block_length: int,
) -> Draw:
  """Masks the j-th of all sets of tokens, in every block at once.

  Not random: the mean over all draws is the ELBO itself, and its gradient has
  no Monte-Carlo error. In a block of m response tokens a set of k has the
  weight n / (k C(m, k)). Blocks with m < `block_length` are idle in the later
  draws.

  Raises:
    ValueError: n is not `patterns(block_length)`.
  """
  del keys
  if n != patterns(block_length):
    raise ValueError(
      f"block_exact: n is {n}, but blocks of {block_length} tokens have "
      f"{patterns(block_length)} masks; use that many draws")
  choose = jnp.array([[math.comb(m, k) for k in range(block_length + 1)]
                      for m in range(block_length + 1)], jnp.float32)
  chosen = jnp.asarray(j, jnp.int32) + 1  # its bits are the masked tokens

  def block(maskable: jax.Array) -> Draw:
    place = jnp.cumsum(maskable) - 1
    bits = (chosen >> jnp.arange(block_length, dtype=jnp.int32)) & 1
    m, k = jnp.sum(maskable, dtype=jnp.int32), jnp.sum(bits)
    mask = maskable & (bits[place] == 1) & (chosen < 1 << m)
    return forward_process.weighted(
      mask, n / jnp.maximum(k * choose[m, k], 1.0))

  drawn = jax.vmap(jax.vmap(block))(_grid(maskable, offset, block_length))
  return Draw(*(_on_canvas(x, offset, maskable.shape[1]) for x in drawn))


def _each_block(process: forward_process.Process) -> Process:
  """Draws from every block as `process` draws from a response."""

  @functools.wraps(process)
  def draw(
    keys: jax.Array, maskable: jax.Array, j: Index, n: int, *,
    offset: jax.Array, block_length: int,
  ) -> Draw:
    grid = _grid(maskable, offset, block_length)
    b, m, size = grid.shape
    block_keys = jax.vmap(lambda key: jax.vmap(
      jax.random.fold_in, (None, 0))(
        keys_lib.of(key, keys_lib.Draws.BLOCKS), jnp.arange(m)))(keys)
    drawn = process(block_keys.reshape(-1), grid.reshape(-1, size), j, n)
    return Draw(*(_on_canvas(x.reshape(b, m, size), offset, maskable.shape[1])
                  for x in drawn))

  return draw


def _whole_response(process: forward_process.Process) -> Process:
  """Draws from the response whatever its blocks are."""

  @functools.wraps(process)
  def draw(
    keys: jax.Array, maskable: jax.Array, j: Index, n: int, *,
    offset: jax.Array, block_length: int,
  ) -> Draw:
    del offset, block_length
    return process(keys, maskable, j, n)

  return draw


def rounds(
  steps: jax.Array, maskable: jax.Array, j: Index, n: int, *,
  offset: jax.Array, block_length: int, shrink: int = 1,
) -> Draw:
  """Round j of the decode trace: step j of every block at once.

  A round masks in each block the tokens of its step j and of later ones, as the
  sampler saw the block then; those of step j count, with weight n. A block has
  at most `block_length` steps, so that as many rounds give the exact
  likelihood of what the sampler did. Source: TraceRL (arXiv 2509.06949).

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    maskable: [b, t] bool.
    j: the round.
    n: number of rounds.
    offset: [b] int.
    block_length: tokens per block.
    shrink: consecutive steps of a block that one round takes together.
  """
  def block(steps: jax.Array, live: jax.Array) -> jax.Array:
    # Distinct steps before each token's own: the first of a step counts.
    earlier = live[None] & (steps[None] < steps[:, None])
    same = live[None] & (steps[None] == steps[:, None])
    first = live & (jnp.argmax(same, -1) == jnp.arange(block_length))
    return jnp.sum(earlier & first[None], -1, dtype=jnp.int32)

  grids = (_grid(x, offset, block_length) for x in (steps, maskable))
  rank = _on_canvas(
    jax.vmap(jax.vmap(block))(*grids), offset, maskable.shape[1]) // shrink
  mask = maskable & (rank >= j)
  return Draw(mask, forward_process.weighted(mask & (rank == j), n).weight)


def shares(
  steps: jax.Array, counted: jax.Array, *, offset: jax.Array,
  block_length: int,
) -> jax.Array:
  """Each token's share of its response, whose steps have equal shares.

  A step of a block is what was committed in it at once. Its tokens have equal
  shares of the step's. Source: CJ-GRPO (arXiv 2509.23924), whose objective is a
  mean over steps of means over tokens.

  Args:
    steps: [b, t] int32, the denoising step that committed each token.
    counted: [b, t] bool, the tokens that count; others have no share.
    offset: [b] int.
    block_length: tokens per block.

  Returns:
    [b, t] fp32; the sum of a row is 1, or 0 if no token counts.
  """
  def block(steps: jax.Array, live: jax.Array) -> jax.Array:
    same = live[None] & (steps[None] == steps[:, None])
    size = jnp.sum(same, -1, dtype=jnp.float32)
    return jnp.where(live, 1 / jnp.maximum(size, 1), 0.0)

  grids = (_grid(x, offset, block_length) for x in (steps, counted))
  each = _on_canvas(
    jax.vmap(jax.vmap(block))(*grids), offset, steps.shape[1])
  # Summed up over its tokens, a step is 1.
  return each / jnp.maximum(jnp.sum(each, -1, keepdims=True), 1)


# Values of `learn.forward_process` for block-diffusion models.
PROCESSES: dict[str, Process] = {
  # All masks of a block, one after the other: no Monte-Carlo error.
  "block_exact": exact,
  # The number of masked tokens of each block is spread evenly over the draws:
  # EBPO (arXiv 2602.08676).
  "block_stratified": _each_block(forward_process.stratified),
  # Few masked tokens are drawn more often and weigh less, and the draws tile
  # the block.
  "block_balanced": _each_block(forward_process.balanced),
  # Pairs of a mask and its inverse, as LLaDA2's fine-tuning makes them.
  "block_complementary": _each_block(forward_process.complementary),
  # One number of masked tokens for the response: BGPO (arXiv 2510.11683). In a
  # block their number is uniform, too, so the weights are the same.
  "block_global": _whole_response(forward_process.stratified),
  # One noise level for the response, each token by chance: SDAR's fine-tuning
  # (arXiv 2510.06303), without its redraw of empty masks, which is biased.
  "block_bernoulli": _whole_response(forward_process.continuous),
}

# Their first argument is the steps of the decode trace [b, t] instead of keys.
OF_TRACE: dict[str, Process] = {"block_trace": rounds}


def until(end: jax.Array, offset: jax.Array, block_length: int) -> jax.Array:
  """The columns that exist where a text ends with its block, [b, t] bool.

  Args:
    end: [b, t] bool, tokens that end a text.
    offset: [b] int, prompt tokens in the block of the first column.
    block_length: tokens per block.
  """
  ended = jnp.any(_grid(end, offset, block_length), -1, keepdims=True)
  before = jnp.cumsum(ended, 1) - ended
  return _on_canvas(jnp.broadcast_to(
    before == 0, (*before.shape[:2], block_length)), offset, end.shape[1])


def noisy_hidden(
  model: Any, params: Any, noisy: jax.Array, prompt: jax.Array,
  prompt_length: jax.Array, lengths: jax.Array, clean: Any,
) -> jax.Array:
  """Hidden states [b, t, d] of a noisy canvas, each block after clean ones.

  Args:
    model: see `models.transformer.Model`.
    params: the model's parameters.
    noisy: [b, t] int, completions with mask tokens.
    prompt: [b, p] int, padded on the right.
    prompt_length: [b] int.
    lengths: [b] int, tokens of each prompt with its completion.
    clean: from `Model.clean_rows`.
  """
  size = model.cfg.block_length
  row = model_input.blocks(noisy, prompt, prompt_length, size)
  hidden = model.noisy_stream(params, row.ids, row.positions, lengths, clean)
  return model_input.canvas_of(hidden, prompt_length, size, noisy.shape[1])


def exact_elbo(
  model: Any, params: Any, prompt: jax.Array, prompt_length: jax.Array,
  completion: jax.Array, completion_length: jax.Array | None = None, *,
  chunk: int = 2048,
) -> jax.Array:
  """The ELBO of completions under a block-diffusion model, without sampling.

  Every mask of a block is one noisy stream: 2^B - 1 of them for blocks of B
  tokens, one at a time, over one clean stream. Differentiable in `params`; the
  backward pass computes each stream again, so that memory does not depend on
  their number.

  Args:
    model: see `models.transformer.Model`; `cfg.block_length` is B.
    params: the model's parameters.
    prompt: [b, p] int, padded on the right.
    prompt_length: [b] int.
    completion: [b, t] int, without mask tokens.
    completion_length: [b] int, its tokens that exist; None: all t.
    chunk: positions whose logits are in memory at a time.

  Returns:
    [b] fp32, in nats; a lower bound of log p(completion | prompt).

  Raises:
    ValueError: the model has full attention.
  """
  size = model.cfg.block_length
  if not size:
    raise ValueError("exact_elbo: this model has full attention, whose masks "
                     "cannot be enumerated; use dlrl.diffusion.montecarlo")
  prompt, prompt_length, completion = (
    jnp.asarray(x) for x in (prompt, prompt_length, completion))
  t = completion.shape[1]
  if completion_length is None:
    completion_length = jnp.full_like(prompt_length, t)
  lengths = prompt_length + completion_length
  maskable = jnp.arange(t)[None] < jnp.asarray(completion_length)[:, None]
  clean = model.clean_rows(
    params, prompt, prompt_length, completion, lengths)
  n = patterns(size)

  @jax.checkpoint
  def stream(total: jax.Array, j: jax.Array) -> tuple[jax.Array, None]:
    # No keys: this process draws nothing at random.
    mask, weight = exact(
      prompt_length, maskable, j, n, offset=prompt_length % size,
      block_length=size)
    hidden = noisy_hidden(
      model, params, jnp.where(mask, model.mask_id, completion), prompt,
      prompt_length, lengths, clean)
    logps, _ = token_logps.token_logps(
      hidden, model.unembed(params), completion, mask, chunk=chunk)
    return total + elbo.score(logps, weight, 1), None

  zero = jnp.zeros(completion.shape[:1], jnp.float32)
  return jax.lax.scan(stream, zero, jnp.arange(n))[0] / n


def _grid(x: jax.Array, offset: jax.Array, block_length: int) -> jax.Array:
  """[b, t] as blocks [b, m, block_length], with zeros at other columns."""
  m = model_input.blocks_of(x.shape[1], block_length)
  row = jnp.zeros(m * block_length, x.dtype)
  return jax.vmap(lambda x, start: jax.lax.dynamic_update_slice(
    row, x, (start,)).reshape(m, block_length))(x, offset)


def _on_canvas(x: jax.Array, offset: jax.Array, t: int) -> jax.Array:
  """Blocks [b, m, block_length] as a canvas [b, t]."""
  return jax.vmap(lambda x, start: jax.lax.dynamic_slice(
    x.reshape(-1), (start,), (t,)))(x, offset)
