"""Runs users' losses and forward processes once, on shapes without values.

What would fail in the first update fails before anything is allocated. Arrays
have few rows, and as many columns as in the run.
"""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dlrl import losses
from dlrl import strict
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo
from dlrl.own_code import imported

_SEPARABLE = (
  "Separable.loss is called as loss(draw, rows), and returns the loss [b] and "
  "a dict of metrics [b]")
_JOINT = (
  "Joint.statistic is called as statistic(draw, rows), and Joint.outer as "
  "outer(means, rows), which returns the loss [b] and a dict of metrics [b]")
_PROCESS = (
  "it is called as process(keys [b], maskable [b, t], j, n), and returns the "
  "mask [b, t] bool and weights [b, t] float")


def objective(
  make: Any, arguments: Mapping[str, Any], name: str, field: str, columns: int
) -> losses.Objective:
  """The user's objective, after a trial.

  Args:
    make: what `name` imports.
    arguments: of `make`.
    name: the setting's value, for messages.
    field: the setting.
    columns: t, the width of the canvas.

  Raises:
    strict.ConfigError: `make` or the objective fails, or returns something
      else than it should.
  """
  def refuse(problem: str) -> strict.ConfigError:
    return strict.ConfigError(field, name, problem)

  try:
    found = make(**arguments)
  except (Exception, SystemExit) as e:
    raise refuse(f"cannot be called: {imported.said(e)}") from e
  if not isinstance(found, losses.Separable | losses.Joint):
    raise refuse("must be a function that returns losses.Separable or "
                 f"losses.Joint; it returned {type(found).__name__}")
  together = found.together
  if not (isinstance(together, int) and together >= 1):
    raise refuse(f"its `together` is {together!r}; must be at least 1")
  try:
    jax.eval_shape(lambda: _gradient(
      found, _rows(together, columns), columns))
  except (Exception, SystemExit) as e:
    use = _SEPARABLE if isinstance(found, losses.Separable) else _JOINT
    raise refuse(f"fails: {imported.said(e)}; {use}") from e
  return found


def _rows(together: int, columns: int) -> int:
  """As few rows as an objective may have, and another number than columns."""
  return together * (3 if 2 * together == columns else 2)


def _gradient(found: losses.Objective, b: int, t: int) -> Any:
  logps = jnp.zeros((b, t), jnp.float32)
  live = jnp.ones((b, t), bool)
  rows = losses.Responses(
    jnp.zeros(b, jnp.float32), live, jnp.ones(b, jnp.float32))

  def score(logps: jax.Array, j: jax.Array
            ) -> tuple[losses.Scored, dict[str, jax.Array]]:
    del j
    old = jax.lax.stop_gradient(logps)
    return losses.Scored(
      logps, old, old if found.needs_ref else None, live,
      live.astype(jnp.float32)), {}

  return montecarlo.value_and_grad(found, score, rows, logps, 2)


def process(
  found: Any, arguments: Mapping[str, Any], name: str, field: str, *,
  columns: int, n: int, block_length: int,
) -> None:
  """Tries a user's forward process.

  Args:
    found: what `name` imports.
    arguments: those of the process that differ from its defaults.
    name: the setting's value, for messages.
    field: the setting.
    columns: t, the width of the canvas.
    n: number of draws.
    block_length: tokens per block of the model; 0: attention is full.

  Raises:
    strict.ConfigError: it fails, or returns something else than it should.
  """
  b = _rows(1, columns)

  def draw() -> Any:
    of_blocks = dict(
      offset=jnp.zeros(b, jnp.int32), block_length=block_length)
    return found(
      jax.random.split(jax.random.key(0), b), jnp.ones((b, columns), bool),
      jnp.int32(0), n, **arguments,
      **(of_blocks if takes_blocks(found) else {}))

  try:
    drawn = jax.eval_shape(draw)
  except (Exception, SystemExit) as e:
    raise strict.ConfigError(
      field, name, f"fails: {imported.said(e)}; {_PROCESS}") from e
  wanted = (b, columns)
  shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(drawn)]
  fits = (isinstance(drawn, tuple) and len(shapes) == 2
          and [shape for shape, _ in shapes] == [wanted] * 2
          and jnp.issubdtype(shapes[0][1], jnp.bool_)
          and jnp.issubdtype(shapes[1][1], jnp.floating))
  returned = ", ".join(f"{dtype}{list(shape)}" for shape, dtype in shapes)
  strict.require(fits, field, name, f"returned ({returned}) for b = {b} and "
                 f"t = {columns}; {_PROCESS}")


def takes_blocks(found: Callable[..., forward_process.Draw]) -> bool:
  """Whether a user's process is one of blocks: it names `block_length`."""
  return "block_length" in inspect.signature(found).parameters
