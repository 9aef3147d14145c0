"""Bidirectional attention behind one function, its kernels' limits; RoPE."""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.models import splash_attention
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

BACKENDS = ("auto", "xla", "cudnn", "splash")


def rotation(
  positions: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
  """What `rope` turns by: sines and cosines, [b, t, 1, k/2] fp32 each.

  Once for all layers: as part of a layer they would be computed per head.

  Args:
    positions: [b, t] int.
    head_dim: k, even.
    theta: base of the frequencies.
  """
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = (positions[:, :, None, None].astype(jnp.float32)
           * frequency[None, None, None])
  return jnp.sin(angle), jnp.cos(angle)


def rope(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotary embedding of [b, t, h, k], rotate-half layout, computed in fp32."""
  sin, cos = turn
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype)


def bidirectional(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array,
  segments: jax.Array | None = None, *, backend: str = "auto",
) -> jax.Array:
  """Attention of every position to the first `lengths` positions of its row.

  Lengths instead of a mask: fused kernels are fast with lengths and slow, or
  wrong, with dense masks. Scores and softmax are fp32. What is not attended to
  must be finite; it changes no value and gets a gradient of exactly zero.

  Args:
    q: [b, t, h, k], or fewer columns than k and v.
    k: [b, t, g, k]; g divides h.
    v: [b, t, g, k].
    lengths: [b] int, at least 1.
    segments: [b, t] int, not negative; positions of a packed row attend to
      those with the same number only. None: rows are not packed.
    backend: of BACKENDS; "auto" takes the kernel of the platform where it has
      no `limits` here and something to gain.

  Returns:
    [b, t, h, k]; rows of padding hold finite garbage.
  """
  case = Case(
    mesh_lib.platform(), q.dtype.name, q.shape[2], k.shape[2], q.shape[3],
    jax.sharding.get_abstract_mesh().shape.get("tensor", 1))
  if backend == "auto":
    backend = choose(case, queries=q.shape[1], packed=segments is not None)
  if backend == "splash":
    return on_each_device(splash_attention.attend, q, k, v, lengths, segments)
  if backend == "cudnn":
    if segments is not None:
      raise ValueError("cuDNN attention takes no segments: use 'xla'")
    return on_each_device(_cudnn, q, k, v, lengths, segments)
  seen = (jnp.arange(k.shape[1])[None] < lengths[:, None])[:, None]
  if segments is not None:
    seen &= segments[:, :, None] == segments[:, None, :]
  return xla_attention.attend(q, k, v, seen)


class Case(NamedTuple):
  """What decides which kernels can be used.

  Attributes:
    platform: of the devices, as JAX calls it.
    dtype: of queries, keys and values.
    heads: of the queries.
    kv_heads: of keys and values.
    head_dim: of all of them.
    tensor: devices that share the heads.
  """

  platform: str
  dtype: str
  heads: int
  kv_heads: int
  head_dim: int
  tensor: int


def limits(backend: str, case: Case) -> list[tuple[str, Any, str]]:
  """Why a backend cannot be used: (field of the config, its value, a fix)."""
  if backend not in ("cudnn", "splash"):
    return []
  platform, multiple = {"cudnn": ("gpu", 8), "splash": ("tpu", 128)}[backend]
  found: list[tuple[str, Any, str]] = []
  if case.platform != platform:
    found.append((
      "model.attention", backend,
      f"needs a {platform.upper()}, these are of type {case.platform!r}; "
      "choose 'auto' or 'xla'"))
  if case.head_dim % multiple or (
      backend == "cudnn" and case.head_dim > 128):
    size = "of at most 128 " if backend == "cudnn" else ""
    found.append((
      "model.head_dim", case.head_dim,
      f"must be a multiple of {multiple} {size}for {backend!r}; or set "
      "model.attention to 'xla'"))
  if backend == "cudnn" and case.dtype not in ("bfloat16", "float16"):
    found.append((
      "model.compute_dtype", case.dtype,
      "must be 'bfloat16' for 'cudnn'; or set model.attention to 'xla'"))
  if case.heads % case.tensor or case.kv_heads % case.tensor:
    found.append((
      "mesh.tensor", case.tensor,
      f"must divide model.heads = {case.heads} and model.kv_heads = "
      f"{case.kv_heads} for {backend!r}; or set model.attention to 'xla'"))
  return found


def choose(case: Case, *, queries: int, packed: bool) -> str:
  """What "auto" stands for.

  GPU: cuDNN, unless rows are packed. TPU: splash, where there are enough
  queries to fill a block. Otherwise, and where the kernel has limits: XLA.
  """
  if not limits("cudnn", case) and not packed:
    return "cudnn"
  if not limits("splash", case) and queries >= splash_attention.LANES:
    return "splash"
  return "xla"


def check(cfg: config.ModelConfig, mesh: jax.sharding.Mesh) -> None:
  """Refuses a backend that the devices or the model rule out.

  Raises:
    strict.ConfigError: names what is in the way and what would do.
  """
  case = Case(
    mesh.devices.flat[0].platform, cfg.compute_dtype, cfg.heads, cfg.kv_heads,
    cfg.head_dim, mesh.shape["tensor"])
  for field, value, fix in limits(cfg.attention, case):
    raise strict.ConfigError(field, value, fix)


def _cudnn(q, k, v, lengths, segments):
  del segments
  # Whether cuDNN writes the gradients of padding depends on its version.
  live = jnp.arange(k.shape[1])[None] < lengths[:, None]
  k, v = (jnp.where(live[..., None, None], x, 0) for x in (k, v))
  return jax.nn.dot_product_attention(
    q, k, v, key_value_seq_lengths=lengths.astype(jnp.int32),
    implementation="cudnn")


def on_each_device(kernel, q, k, v, lengths, segments):
  """Rows and heads are the devices' own: XLA cannot divide a kernel itself."""
  rows = mesh_lib.BATCH if mesh_lib.batch_parts(q.shape[0]) > 1 else None
  heads = P(rows, None, "tensor")
  return mesh_lib.on_each_device(
    kernel, (heads, heads, heads, P(rows), P(rows)), heads)(
      q, k, v, lengths, segments)
