"""Which experts compute a token, and how much each of them counts.

Source: the modeling code published with SDAR-30B-A3B (arXiv 2510.06303) and
LLaDA2.0 (https://github.com/inclusionAI/LLaDA2.X).
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.models.mlp import routes
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

  # Set by `routes.attach`.
  given: Any = None  # the experts of tokens
  records = False

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
    """Chooses the experts of tokens [..., d], or weighs those given."""
    bias = (self.bias.get_value() if self.cfg.router == "sigmoid" else None)
    given = None if self.given is None else self.given.get_value()
    routing = choose(self.logits(x), bias, self.cfg, given)
    if self.records:
      self.chosen = nnx.Intermediate(
        routing.experts.astype(routes.dtype(self.cfg.number)))
    return routing


def scores(logits: jax.Array, cfg: config.ExpertsConfig) -> jax.Array:
  """The scores of experts, from their logits [..., e] fp32."""
  return {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}[cfg.router](
    logits)


def choose(
  logits: jax.Array, bias: jax.Array | None, cfg: config.ExpertsConfig,
  given: jax.Array | None = None,
) -> Routing:
  """Chooses experts by their logits, and weighs them.

  Of several groups of experts, tokens have those `groups_per_token` whose two
  best experts have the largest sum. Of equal experts, the first is chosen.

  Args:
    logits: [..., e] fp32.
    bias: [e], added to the scores by which experts are chosen, not to weights;
      None: nothing is.
    cfg: what the scores, the groups and the weights are.
    given: [..., k] int, experts that were chosen elsewhere; None: choose.
  """
  score = scores(logits, cfg)
  experts = (_best(score, bias, cfg) if given is None
             else given.astype(jnp.int32))
  # Not by indices, whose gradient TPUs would sort for.
  chosen = jax.nn.one_hot(experts, score.shape[-1], dtype=score.dtype)
  weights = jnp.sum(chosen * score[..., None, :], -1)
  if cfg.normalized:
    # Sigmoids of all chosen experts may underflow.
    weights /= jnp.sum(weights, -1, keepdims=True) + 1e-20
  return Routing(experts, weights * cfg.scale)


def _best(
  score: jax.Array, bias: jax.Array | None, cfg: config.ExpertsConfig
) -> jax.Array:
  """The experts [..., k] int32 with the best scores [..., e]; see `choose`."""
  if bias is None:
    bias = jnp.zeros(score.shape[-1])
  ranked = jax.lax.stop_gradient(score + jnp.broadcast_to(
    bias.astype(jnp.float32), score.shape))
  if cfg.groups > 1:
    grouped = ranked.reshape(*ranked.shape[:-1], cfg.groups, -1)
    of_group = jnp.sum(jax.lax.top_k(grouped, 2)[0], -1)
    _, kept = jax.lax.top_k(of_group, cfg.groups_per_token)
    allowed = jnp.any(jax.nn.one_hot(kept, cfg.groups, dtype=bool), -2)
    ranked = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(
      ranked.shape)
  best: jax.Array = jax.lax.top_k(ranked, cfg.per_token)[1]
  return best
