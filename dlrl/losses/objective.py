"""How a loss uses Monte-Carlo draws: per draw, or of a mean over draws.

A *separable* loss is a mean over draws of a term that one draw determines; its
gradient needs one pass over the draws. A *joint* loss is a function `outer` of
the mean over draws of a statistic; it needs a second forward pass. In both
cases `dlrl.diffusion.montecarlo` keeps the activations of one draw only.
"""

from collections.abc import Callable
from typing import Any
from typing import Literal
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.strict import shapes

Metrics = dict[str, jax.Array]  # per response, [b]
LossAndMetrics = tuple[jax.Array, Metrics]  # the loss is per response, [b]

# A loss reads these of the log-probs by other parameters, a rollout's or a
# reference's:
#   tokens  those of each draw
#   scores  `Scored.score` of each draw, [b] in place of log-probs [b, t]
#   means   the weighted mean over draws of each token's, the same in all draws,
#           for a loss that reads nothing but their weighted sums over draws
Others = Literal["tokens", "scores", "means"]


def require_draws(x: jax.Array) -> jax.Array:
  """The array [n, ...]; raises ValueError if n is 0, or there is no n."""
  if not x.ndim:
    raise ValueError("a loss of draws got a scalar; pass an array [n, ...]")
  if not x.shape[0]:
    raise ValueError(
      f"a loss of n = 0 draws (an array has the shape {x.shape}); pass at "
      "least one draw")
  return x


def over_draws(x: jax.Array) -> jax.Array:
  """The mean over the draws of [n, ...]; raises ValueError if n is 0."""
  return jnp.mean(require_draws(x), 0)


def reduce(
  terms: LossAndMetrics, over: Callable[[jax.Array], jax.Array]
) -> LossAndMetrics:
  """`over` applied to the loss and to every metric of, for example, tokens."""
  loss, metrics = terms
  return over(loss), {name: over(x) for name, x in metrics.items()}


class Scored(NamedTuple):
  """One masked copy of each response, scored.

  Attributes:
    logps: [b, t] fp32, log-probs of the true tokens; anything where the weight
      is zero, even -inf.
    old_logps: [b, t] fp32, log-probs under the parameters that generated the
      rollout; constants. What they are may depend on the objective's `others`.
    ref_logps: the same under the reference parameters. None without a
      reference.
    mask: [b, t] bool, the tokens that the model had to predict.
    weight: [b, t] fp32, weights of the forward process, divided by the norm of
      the scores.
  """

  logps: jax.Array
  old_logps: jax.Array
  ref_logps: jax.Array | None
  mask: jax.Array
  weight: jax.Array

  def score(self, logps: jax.Array) -> jax.Array:
    """The draw's ELBO estimate from log-probs [b, t], [b] fp32.

    Of stacked draws [n, b, t] it is [n, b]. An estimate is returned as it is.

    Raises:
      strict.ArgumentError: the log-probs have another shape than the weights.
    """
    if logps.shape == self.weight.shape[:-1]:
      return logps
    shapes.require(
      "Scored.score", weight=(self.weight, "*bt"), logps=(logps, "*bt"))
    return jnp.sum(floats.weighted(logps, self.weight), -1)


class Responses(NamedTuple):
  """Facts about the responses that a loss needs besides their log-probs.

  Attributes:
    advantage: [b] fp32.
    valid: [b, t] bool, the tokens that count.
    tokens: [b] fp32, the mean number of valid tokens per response of the whole
      batch, the same number in every row. A sum over a response's tokens
      divided by it has, as its mean over responses, the mean over all tokens,
      however the batch is split into micro-batches. 1 where the weights are
      shares of a response.
  """

  advantage: jax.Array
  valid: jax.Array
  tokens: jax.Array


class Separable(NamedTuple):
  """A loss that is a mean over draws.

  Attributes:
    loss: gives one draw's loss [b] and metrics [b]; both are averaged over
      draws.
    skips_zero: True if rows with an advantage of zero have no gradient.
    takes_norm: True if scores may be means per token; False if they have to be
      sums over tokens.
    needs_ref: True if the loss reads the reference's log-probs.
    together: 1, because rows do not depend on each other.
    takes_shares: True if weights may be shares of a response, whose sum over
      draws is n, with `Responses.tokens` 1.
    others: what the loss reads of other policies' log-probs, see `Others`.
  """

  loss: Callable[[Scored, Responses], LossAndMetrics]
  skips_zero: bool = True
  takes_norm: bool = False
  needs_ref: bool = False
  together: int = 1
  takes_shares: bool = False
  others: Others = "tokens"


class Joint(NamedTuple):
  """A loss that is a function of means over draws.

  Attributes:
    statistic: gives one draw's statistic, a tree of [b, ...], which is averaged
      over draws.
    outer: maps the mean statistic to the loss [b] and metrics [b].
    skips_zero: True if rows with an advantage of zero have no gradient.
    takes_norm: True if scores may be means per token; False if they have to be
      sums over tokens.
    needs_ref: True if the loss reads the reference's log-probs.
    together: how many consecutive rows `outer` compares with each other; a
      micro-batch has to hold a multiple of it.
    takes_shares: False, as no such loss is a sum over tokens.
    others: what the loss reads of other policies' log-probs, see `Others`.
  """

  statistic: Callable[[Scored, Responses], Any]
  outer: Callable[[Any, Responses], LossAndMetrics]
  skips_zero: bool = True
  takes_norm: bool = False
  needs_ref: bool = False
  together: int = 1
  takes_shares: bool = False
  others: Others = "tokens"


Objective = Separable | Joint


def require_shapes(draw: Scored, rows: Responses) -> None:
  """Checks what an objective is given.

  Raises:
    strict.ArgumentError: an array has another shape than `Scored` and
      `Responses` say.
  """
  sizes = shapes.require(
    "Responses", valid=(rows.valid, "bt"), advantage=(rows.advantage, "b"),
    tokens=(rows.tokens, "b"))
  shapes.require(
    "Scored", sizes, logps=(draw.logps, "bt"),
    old_logps=(draw.old_logps, "bt|b"), ref_logps=(draw.ref_logps, "bt|b"),
    mask=(draw.mask, "bt"), weight=(draw.weight, "bt"))


def of_rows(result: Any, rows: Responses, name: str) -> LossAndMetrics:
  """Checks what an objective returned.

  Args:
    result: the loss [b] and metrics [b].
    rows: the responses, b of them.
    name: what returned it, for messages.

  Raises:
    ValueError: it is something else.
  """
  if not (isinstance(result, tuple) and len(result) == 2
          and isinstance(result[1], dict)):
    raise ValueError(
      f"{name} returned {_kind(result)}; it must return the loss [b] and a "
      "dict of metrics [b]")
  loss, metrics = result
  named = [(f"the metric {key!r}", value) for key, value in metrics.items()]
  for what, value in [("the loss", loss), *named]:
    shape = jnp.shape(value)
    if shape != rows.advantage.shape:
      raise ValueError(
        f"{name} returned {what} with the shape {shape}; it must be [b] = "
        f"{list(rows.advantage.shape)}, one number for each response")
  return loss, metrics


def _kind(result: Any) -> str:
  if isinstance(result, tuple):
    return f"({', '.join(type(x).__name__ for x in result)})"
  return type(result).__name__
