"""Compares attention's kernels and log-probs with formulas on the CPU.

The CPU's values are computed in fp32 from the same bf16 numbers, so that all
errors are those of the device.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl.diffusion import token_logps
from dlrl.models import attention
from dlrl.runtime import mesh as mesh_lib

BACKENDS = {"cpu": ("xla",), "gpu": ("xla", "cudnn"), "tpu": ("xla", "splash")}
BF16, FP32 = 1e-2, 1e-3  # largest error, relative to the Euclidean norm
CHUNK = 512  # positions whose logits exist at a time, as in the presets


class Case(NamedTuple):
  """Sizes of attention; fewer queries than keys are a part of a row."""

  queries: int
  keys: int
  heads: int
  kv_heads: int
  head_dim: int
  lengths: tuple[int, ...]


CASES = {
  "whole rows": Case(512, 512, 8, 8, 128, (512, 511, 257, 1)),
  "grouped heads": Case(334, 334, 14, 2, 128, (334, 100, 17, 2)),
  "odd rows": Case(333, 333, 4, 4, 64, (333, 100, 17, 2)),
  "part of rows": Case(32, 1024, 8, 8, 128, (1024, 777, 512, 33)),
  "part of odd rows": Case(33, 1023, 14, 2, 128, (1023, 778, 513, 34))}
TINY = {"grouped heads": Case(16, 16, 4, 2, 16, (16, 5, 1)),
        "part of odd rows": Case(3, 9, 2, 2, 16, (9, 5, 3))}


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """Every case by every kernel that takes it, and the log-probs."""
  found = {}
  for name, case in (TINY if scale.dry else CASES).items():
    args = _shapes(scale, case)
    for backend in BACKENDS[scale.platform]:
      if not attention.limits(backend, args[0], args[1], tensor=1,
                              platform=scale.platform):
        found[f"attention {backend}, {name}"] = programs_lib.Program(
          jax.jit(functools.partial(attend, functools.partial(
            attention.bidirectional, backend=backend))), args, scale.alone)
  b, t, d, v = (2, 8, 16, 512) if scale.dry else (2, 64, 4096, 126464)
  found[f"log-probs of {v} tokens"] = programs_lib.Program(
    jax.jit(functools.partial(scores, _ours)), (
      _shape(scale, "bfloat16", b, t, d), _shape(scale, "bfloat16", d, v),
      _shape(scale, "int32", b, t), _shape(scale, "bool", b, t)), scale.alone)
  return found


def _shape(scale: scale_lib.Scale, dtype: str, *sizes: int
           ) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
    sizes, dtype, sharding=mesh_lib.replicated(scale.alone))


def _shapes(scale: scale_lib.Scale, case: Case) -> tuple[Any, ...]:
  """Shapes of queries, keys, values, lengths and the weights of outputs."""
  b = len(case.lengths)
  q, kv = ((b, n, h, case.head_dim) for n, h in (
    (case.queries, case.heads), (case.keys, case.kv_heads)))
  return (*(_shape(scale, "bfloat16", *x) for x in (q, kv, kv)),
          _shape(scale, "int32", b), _shape(scale, "bfloat16", *q))


def attend(
  kernel: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array,
  lengths: jax.Array, slope: jax.Array,
) -> tuple[jax.Array, ...]:
  """Outputs where `slope` is not 0 and, of whole rows, gradients."""
  # Nobody learns from parts of rows, which are those of cached decoding.
  def run(*qkv: jax.Array) -> jax.Array:
    return kernel(*qkv, lengths)

  if q.shape[1] != k.shape[1]:
    return (run(q, k, v),)
  out, pull = jax.vjp(run, q, k, v)
  return jnp.where(slope == 0, 0, out), *pull(slope)


def plain_attention(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array
) -> jax.Array:
  """Softmax over the first `lengths` columns, in the order of the formula."""
  k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
  found = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  seen = jnp.arange(k.shape[1])[None] < lengths[:, None]
  share = jax.nn.softmax(jnp.where(seen[:, None, None], found, -jnp.inf))
  return jnp.einsum("bhqk,bkhd->bqhd", share, v)


def scores(
  logps: Callable[..., tuple[jax.Array, jax.Array]], hidden: jax.Array,
  head: jax.Array, targets: jax.Array, mask: jax.Array,
) -> tuple[jax.Array, ...]:
  """Log-probs, entropies, and the gradients of a sum of both."""
  def total(hidden: jax.Array, head: jax.Array) -> Any:
    found = logps(hidden, head, targets, mask)
    return jnp.sum(found[0]) + 0.1 * jnp.sum(found[1]), found

  grads, found = jax.grad(total, (0, 1), has_aux=True)(hidden, head)
  return (*found, *grads)


def _ours(*args: jax.Array) -> tuple[jax.Array, jax.Array]:
  return token_logps.token_logps(*args, chunk=CHUNK)


def plain_logps(
  hidden: jax.Array, head: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """From the log-softmax of all logits at once."""
  every = jax.nn.log_softmax(hidden @ head)
  found = jnp.take_along_axis(every, targets[..., None], -1)[..., 0]
  entropy = -jnp.sum(jnp.exp(every) * every, -1)
  return jnp.where(mask, found, 0), jnp.where(mask, entropy, 0)


def error(got: Any, want: Any) -> float:
  """|got - want| / |want|; not a number if either has one that is not."""
  got, want = (np.asarray(x, np.float32) for x in (got, want))
  size = float(np.linalg.norm(want))
  return float(np.linalg.norm(got - want)) / max(size, 1e-30)


def on_cpu(tree: Any) -> Any:
  """The same numbers on the CPU, floating ones in fp32."""
  cpu = jax.local_devices(backend="cpu")[0]

  def one(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(one(jax.random.key_data(x)))
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jax.device_put(np.asarray(x, np.float32 if floating else None), cpu)

  return jax.tree.map(one, tree)


def _attention_args(case: Case, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
  rng = np.random.default_rng(0)
  q, k, v, slope = (jnp.asarray(rng.standard_normal(x.shape), x.dtype)
                    for x in (*shapes[:3], shapes[4]))
  lengths = jnp.asarray(case.lengths, jnp.int32)
  if case.queries == case.keys:  # of padding nothing is asked
    live = jnp.arange(case.keys)[None] < lengths[:, None]
    slope = jnp.where(live[..., None, None], slope, 0)
  return q, k, v, lengths, slope


def _logps_args(shapes: tuple[Any, ...]) -> tuple[Any, ...]:
  hidden, head, targets, mask = shapes

  def make() -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    return (
      jax.random.normal(keys[0], hidden.shape, hidden.dtype),
      jax.random.normal(keys[1], head.shape, head.dtype)
      * head.shape[0] ** -0.5,
      jax.random.randint(keys[2], targets.shape, 0, head.shape[1]),
      jax.random.uniform(keys[3], mask.shape) < 0.6)

  return jax.jit(make)()


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Compares everything with the CPU."""
  scale = scale_lib.present(rows, dry=dry)
  found = programs(scale)
  # Multiplied in fp32, whatever the platform does by default.
  wanted_attention = jax.jit(functools.partial(attend, plain_attention))
  wanted_scores = jax.jit(functools.partial(scores, plain_logps))

  def compare(name: str, program: Any) -> None:
    shapes = found[name].args
    if name.startswith("log-probs"):
      args = _logps_args(shapes)
      got, want = program(*args), wanted_scores(*on_cpu(args))
      logps, entropy, hidden, head = map(error, got, want)
      rows.check(name, FP32, logps=logps, entropy=entropy)
      rows.check(f"{name}, gradients", BF16, hidden=hidden, head=head)
      return
    case = (TINY if scale.dry else CASES)[name.partition(", ")[2]]
    args = _attention_args(case, shapes)
    got, want = program(*args), wanted_attention(*on_cpu(args))
    parts = ("out", "q", "k", "v")[:len(got)]
    errors = dict(zip(parts, map(error, got, want), strict=True))
    rows.check(name, BF16, **errors)
    if len(got) > 1:
      dead = np.arange(case.keys)[None] >= np.asarray(case.lengths)[:, None]
      rows.check(f"{name}, gradients of padding", 0.0, **{
        part: float(np.max(np.abs(np.asarray(x, np.float32)[dead]), initial=0))
        for part, x in (("k", got[2]), ("v", got[3]))})

  for name, program in programs_lib.compiled(found, rows):
    rows.attempt(name, compare, name, program)
