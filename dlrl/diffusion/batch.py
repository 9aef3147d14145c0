"""Completions to learn from, and how they are split and repeated."""

import dataclasses
from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from dlrl.diffusion import token_logps


class Routing(NamedTuple):
  """Experts of completions, in passes of `models.mlp.routes`.

  Attributes:
    shared: of the passes that draws share, `scoring.prepare`, [b, m] each; m
      differs. Those of a prompt are repeated for each of its completions.
    noisy: of the pass of each draw, [b, n_mc, m].
  """

  shared: tuple[jax.Array, ...]
  noisy: jax.Array


@flax.struct.dataclass
class Batch:
  """Completions to learn from; arrays with rows b, groups contiguous.

  Attributes:
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    completion: [b, t] int32.
    maskable: [b, t] bool, the tokens that draws may mask: all but a prior's.
    keys: [b] keys of the Monte-Carlo draws.
    advantage: [b] fp32; None until the completions have rewards.
    trace: [b, t] int32, the denoising step that committed each token; only
      forward processes that follow the trace need it.
    old_logps: fp32, from `batch_logps` of the parameters that made the rollout:
      log-probs [b, n_mc, t], scores [b, n_mc], or means [b, t]. None if these
      are the parameters trained.
    old_scores: [b, n_mc] fp32, the draws' scores beside means.
    ref_logps: as `old_logps`, under the reference policy; None if there is
      none.
    counted: [b, t] bool, those of the maskable tokens whose likelihood counts;
      None: all of them.
    tokens_per_forward: [b] fp32, see `sampling.speed`; only rewards need it.
    steps: [b, t] int32, the denoising steps where `trace` counts forks instead;
      otherwise None. Only `rollout.comparison` needs them.
    drawn: what the tokens were drawn from, [b, t], where the forward process
      follows the trace; their log-probs are under the same distribution.
    routing: a `Routing`, the experts that passes replay; None: they choose.
  """

  prompt: jax.Array
  prompt_length: jax.Array
  completion: jax.Array
  maskable: jax.Array
  keys: jax.Array
  # Arrays, or None; typed as Any because every use knows which.
  advantage: Any = None
  trace: Any = None
  old_logps: Any = None
  old_scores: Any = None
  ref_logps: Any = None
  counted: Any = None
  tokens_per_forward: Any = None
  steps: Any = None
  drawn: token_logps.Drawn = token_logps.MODEL
  routing: Any = None

  @property
  def valid(self) -> jax.Array:
    """The tokens whose likelihood counts, [b, t] bool."""
    valid: jax.Array = self.maskable if self.counted is None else self.counted
    return valid


def split(tree: Any, rows: int) -> Any:
  """Arrays [b, ...] as [b / rows, rows, ...]; in one part if b is smaller."""
  return jax.tree.map(
    lambda x: x.reshape(-1, min(rows, x.shape[0]), *x.shape[1:]), tree)


def epochs(batch: Batch, n: int) -> Batch:
  """The batch n times, [n, b, ...], each time with draws of its own."""
  times: Batch = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (n, *x.shape)), batch)
  if n == 1:
    return times
  keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(
    batch.keys, jnp.arange(n))
  return dataclasses.replace(times, keys=keys)


def repeated(batch: Batch, k: int) -> Batch:
  """Every row k times, after one another: a device keeps its completions."""
  rows: Batch = jax.tree.map(lambda x: merged(jnp.broadcast_to(
    x[:, None], (x.shape[0], k, *x.shape[1:]))), batch)
  return rows


def merged(x: jax.Array) -> jax.Array:
  """[b, k, ...] as [b k, ...]."""
  return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
