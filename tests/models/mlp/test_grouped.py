"""Products of groups of rows against a loop over the groups in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.costs import hlo
from dlrl.costs.flops import flops
from dlrl.models import layers
from dlrl.models.mlp import grouped

pytestmark = pytest.mark.usefixtures("unoptimized")

N, E, D, F = 48, 6, 5, 7
SIZES = {
  "equal": [8, 8, 8, 8, 8, 8], "different": [1, 2, 3, 4, 5, 6],
  "empty": [0, 20, 0, 19, 8, 0], "one": [48, 0, 0, 0, 0, 0],
  "last": [0, 0, 0, 0, 0, 40], "none": [0, 0, 0, 0, 0, 0]}
of_all = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def arrays(n=N):
  """Rows, matrices and a cotangent."""
  rng = np.random.default_rng(0)
  return tuple(jnp.asarray(rng.normal(size=s), jnp.float32)
               for s in ((n, D), (E, D, F), (n, F)))


def by_loop(rows, kernel, cotangent, sizes):
  """The product, and the gradients of rows and matrices."""
  rows, kernel, cotangent = (
    np.asarray(x, np.float64) for x in (rows, kernel, cotangent))
  ends = np.cumsum(sizes)
  parts = [slice(end - size, end)
           for end, size in zip(ends, sizes, strict=True)]
  return (
    np.concatenate([rows[p] @ w for p, w in zip(parts, kernel, strict=True)]),
    np.concatenate(
      [cotangent[p] @ w.T for p, w in zip(parts, kernel, strict=True)]),
    np.stack([rows[p].T @ cotangent[p] for p in parts]))


close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@of_all
def test_values_and_gradients_are_those_of_a_loop_in_float64(sizes):
  rows, kernel, cotangent = arrays()
  live = sum(sizes)
  # Rows behind the groups may hold anything.
  rows, cotangent = (x.at[live:].set(jnp.nan) for x in (rows, cotangent))

  @jax.jit
  def run(rows, kernel, cotangent, sizes):
    y, vjp = jax.vjp(
      lambda rows, kernel: grouped.product(rows, kernel, sizes), rows, kernel)
    return y, *vjp(cotangent)

  y, of_rows, of_kernel = run(rows, kernel, cotangent, jnp.array(sizes))
  want = by_loop(rows, kernel, cotangent, sizes)
  assert y.shape == (N, F) and of_rows.shape == (N, D)
  for got, exact in zip((y[:live], of_rows[:live], of_kernel), want,
                        strict=True):
    close(got, exact)


@of_all
def test_the_tpus_gradient_of_matrices_is_that_of_a_loop(sizes):
  # Its tiles have 128 rows: two full ones, and a part of a third.
  sizes = [6 * size for size in sizes]
  rows, kernel, cotangent = arrays(6 * N)
  rows, cotangent = (
    x.at[sum(sizes):].set(jnp.nan) for x in (rows, cotangent))
  got = grouped.tiled_gradient(
    rows, cotangent, jnp.array(sizes), interpret=True)
  close(got, by_loop(rows, kernel, cotangent, sizes)[2], rtol=1e-4, atol=1e-4)


def test_sums_over_passes_are_not_rounded():
  ones = jnp.ones((4096, 1), jnp.bfloat16)
  got = grouped.grouped_gradient(ones, ones, jnp.array([4095, 1] + [0] * 14))
  assert got.dtype == jnp.bfloat16
  # As the sum of 4095 ones in fp32 is rounded, not of 13 passes one by one.
  assert got[0, 0, 0] == 4096 and got[1, 0, 0] == 1


def test_room_is_a_quarter_more_than_the_mean():
  assert grouped.room(131072, 256) == 640
  assert grouped.room(64, 4) == 24  # 20, in eights
  assert grouped.room(4, 8) == 4  # there are no more rows


def squares(rows, kernel, product=grouped.product):
  y = product(jnp.tanh(rows), kernel, jnp.full(E, N // E))
  return jnp.sum(jnp.tanh(y) ** 2)


@pytest.mark.parametrize("policy", [*layers.REMAT.values(), (
  jax.checkpoint_policies.everything_saveable)], ids=[*layers.REMAT, "all"])
def test_flops_are_those_of_every_row_by_one_matrix(policy):
  def count(product):
    fn = functools.partial(squares, product=product)
    if policy:
      fn = jax.checkpoint(fn, policy=policy)
    return flops(jax.grad(fn, (0, 1)), *arrays()[:2])

  assert count(grouped.product) == count(jax.lax.ragged_dot) == (
    3 * 2 * N * D * F)
  # A frozen matrix has no gradient to compute.
  assert flops(jax.grad(squares), *arrays()[:2]) == 2 * 2 * N * D * F


def test_compiled_programs_cost_one_pass():
  n, e, d, f = 1024, 32, 24, 16
  shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (
    ((n, d), "float32"), ((e, d, f), "float32"), ((e,), "int32"))]

  def total(rows, kernel, sizes):
    return jnp.sum(grouped.product(jnp.tanh(rows), kernel, sizes) ** 2)

  kernels = hlo.traffic(jax.jit(jax.grad(total, (0, 1))).lower(
    *shapes).compile().as_text()).kernels
  computed = sum(k.flops * times for k, times in kernels.items())
  # Of the product, of rows' gradient and of the matrices', a quarter of it for
  # padding; of all rows with all matrices, it would be 32 times as much.
  assert computed == 3 * 2 * e * grouped.room(n, e) * d * f
  assert computed == 1.25 * 3 * 2 * n * d * f
