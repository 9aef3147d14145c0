"""Experts of tokens, recorded in a pass through the layers and replayed.

Source: routing replay (arXiv 2510.11370, 2512.01374).
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

_Result = TypeVar("_Result")


def recorded(
  model: Any, fn: Callable[[Any], _Result]
) -> tuple[_Result, tuple[jax.Array, ...]]:
  """Records the experts that tokens have in the passes of a function.

  Args:
    model: a `transformer.Model` with experts.
    fn: takes the model. Its passes through the layers may not be in a loop, or
      jitted, inside of it; nor compute some `columns` only.

  Returns:
    What `fn` returns; and of each pass, in their order, the experts of all
    columns, with padding: [b, layers * columns * k] uint8, or uint16 if there
    are more than 256, of the layers that have experts. Flat, because TPUs would
    pad an axis of k to 128.
  """
  found: list[jax.Array] = []
  result = fn(dataclasses.replace(model, routes=found))
  return result, tuple(x.swapaxes(0, 1).reshape(x.shape[1], -1) for x in found)


def replaying(model: Any, passes: Sequence[jax.Array]) -> Any:
  """The model, whose next passes have these experts instead of their own.

  Weights of experts are computed as ever, with gradients.

  Args:
    model: a `transformer.Model` with experts.
    passes: of each pass, in their order, what `recorded` gives.
  """
  cfg = model.cfg
  layers = cfg.layers - cfg.experts.dense_layers
  return dataclasses.replace(model, routes=iter([
    x.reshape(x.shape[0], layers, -1, cfg.experts.per_token).swapaxes(0, 1)
    for x in passes]))


def attach(
  network: Any, routes: list[jax.Array] | Iterator[jax.Array] | None
) -> None:
  """Has a pass of a network record its experts or replay those of another.

  Args:
    network: a `layers.Transformer` for a single pass; changed in place.
    routes: a list gets the experts [layers, b, columns, k] of the pass; from
      an iterator they are taken; None: neither.
  """
  if routes is None:
    return
  router = network.layers.mlp.router
  if isinstance(routes, list):
    router.records, network.routes = True, routes
  else:
    router.given = nnx.Variable(next(routes))


def dtype(experts: int) -> Any:
  """The dtype that experts are recorded in; `experts` is their number."""
  return jnp.uint8 if experts <= 256 else jnp.uint16
