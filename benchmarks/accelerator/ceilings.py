"""Measures the rates of a large matrix product and of a copy."""

import functools
from typing import Any

import jax

from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl.runtime import mesh as mesh_lib

PRODUCTS = 10  # one after the other in a program
CHAIN = "bf16 product"
COPY = "copy"


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
  for _ in range(PRODUCTS):
    b = a @ b / a.shape[0] ** 0.5
  return b


def _double(x: jax.Array) -> jax.Array:
  return x + x


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """A chain of products, and a copy of 1 GiB."""
  n, size = (64, 2**12) if scale.dry else (8192, 2**29)
  placed = mesh_lib.replicated(scale.alone)

  def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, "bfloat16", sharding=placed)

  make = functools.partial(programs_lib.Program, mesh=scale.alone)
  return {CHAIN: make(jax.jit(_products), (shape(n, n), shape(n, n))),
          COPY: make(jax.jit(_double), (shape(size),))}


def _made(shape: jax.ShapeDtypeStruct) -> jax.Array:
  return jax.jit(lambda: jax.random.normal(
    jax.random.key(0), shape.shape, shape.dtype),
    out_shardings=shape.sharding)()


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Times both on the first device."""
  scale = scale_lib.present(rows, dry=dry)
  found = programs(scale)

  def measure(name: str, program: Any) -> None:
    args = jax.tree.map(_made, found[name].args)
    jax.block_until_ready(program(*args))
    took = programs_lib.seconds(lambda: program(*args), times=10)
    if name == CHAIN:
      n = args[0].shape[0]
      rows.put(name, size=n, seconds=took, **programs_lib.rate(
        scale, PRODUCTS * 2 * n**3, took, 1))
    else:
      speed = 2 * args[0].nbytes / took
      share = {"share": speed / scale.chip.bandwidth} if scale.chip else {}
      rows.put(name, seconds=took, gb_per_s=speed / 1e9, **share)

  for name, program in programs_lib.compiled(found, rows):
    rows.attempt(name, measure, name, program)
