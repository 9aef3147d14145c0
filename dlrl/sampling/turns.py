"""Decodes a batch in slots: rows that wait replace rows that have ended.

A row takes as many steps as it needs. Decoded all at once, all rows are
computed until the last one has ended. In slots, a row leaves as soon as it has
ended, and one that waits takes its place. No row depends on the
rows that are decoded beside it, so the number of slots changes no token.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling.steps import DecodeState
from dlrl.sampling.steps import Steps

# Takes one step or several: (steps, state) -> state.
Part = Callable[[Steps, DecodeState], DecodeState]


class Slots(NamedTuple):
  """The rows in slots, the rows that wait, and the state of the batch.

  Attributes:
    row: [s] int32, the row in each slot.
    waiting: [b] bool, the rows that no slot has had.
    state: of all rows.
  """

  row: jax.Array
  waiting: jax.Array
  state: DecodeState


def size(slots: int, rows: int) -> int:
  """Rows that are decoded at a time, of `rows`; for `slots` = 0, all.

  A multiple of the devices that rows are split over.
  """
  parts = mesh_lib.batch_parts(rows)
  return min(rows, -(-slots // parts) * parts) or rows


def all_at_once(
  steps: Steps, state: DecodeState, part: Part, stop: int
) -> DecodeState:
  """Decodes all rows up to column `stop`."""
  return jax.lax.while_loop(
    lambda state: jnp.any(steps.unfinished(state, stop)),
    lambda state: part(steps, state), state)


def take(
  steps: Steps, state: DecodeState, part: Part, stop: int, size: int
) -> DecodeState:
  """Decodes all rows up to column `stop`, `size` at a time.

  Args:
    steps: the steps of all rows.
    state: of all rows.
    part: after it, a row that has ended may leave its slot.
    stop: a row takes a turn if it needs a step in the columns before this.
    size: number of slots.
  """
  def turn(slots: Slots) -> Slots:
    row, waiting = _refilled(slots, steps.unfinished(slots.state, stop))
    in_slots = steps.of(row)

    def full(state: DecodeState) -> jax.Array:
      going = in_slots.unfinished(state, stop)
      return jnp.any(going) & ~(jnp.any(~going) & jnp.any(waiting))

    state = jax.lax.while_loop(
      full, lambda state: part(in_slots, state), _rows(slots.state, row))
    return Slots(row, waiting, _put(slots.state, row, state))

  rows = jnp.arange(steps.free.shape[0], dtype=jnp.int32)
  waiting = steps.unfinished(state, stop) & (rows >= size)
  return jax.lax.while_loop(
    lambda slots: jnp.any(steps.unfinished(slots.state, stop)), turn,
    Slots(rows[:size], waiting, state)).state


def fill(steps: Steps, state: DecodeState, size: int) -> DecodeState:
  """Fills the masks of all rows, `size` at a time, each in one pass."""
  if size == steps.free.shape[0]:
    return steps.fill(state)

  def masked(state: DecodeState) -> jax.Array:
    return jnp.any(state.completion == steps.mask_id, 1)

  def turn(state: DecodeState) -> DecodeState:
    row = jnp.argsort(~masked(state))[:size].astype(jnp.int32)
    return _put(state, row, steps.of(row).fill(_rows(state, row)))

  return jax.lax.while_loop(lambda state: jnp.any(masked(state)), turn, state)


def _refilled(
  slots: Slots, going: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Puts rows that wait into the slots of rows [b] that do not go on.

  Returns:
    The rows in slots, and those that still wait.
  """
  waiting = slots.waiting
  free = ~going[slots.row]
  turn = jnp.cumsum(free) - 1
  new = free & (turn < jnp.sum(waiting))
  next_rows = jnp.argsort(~waiting).astype(jnp.int32)
  row = jnp.where(new, next_rows[jnp.maximum(turn, 0)], slots.row)
  return row, waiting.at[row].set(False)


def _rows(state: DecodeState, row: jax.Array) -> DecodeState:
  """The state of some rows [s]."""
  # Few numbers are moved between devices, and only as a row leaves: prompts,
  # canvases and traces. Hidden states stay where their rows are.
  return _each(lambda x: mesh_lib.shard_batch(x[row]), state)


def _put(
  state: DecodeState, row: jax.Array, new: DecodeState
) -> DecodeState:
  """Writes the state of some rows [s] back."""
  return _each(lambda x, y: x.at[row].set(y), state, new)._replace(
    forwards=new.forwards)


def _each(fn: Callable[..., jax.Array], *states: DecodeState) -> DecodeState:
  """Maps arrays of rows; `forwards` is of the batch."""
  mapped: DecodeState = jax.tree.map(
    lambda x, *others: fn(x, *others) if x.ndim else x, *states)
  return mapped
