"""Takes tokens to the experts that compute them, and back.

Experts are in equal parts on the devices along the mesh axis `expert`, and stay
there. What a device's tokens need of others' experts travels: every device
sends each other one rows (all-to-all), and they come back computed.

Arrays have fixed shapes, and how many rows go to a device depends on the
tokens. So they travel in rounds of at most `capacity` rows per pair of devices.
One round is enough while the load is near its mean; what is left goes in
further rounds, so that no token is dropped, and rounds that nobody needs are
skipped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrl.costs import flops

# Rows that a round has room for, over the mean of those that go from one device
# to another. More would be computed as padding on CPUs, and travel everywhere;
# fewer would need a second round often.
SLACK = 1.25

# Applies experts to rows [n, d] in groups of sizes [e], to [n, d].
Apply = Callable[[jax.Array, jax.Array], jax.Array]


def computed(
  rows: jax.Array, experts: jax.Array, number: int, apply: Apply
) -> jax.Array:
  """Applies to each row its expert.

  Args:
    rows: [n, d], on each device of the axis `expert` its own.
    experts: [n] int32 in 0..number, the experts of the rows; `number`: none.
    number: how many experts there are, on all devices.
    apply: the experts of this device, e of them.

  Returns:
    [n, d]; zero for rows without an expert.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  parts = shape.get("expert", 1)
  order = jnp.argsort(experts, stable=True)
  back = jnp.argsort(order)
  rows, experts = _permuted(rows, order), experts[order]
  y = (_local(rows, experts, number, apply) if parts == 1
       else _sent(rows, experts, number, parts, apply))
  return _permuted(y, back)


def capacity(rows: int, parts: int) -> int:
  """Rows that one of `parts` devices sends each at once, of its `rows`."""
  each = int(np.ceil(SLACK * rows / parts))
  return min(rows, -(-each // 8) * 8)


def _permuted(x: jax.Array, order: jax.Array) -> jax.Array:
  # That no row is taken twice lets the gradient be written instead of added,
  # in any order with the same bits.
  return x.at[order].get(
    unique_indices=True, mode="promise_in_bounds")


def _local(
  rows: jax.Array, experts: jax.Array, number: int, apply: Apply
) -> jax.Array:
  """Applies `number` experts to rows that are in their order."""
  sizes = jnp.bincount(experts, length=number).astype(jnp.int32)
  live = (experts < number)[:, None]
  # Both ways: kernels may write anything, also NaN, where there is no group.
  y = apply(jnp.where(live, rows, 0), sizes)
  return jnp.where(live, y, 0)


def _sent(
  rows: jax.Array, experts: jax.Array, number: int, parts: int, apply: Apply
) -> jax.Array:
  """As `_local`, with experts on several devices."""
  each, n = number // parts, len(rows)
  room = capacity(n, parts)
  device = experts // each  # `parts` for none
  ends = jnp.searchsorted(device, jnp.arange(parts), side="right")
  starts = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])
  rank = jnp.arange(n) - starts[jnp.minimum(device, parts - 1)]

  def one_round(first: jax.Array | int) -> jax.Array:
    """Computes the rows whose rank is in first..first + room - 1."""
    taken = starts[:, None] + first + jnp.arange(room)[None]
    there = taken < ends[:, None]
    taken = jnp.minimum(taken, n - 1)
    wanted = jnp.where(there, experts[taken] % each, each)
    sent = jnp.where(there[..., None], rows[taken], 0)
    arrived, wanted = _swapped(sent), _swapped(wanted)
    order = jnp.argsort(wanted.reshape(-1), stable=True)
    y = _local(_permuted(arrived.reshape(-1, rows.shape[-1]), order),
               wanted.reshape(-1)[order], each, apply)
    y = _swapped(_permuted(y, jnp.argsort(order)).reshape(arrived.shape))
    place = rank - first
    mine = (device < parts) & (place >= 0) & (place < room)
    y = y[jnp.minimum(device, parts - 1), jnp.clip(place, 0, room - 1)]
    return jnp.where(mine[:, None], y, 0)

  first = one_round(0)
  rounds = -(-n // room)
  if rounds == 1:
    return first
  # On all devices alike, because all of them exchange rows.
  most = jax.lax.pmax(
    jnp.max(ends - starts), jax.sharding.get_abstract_mesh().manual_axes)

  def rest(total: jax.Array) -> jax.Array:
    def another(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
      return jax.lax.cond(
        i * room < most, lambda y: y + one_round(i * room), lambda y: y,
        total), None

    return jax.lax.scan(another, total, jnp.arange(1, rounds))[0]

  # Costs of a program are counted without further rounds.
  with jax.named_scope(flops.RARELY):
    result: jax.Array = jax.lax.cond(
      most > room, rest, lambda total: total, first)
  return result


def _swapped(x: Any) -> jax.Array:
  """Sends part i of x [parts, ...] to device i; part j is what j sent here."""
  swapped: jax.Array = jax.lax.all_to_all(x, "expert", 0, 0, tiled=True)
  return swapped
