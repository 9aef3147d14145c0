"""Which experts compute a token, and how much each of them counts.

Source: the modeling code published with SDAR-30B-A3B (arXiv 2510.06303) and
LLaDA2.0 (https://github.com/inclusionAI/LLaDA2.X).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.runtime.sharding import by_hand

SCORES = ("softmax", "sigmoid")


class Routing(NamedTuple):
  """The experts of tokens.

  Attributes:
    experts: [..., k] int32, all different.
    weights: [..., k] fp32, in the same order.
  """

  experts: jax.Array
  weights: jax.Array


class Router(nnx.Module):
  """A linear map to scores of experts, in fp32 whatever the model's dtypes.

  `bias` takes part in the choice of experts only and has no gradient. It was
  made by balancing the load in pre-training, and nothing here changes it.
  """

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.cfg = cfg.experts
    # In fp32 rounding already decides between experts that are nearly equal; in
    # bf16 it would for many tokens, differently in each program.
    self.kernel = nnx.Param(nnx.initializers.lecun_normal()(
      rngs.params(), (cfg.width, cfg.experts.number),
      jnp.dtype(cfg.param_dtype)))
    if self.cfg.router == "sigmoid":
      self.bias = nnx.Param(jnp.zeros(cfg.experts.number))

  def logits(self, x: jax.Array) -> jax.Array:
    """Maps [..., d] to the experts' logits [..., e] fp32."""
    kernel = by_hand.whole(self.kernel.get_value(), jnp.float32)
    # The default precision of a product is bf16 on a TPU.
    return jnp.matmul(
      x.astype(jnp.float32), kernel.astype(jnp.float32),
      precision=jax.lax.Precision.HIGHEST)

  def entropy(self, x: jax.Array) -> jax.Array:
    """The entropies [...] in nats of the scores of tokens [..., d].

    Scores are divided by their sum first, where it is not 1.
    """
    score = scores(self.logits(x), self.cfg)
    share = score / jnp.sum(score, -1, keepdims=True)
    return jnp.sum(jax.scipy.special.entr(share), -1)

  def __call__(self, x: jax.Array) -> Routing:
    """Chooses the experts of tokens [..., d]."""
    bias = (self.bias.get_value() if self.cfg.router == "sigmoid" else None)
    return choose(self.logits(x), bias, self.cfg)


def scores(logits: jax.Array, cfg: config.ExpertsConfig) -> jax.Array:
  """The scores of experts, from their logits [..., e] fp32."""
  return {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[cfg.router](
    logits)


def choose(
  logits: jax.Array, bias: jax.Array | None, cfg: config.ExpertsConfig
) -> Routing:
  """Chooses experts by their logits.

  Of several groups of experts, tokens have those `groups_per_token` whose two
  best experts have the largest sum. Of equal experts, the first is chosen.

  Args:
    logits: [..., e] fp32.
    bias: [e], added to the scores by which experts are chosen, not to weights;
      None: nothing is.
    cfg: what the scores, the groups and the weights are.
  """
  score = scores(logits, cfg)
  if bias is None:
    bias = jnp.zeros(score.shape[-1])
  ranked = jax.lax.stop_gradient(score + jnp.broadcast_to(
    bias.astype(jnp.float32), score.shape))
  if cfg.groups > 1:
    grouped = ranked.reshape(*ranked.shape[:-1], cfg.groups, -1)
    best = jnp.sum(jax.lax.top_k(grouped, 2)[0], -1)
    _, kept = jax.lax.top_k(best, cfg.groups_per_token)
    allowed = jnp.any(jax.nn.one_hot(kept, cfg.groups, dtype=bool), -2)
    ranked = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(
      ranked.shape)
  _, experts = jax.lax.top_k(ranked, cfg.per_token)
  # Not by indices, whose gradient TPUs would sort for.
  chosen = jax.nn.one_hot(experts, score.shape[-1], dtype=score.dtype)
  weights = jnp.sum(chosen * score[..., None, :], -1)
  if cfg.normalized:
    # Sigmoids of all chosen experts may underflow.
    weights /= jnp.sum(weights, -1, keepdims=True) + 1e-20
  return Routing(experts, weights * cfg.scale)
