"""Takes tokens to the experts that compute them, and back.

Experts are in equal parts on the devices along the mesh axis `expert`, and stay
there. What a device's tokens need of others' experts travels: every device
sends each other one rows (all-to-all), and they come back computed.

Arrays have fixed shapes, and how many rows go to a device depends on the
tokens. So they travel in rounds of at most `capacity` rows per pair of devices.
One round is enough while the load is near its mean; what is left goes in
further rounds, so that no token is dropped.
"""

import functools
from collections.abc import Callable
from typing import Any
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

# Applies experts to rows [n, d] in groups of sizes [e], to [n, d]: a function
# of their frozen matrices, their trained ones, rows and sizes.
Apply = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]


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
  tokens: jax.Array, experts: jax.Array, weights: jax.Array, number: int,
  apply: Apply, frozen: Any = (), trained: Any = (),
) -> jax.Array:
  """Sums each token's experts.

  Args:
    tokens: [n, d], on each device of the axis `expert` its own.
    experts: [n, k] int32 in 0..number, the experts of each; `number`: none.
    weights: [n, k] fp32, factors on what these make of the token.
    number: how many experts there are, on all devices.
    apply: the experts of this device, e of them.
    frozen: the first argument of `apply`, which gets no gradient.
    trained: the second one.

  Returns:
    [n, d] fp32; zero where there is no expert.
  """
  parts = jax.sharding.get_abstract_mesh().shape.get("expert", 1)
  if parts > 1:
    return _sent(
      apply, number, parts, frozen, experts, trained, tokens, weights)
  return _weighted(_local(
    tokens, experts, number, functools.partial(apply, frozen, trained)),
    weights)


def capacity(rows: int, parts: int) -> int:
  """Rows that one of `parts` devices sends each at once, of its `rows`."""
  each = int(np.ceil(SLACK * rows / parts))
  return min(rows, -(-each // 8) * 8)


def _local(
  tokens: jax.Array, experts: jax.Array, number: int,
  apply: Callable[[jax.Array, jax.Array], jax.Array],
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


def _weighted(y: jax.Array, weights: jax.Array) -> jax.Array:
  """Sums what k experts made of n tokens, y [n k, d], to [n, d]."""
  # In fp32: a sum of several experts should not be rounded one by one.
  return jnp.sum(y.reshape(*weights.shape, -1).astype(jnp.float32)
                 * weights[..., None], 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sent(
  apply: Apply, number: int, parts: int, frozen: Any, experts: jax.Array,
  trained: Any, tokens: jax.Array, weights: jax.Array,
) -> jax.Array:
  """`computed` by experts on several devices.

  The backward pass needs nothing but these arguments: it computes each round
  again, because what all of them need would not fit.
  """
  one_round, room, most = _rounds(apply, number, parts, frozen, experts)

  def another(carry: tuple[jax.Array, jax.Array]
              ) -> tuple[jax.Array, jax.Array]:
    i, total = carry
    return i + 1, total + one_round(i, trained, tokens, weights)

  total: jax.Array = _loop(another, jnp.zeros(tokens.shape), room, most)
  return total


def _sent_forward(
  apply: Apply, number: int, parts: int, *arguments: Any
) -> tuple[jax.Array, Any]:
  return _sent(apply, number, parts, *arguments), arguments


def _sent_backward(
  apply: Apply, number: int, parts: int, arguments: Any, g: jax.Array
) -> tuple[Any, ...]:
  frozen, experts, *others = arguments
  one_round, room, most = _rounds(apply, number, parts, frozen, experts)

  def another(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
    i, total = carry
    _, pull = jax.vjp(functools.partial(one_round, i), *others)
    return i + 1, jax.tree.map(jnp.add, total, pull(g))

  nothing = jax.tree.map(jnp.zeros_like, tuple(others))
  return None, None, *_loop(another, nothing, room, most)


_sent.defvjp(_sent_forward, _sent_backward)


def _rounds(
  apply: Apply, number: int, parts: int, frozen: Any, experts: jax.Array
) -> tuple[Callable[..., jax.Array], int, jax.Array]:
  """(a round, rows that it has room for, most rows for a device)."""
  each, kinds = number // parts, experts.reshape(-1)
  device = kinds // each  # `parts` for none
  room = capacity(len(kinds), parts)
  rank, sizes = _ranks(device, parts)

  def one_round(i: jax.Array, trained: Any, tokens: jax.Array,
                weights: jax.Array) -> jax.Array:
    """Computes the rows whose rank is in i room .. i room + room - 1."""
    slot = rank - i * room
    goes = (device < parts) & (slot >= 0) & (slot < room)
    move = _move(device * room + slot, goes, parts * room, experts.shape)
    wanted = jnp.where(move.there, kinds[move.pair] % each, each)
    arrived, wanted = (
      _swapped(x, parts) for x in (_moved(tokens, move), wanted))
    y = _local(arrived, wanted[:, None], each,
               functools.partial(apply, frozen, trained))
    return _weighted(_back(_swapped(y, parts), move), weights)

  # The most of all devices, because all of them exchange rows.
  return one_round, room, jax.lax.pmax(
    jnp.max(sizes), jax.sharding.get_abstract_mesh().manual_axes)


def _loop(another: Callable[..., Any], start: Any, room: int, most: jax.Array
          ) -> Any:
  """The result of all rounds that somebody needs."""
  with jax.named_scope(flops.ONCE):
    _, total = jax.lax.while_loop(
      lambda carry: carry[0] * room < most, another, (jnp.int32(0), start))
  return total


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
