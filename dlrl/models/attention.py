"""Attention over several kernels, and their limits.

Full attention is bidirectional over a whole row. Block-causal attention (see
`transformer`) is bidirectional inside of a block, and blocks see those before.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

BACKENDS = ("auto", "xla", "cudnn", "splash")

# Maps q, k, v and arrays with a first axis of rows to outputs.
Kernel = Callable[..., jax.Array]


def _splash() -> Any:
  from dlrl.models import splash_attention  # for TPUs; needs Pallas
  return splash_attention


def bidirectional(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array,
  segments: jax.Array | None = None, *, backend: str = "auto",
) -> jax.Array:
  """Lets every query attend to the first `lengths` columns of its row.

  Scores and softmax are fp32. Columns that are not attended to must hold finite
  numbers; they influence no output and their gradient is exactly zero.

  Args:
    q: [b, t, h, k]; t may be less than for k and v.
    k: [b, t, g, k]; g divides h.
    v: [b, t, g, k].
    lengths: [b] int, at least 1.
    segments: [b, t] int, not negative. In packed rows, columns attend only to
      columns with the same number. None: rows are not packed.
    backend: one of `BACKENDS`; "auto" picks the first of cuDNN and splash that
      is supported here and expected to be faster than XLA, otherwise XLA.

  Returns:
    [b, t, h, k]; outputs of padding are finite garbage.

  Raises:
    ValueError: `backend` is "cudnn" and rows are packed.
  """
  # Lengths instead of a mask: fused kernels are fast with lengths, and slow or
  # wrong with dense masks.
  packed = segments is not None
  backend = resolve(backend, q, k, packed=packed)
  if backend == "splash":
    return on_each_device(_splash().attend, q, k, v, lengths, segments)
  if backend == "cudnn":
    if packed:
      raise ValueError(
        "bidirectional(backend='cudnn'): cuDNN attention does not support "
        "packed rows (segments); use 'xla'")
    return on_each_device(_cudnn, q, k, v, lengths)
  seen = (jnp.arange(k.shape[1])[None] < lengths[:, None])[:, None]
  if segments is not None:
    seen &= segments[:, :, None] == segments[:, None, :]
  return xla_attention.attend(q, k, v, seen)


def clean(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array,
  start: jax.Array, *, block_length: int, backend: str = "auto",
) -> jax.Array:
  """Lets clean blocks attend to themselves and to all blocks before them.

  Args:
    q: [b, t, h, k], of columns that follow on each other.
    k: [b, s, g, k], of rows in ordinary order; g divides h.
    v: [b, s, g, k].
    lengths: [b] int, live columns of each row, at least 1.
    start: [b] int, the column of the first query, at most s - t.
    block_length: tokens per block.
    backend: as `bidirectional`; "auto" never stands for cuDNN here.

  Returns:
    [b, t, h, k]; outputs of padding are finite garbage.
  """
  column = start[:, None] + jnp.arange(q.shape[1])[None]
  ends = jnp.minimum(
    (column // block_length + 1) * block_length, lengths[:, None])
  backend = resolve(backend, q, k, packed=True)
  if backend == "splash":
    return on_each_device(functools.partial(
      _splash().attend_clean, block_length=block_length), q, k, v, ends)
  seen = jnp.arange(k.shape[1])[None, None] < ends[..., None]
  if backend == "cudnn":
    return on_each_device(_cudnn_masked, q, k, v, seen)
  return xla_attention.attend(q, k, v, seen)


def block_causal(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array,
  asking: jax.Array, blocks: jax.Array,
) -> jax.Array:
  """Computes `clean` for columns in any order, by XLA.

  Args:
    q: [b, t, h, k]; t may be less than for k and v.
    k: [b, s, g, k]; g divides h.
    v: [b, s, g, k].
    lengths: [b] int, live columns of each row, at least 1.
    asking: [b, t] int, numbers of the queries' blocks.
    blocks: [b, s] int, numbers of the columns' blocks.

  Returns:
    [b, t, h, k]; outputs of padding are finite garbage.
  """
  live = jnp.arange(k.shape[1])[None] < lengths[:, None]
  seen = live[:, None] & (blocks[:, None] <= asking[:, :, None])
  return xla_attention.attend(q, k, v, seen)


class NoisyBlocks(NamedTuple):
  """The attention pattern of a noisy stream of m blocks of i = w / m columns.

  Attributes:
    earlier: [b, m] int, the clean columns before a block, without padding.
    live: [b, m, 1 or i, i] bool, the columns of its own block that each column
      attends to.
  """

  earlier: jax.Array
  live: jax.Array


def noisy_blocks(positions: jax.Array, lengths: jax.Array, block_length: int
                 ) -> NoisyBlocks:
  """Finds what the blocks of a noisy stream attend to.

  Args:
    positions: [b, w] int; whole blocks, or a part of one.
    lengths: [b] int, tokens of each row.
    block_length: tokens per block.

  Raises:
    ValueError: the columns are not whole blocks.
  """
  w = positions.shape[1]
  size = min(block_length, w)
  if w % size:
    raise ValueError(f"a noisy stream of {w} columns is not made of whole "
                     f"blocks of {block_length}; pad it")
  first = positions[:, ::size]
  live = positions < lengths[:, None]
  return NoisyBlocks(
    jnp.minimum(first, lengths[:, None]),
    live.reshape(*first.shape, 1, size))


def clean_then_noisy(start: jax.Array, lengths: jax.Array, block_length: int
                     ) -> NoisyBlocks:
  """Finds what a clean block and the noisy one after it attend to.

  Both are one block of the pattern: the clean half attends to itself, the noisy
  one to both, and either to the clean columns before.

  Args:
    start: [b] int, position of the noisy block; at 0 there is none before it.
    lengths: [b] int, tokens of each row.
    block_length: tokens per block.
  """
  noisy = jnp.arange(2 * block_length) >= block_length
  positions = start[:, None] + jnp.arange(-block_length, block_length)[None]
  there = (positions >= 0) & (positions < lengths[:, None])
  seen = there[:, None] & (noisy[:, None] | ~noisy[None])[None]
  return NoisyBlocks(
    jnp.maximum(start - block_length, 0)[:, None], seen[:, None])


def noisy(
  q: jax.Array, k: jax.Array, v: jax.Array, clean_k: jax.Array,
  clean_v: jax.Array, blocks: NoisyBlocks, *, backend: str = "auto",
) -> jax.Array:
  """Lets noisy blocks attend to themselves and to the clean ones before them.

  The rows "noisy" of the published mask over [noisy | clean], at T + B columns
  per query instead of 2 T, without a mask of that size.

  Args:
    q: [b, w, h, k], of noisy columns.
    k: [b, w, g, k], of the same columns; g divides h.
    v: [b, w, g, k].
    clean_k: [b, s, g, k], of clean rows in ordinary order.
    clean_v: [b, s, g, k].
    blocks: from `noisy_blocks` or `clean_then_noisy`; the latter's few columns
      are XLA's.
    backend: as `clean`.

  Returns:
    [b, w, h, k] in the dtype of `v`; outputs of padding are finite garbage.

  Raises:
    ValueError: `backend` is "splash" and the blocks are too many for it.
  """
  earlier, live = blocks
  m, queries, i = live.shape[1:]
  if queries == 1:
    backend = resolve(backend, q, k, packed=True)
    own = live.reshape(len(live), m * i)
    if backend == "splash":
      return on_each_device(_splash().attend_noisy, q, k, v, clean_k,
                            clean_v, earlier, own)
    if backend == "cudnn":
      return on_each_device(_cudnn_noisy, q, k, v, clean_k, clean_v, earlier,
                            own)
  before = jnp.arange(clean_k.shape[1])[None, None] < earlier[..., None]
  return xla_attention.attend_blocks(
    q, k, v, clean_k, clean_v, before, live)


def limits(
  backend: str, q: Any, k: Any, *, platform: str, tensor: int
) -> list[tuple[str, Any, str]]:
  """Lists why a backend cannot be used; an empty list if it can.

  Args:
    backend: one of `BACKENDS`.
    q: queries [b, t, h, k], an array or a `ShapeDtypeStruct`.
    k: keys [b, t, g, k], likewise.
    platform: of the devices, "cpu", "gpu" or "tpu".
    tensor: devices that share the heads.

  Returns:
    (field of the config, its value, a fix) for each reason.
  """
  if backend not in ("cudnn", "splash"):
    return []
  heads, kv_heads, head_dim = q.shape[2], k.shape[2], q.shape[3]
  needed, multiple = {"cudnn": ("gpu", 8), "splash": ("tpu", 128)}[backend]
  found: list[tuple[str, Any, str]] = []
  if platform != needed:
    found.append((
      "model.attention", backend,
      f"needs a {needed.upper()}, but the devices are of type {platform!r}; "
      "choose 'auto' or 'xla'"))
  if head_dim % multiple or (backend == "cudnn" and head_dim > 128):
    size = " and at most 128" if backend == "cudnn" else ""
    found.append((
      "model.head_dim", head_dim,
      f"must be a multiple of {multiple}{size} for {backend!r}; or set "
      "model.attention to 'xla'"))
  if backend == "cudnn" and q.dtype.name not in ("bfloat16", "float16"):
    found.append((
      "model.compute_dtype", q.dtype.name,
      "must be 'bfloat16' for 'cudnn'; or set model.attention to 'xla'"))
  if heads % tensor or kv_heads % tensor:
    found.append((
      "mesh.tensor", tensor,
      f"must divide model.heads = {heads} and model.kv_heads = {kv_heads} for "
      f"{backend!r}; or set model.attention to 'xla'"))
  return found


def choose(q: Any, k: Any, *, packed: bool, platform: str, tensor: int
           ) -> str:
  """Returns the backend that "auto" stands for; arguments as `limits`."""
  def usable(backend: str) -> bool:
    return not limits(backend, q, k, platform=platform, tensor=tensor)

  if usable("cudnn") and not packed:
    return "cudnn"
  # Splash pads queries to a block of 128: with fewer, XLA has less to do.
  if usable("splash") and q.shape[1] >= _splash().LANES:
    return "splash"
  return "xla"


def resolve(backend: str, q: Any, k: Any, *, packed: bool) -> str:
  """Returns `backend`, or what "auto" stands for on the devices of this mesh.

  Attention with blocks counts as packed: cuDNN would need an array of masks.
  """
  if backend != "auto":
    return backend
  return choose(
    q, k, packed=packed, platform=mesh_lib.platform(),
    tensor=jax.sharding.get_abstract_mesh().shape.get("tensor", 1))


def check(cfg: config.ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses a backend that the devices or the model rule out.

  Raises:
    strict.ConfigError: names the field in the way, its value and a fix.
  """
  q, k = (jax.ShapeDtypeStruct((1, 1, heads, cfg.head_dim), cfg.compute_dtype)
          for heads in (cfg.heads, cfg.kv_heads))
  for field, value, fix in limits(
      cfg.attention, q, k, platform=mesh.devices.flat[0].platform,
      tensor=mesh.shape["tensor"]):
    raise strict.ConfigError(field, value, fix)


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array
           ) -> jax.Array:
  # Some versions of cuDNN do not write padding's gradients: a select makes them
  # zeros. Its cases are one array, so that XLA drops it without gradients.
  live = (jnp.arange(k.shape[1])[None] < lengths[:, None])[..., None, None]
  k, v = (_even(jnp.where(live, x, jax.lax.stop_gradient(x))) for x in (k, v))
  return jax.nn.dot_product_attention(
    _even(q), k, v, key_value_seq_lengths=lengths.astype(jnp.int32),
    implementation="cudnn")[:, :q.shape[1]]


def _cudnn_noisy(
  q: jax.Array, k: jax.Array, v: jax.Array, clean_k: jax.Array,
  clean_v: jax.Array, earlier: jax.Array, live: jax.Array,
) -> jax.Array:
  # One call on concatenated keys. Two calls, merged by the logarithms of their
  # sums, would need these in fp32 and with gradients, and JAX returns neither.
  w, m = q.shape[1], earlier.shape[1]
  before = jnp.arange(clean_k.shape[1])[None, None] < earlier[..., None]
  block = jnp.arange(w)[None] // (w // m)
  own = (block == block.T)[None] & live[:, None]
  return _cudnn_masked(
    q, jnp.concatenate([clean_k, k], 1), jnp.concatenate([clean_v, v], 1),
    jnp.concatenate([jnp.repeat(before, w // m, 1), own], -1))


def _cudnn_masked(
  q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array
) -> jax.Array:
  """Attends as `seen` [b, t, s] says, which becomes a bias of that size."""
  t, s = seen.shape[1:]
  seen = jnp.pad(seen, ((0, 0), (0, t % 2), (0, s % 2)))
  return jax.nn.dot_product_attention(
    _even(q), _even(k), _even(v), mask=seen[:, None],
    implementation="cudnn")[:, :t]


def _even(x: jax.Array) -> jax.Array:
  # JAX refuses the gradients of odd numbers of queries or keys.
  return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


def on_each_device(kernel: Kernel, *args: jax.Array | None) -> jax.Array:
  """Runs a fused kernel on each device's rows and heads.

  XLA cannot partition such a kernel: without this it would gather all rows and
  heads on every device. Queries come first; what has four axes has heads.
  """
  # Rows that cannot be shared out equally are computed by every device.
  q = args[0]
  assert q is not None
  rows = mesh_lib.BATCH if mesh_lib.batch_parts(q.shape[0]) > 1 else None
  heads = P(rows, None, "tensor")
  specs = tuple(heads if x is not None and x.ndim == 4 else P(rows)
                for x in args)
  out: jax.Array = mesh_lib.on_each_device(kernel, specs, heads)(*args)
  return out
