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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrl.costs import flops

# Rows that a round has room for, over the mean of those that go from one device
# to another. More would be computed as padding on CPUs, and travel everywhere;
# fewer would need a second round often.
SLACK = 1.25
_CHUNK = 128  # rows that `_ranks` counts at a time

# Applies experts to rows [n, d] in groups of sizes [e], to [n, d].
Apply = Callable[[jax.Array, jax.Array], jax.Array]


class _Move(NamedTuple):
  """Where rows of one array go in another.

  There are n rows, each of which has k pairs with an expert, and m places.

  Attributes:
    pair: [m] int32, row and expert of a place, row * k + expert.
    there: [m] bool, whether it has one.
    place: [n, k] int32, the place of a pair.
    goes: [n, k] bool, whether it has one.
  """

  pair: jax.Array
  there: jax.Array
  place: jax.Array
  goes: jax.Array


def computed(
  tokens: jax.Array, experts: jax.Array, number: int, apply: Apply
) -> jax.Array:
  """Applies to each token its experts.

  Args:
    tokens: [n, d], on each device of the axis `expert` its own.
    experts: [n, k] int32 in 0..number, the experts of each; `number`: none.
    number: how many experts there are, on all devices.
    apply: the experts of this device, e of them.

  Returns:
    [n, k, d]; zero where there is no expert.
  """
  parts = jax.sharding.get_abstract_mesh().shape.get("expert", 1)
  y = (_local(tokens, experts, number, apply) if parts == 1
       else _sent(tokens, experts, number, parts, apply))
  return y.reshape(*experts.shape, -1)


def capacity(rows: int, parts: int) -> int:
  """Rows that one of `parts` devices sends each at once, of its `rows`."""
  each = int(np.ceil(SLACK * rows / parts))
  return min(rows, -(-each // 8) * 8)


def _local(
  tokens: jax.Array, experts: jax.Array, number: int, apply: Apply
) -> jax.Array:
  """`computed` by `number` experts that are all here; [n k, d]."""
  kinds = experts.reshape(-1)
  rank, sizes = _ranks(kinds, number)
  starts = jnp.cumsum(sizes) - sizes
  goes = kinds < number
  place = starts[jnp.minimum(kinds, number - 1)] + rank
  move = _move(place, goes, len(kinds), experts.shape)
  # Rows behind the groups are zeros going in, and are not taken coming out:
  # kernels may write anything there, also NaN.
  return _back(apply(_moved(tokens, move), sizes), move)


def _sent(
  tokens: jax.Array, experts: jax.Array, number: int, parts: int, apply: Apply
) -> jax.Array:
  """`computed` by experts on several devices; [n k, d]."""
  each, kinds = number // parts, experts.reshape(-1)
  n, device = len(kinds), kinds // each  # `parts` for none
  room = capacity(n, parts)
  rank, sizes = _ranks(device, parts)

  def one_round(first: jax.Array | int) -> jax.Array:
    """Computes the rows whose rank is in first..first + room - 1."""
    slot = rank - first
    goes = (device < parts) & (slot >= 0) & (slot < room)
    move = _move(device * room + slot, goes, parts * room, experts.shape)
    wanted = jnp.where(move.there, kinds[move.pair] % each, each)
    arrived, wanted = (
      _swapped(x, parts) for x in (_moved(tokens, move), wanted))
    y = _local(arrived, wanted[:, None], each, apply)
    return _back(_swapped(y, parts), move)

  first = one_round(0)
  rounds = -(-n // room)
  if rounds == 1:
    return first
  # On all devices alike, because all of them exchange rows.
  most = jax.lax.pmax(
    jnp.max(sizes), jax.sharding.get_abstract_mesh().manual_axes)

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


def _ranks(kinds: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
  """Counts rows of the same kind.

  By comparisons, not by a sort: a sort takes TPUs' compiler seconds, and there
  are a dozen per program.

  Args:
    kinds: [n] int32; those from `number` on are not counted.
    number: how many kinds there are.

  Returns:
    [n] int32, how many rows before a row are of its kind; [number] int32, how
    many there are of each.
  """
  n = len(kinds)
  chunks = jnp.pad(
    kinds, (0, -n % _CHUNK), constant_values=number).reshape(-1, _CHUNK)
  equal = jax.nn.one_hot(chunks, number, dtype=jnp.int32)
  sizes = jnp.sum(equal, 1)
  before = jnp.cumsum(sizes, 0) - sizes
  within = jnp.cumsum(equal, 1) - equal
  rank = jnp.sum(equal * (within + before[:, None]), -1)
  return rank.reshape(-1)[:n], jnp.sum(sizes, 0)


def _move(place: jax.Array, goes: jax.Array, places: int,
          shape: tuple[int, ...]) -> _Move:
  """The move of pairs [n k] with rows of `shape` [n, k] to some of `places`."""
  pair = jnp.full(places, -1).at[jnp.where(goes, place, places)].set(
    jnp.arange(len(place)), mode="drop", unique_indices=True)
  return _Move(
    jnp.maximum(pair, 0), pair >= 0,
    jnp.where(goes, place, 0).reshape(shape), goes.reshape(shape))


@jax.custom_vjp
def _moved(rows: jax.Array, move: _Move) -> jax.Array:
  """The places [m, d], which get rows [n, d] or zeros.

  Gradients are taken from there as they went. JAX would add them up: TPUs sort
  for that, and GPUs add in any order.
  """
  found = rows[move.pair // move.place.shape[1]]
  return jnp.where(move.there[:, None], found, 0)


def _moved_backward(move: _Move, g: jax.Array) -> tuple[jax.Array, None]:
  each = jnp.where(move.goes[..., None], g[move.place], 0)
  return jnp.sum(each, 1, dtype=jnp.float32).astype(g.dtype), None


_moved.defvjp(lambda rows, move: (_moved(rows, move), move), _moved_backward)


@jax.custom_vjp
def _back(rows: jax.Array, move: _Move) -> jax.Array:
  """The rows [n k, d] of the pairs, from their places [m, d]; or zeros."""
  found = rows[move.place.reshape(-1)]
  return jnp.where(move.goes.reshape(-1, 1), found, 0)


def _back_backward(move: _Move, g: jax.Array) -> tuple[jax.Array, None]:
  return jnp.where(move.there[:, None], g[move.pair], 0), None


_back.defvjp(lambda rows, move: (_back(rows, move), move), _back_backward)


def _swapped(x: jax.Array, parts: int) -> jax.Array:
  """Sends part i of x [n, ...] to device i; part j is what j sent here."""
  swapped: jax.Array = jax.lax.all_to_all(
    x.reshape(parts, -1, *x.shape[1:]), "expert", 0, 0, tiled=True)
  return swapped.reshape(x.shape)
