"""FLOPs counted in traces, against hand counts and XLA's."""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from dlrl.costs import hlo
from dlrl.costs.flops import ONCE
from dlrl.costs.flops import flops

M, K, N = 3, 5, 7


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def chain(x, w):
  """The product of x with each matrix of w [l, k, k], none stored."""
  layer = jax.checkpoint(
    lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w),
    policy=jax.checkpoint_policies.nothing_saveable)
  return jnp.sum(jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0])


@pytest.mark.parametrize(("equation", "sizes", "want"), [
  ("mk,kn->mn", ((M, K), (K, N)), 2 * M * K * N),
  ("km,nk->mn", ((K, M), (N, K)), 2 * M * K * N),
  ("bmk,bkn->bmn", ((4, M, K), (4, K, N)), 4 * 2 * M * K * N),
  ("k,k->", ((K,), (K,)), 2 * K),
  ("mkp,kpn->mn", ((M, K, 2), (K, 2, N)), 2 * M * (K * 2) * N),
])
def test_a_product_counts_twice_its_terms(equation, sizes, want):
  assert flops(functools.partial(jnp.einsum, equation),
               *(shape(*s) for s in sizes)) == want


def test_only_products_count():
  assert flops(lambda x: jnp.sum(jnp.sort(jnp.exp(x)) / x), shape(M, K)) == 0


def test_what_nothing_uses_does_not_count():
  def wasteful(x, w):
    used, _ = jax.lax.fori_loop(
      0, 6, lambda i, c: (c[0] @ w, c[1] @ w), (x, x))
    return used

  assert flops(wasteful, shape(M, K), shape(K, K)) == 6 * 2 * M * K * K


def test_a_scan_counts_as_often_as_it_runs():
  product = 2 * M * K * K
  x, w = shape(M, K), shape(K, K)
  assert flops(lambda x, w: jax.lax.fori_loop(
    0, 6, lambda i, x: x @ w, x), x, w) == 6 * product
  assert flops(lambda x, w: jax.lax.map(
    lambda i: jax.lax.fori_loop(0, 4, lambda i, x: x @ w, x) @ w,
    jnp.arange(6)), x, w) == 6 * (4 + 1) * product


def test_a_gradient_counts_what_it_computes_again():
  length, product = 6, 2 * M * K * K
  x, w = shape(M, K), shape(length, K, K)
  assert flops(chain, x, w) == 2 * length * product
  # Backward, each product takes two. Again, only the first of a layer's two is
  # needed, and the tanh of the second.
  again = flops(jax.grad(chain, (0, 1)), x, w) - 3 * 2 * length * product
  assert again == 2 * length * product


def test_the_dearest_branch_counts():
  def one_or_three(x, w):
    return jax.lax.cond(
      x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w @ w)

  def nested(x, w):
    return jax.lax.scan(lambda x, _: (one_or_three(x, w), None), x, length=4)

  x, w = shape(M, K), shape(K, K)
  assert flops(one_or_three, x, w) == 3 * 2 * M * K * K
  assert flops(nested, x, w) == 4 * 3 * 2 * M * K * K


def test_loops_that_mostly_run_once_need_no_bound():
  def again(x, w):
    with jax.named_scope(ONCE):
      return jax.lax.while_loop(
        lambda x: x[0, 0] < 9, lambda x: x @ w, x)

  def nested(x, w):
    return jax.lax.while_loop(
      lambda x: x[0, 1] < 9, lambda x: again(x, w), x)

  x, w, one = shape(M, K), shape(K, K), 2 * M * K * K
  assert flops(again, x, w) == one
  assert flops(nested, x, w, while_trips=(5,)) == 5 * one
  for fn, trips in ((again, ()), (nested, (5,))):
    text = jax.jit(fn).lower(x, w).compile().as_text()
    found = hlo.traffic(text, trips).kernels
    total = sum(k.flops * n for k, n in found.items())
    assert total == one * (trips or (1,))[0]


@pytest.mark.parametrize("sizes", [(3, 0, 4, 1), (8, 0, 0, 0)], ids=str)
def test_groups_of_rows_count_as_one_product(sizes):
  rows, kernels = shape(8, K), shape(4, K, N)
  groups = jnp.array(sizes)

  def grouped(rows, kernels):
    return jax.lax.ragged_dot(rows, kernels, groups).sum()

  one = 2 * 8 * K * N
  assert flops(grouped, rows, kernels) == one
  assert flops(jax.grad(grouped, (0, 1)), rows, kernels) == 2 * one


def test_what_is_wrapped_counts_once():
  @jax.custom_vjp
  def product(x, w):
    return x @ w

  product.defvjp(lambda x, w: (x @ w, (x, w)),
                 lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
  tangent = jax.custom_jvp(lambda x, w: x @ w)
  tangent.defjvps(lambda dx, _, x, w: dx @ w, lambda dw, _, x, w: x @ dw)
  one = 2 * M * K * N
  x, w = shape(M, K), shape(K, N)
  for wrapped in (jax.jit(product), jax.checkpoint(product),
                  jax.jit(jax.checkpoint(jax.jit(product))), tangent):
    assert flops(wrapped, x, w) == one
  assert flops(jax.value_and_grad(lambda x, w: product(x, w).sum(), (0, 1)),
               x, w) == 3 * one
  assert flops(jax.vmap(product, (0, None)), shape(4, M, K), w) == 4 * one


def test_all_devices_of_a_shard_map_count():
  mesh = jax.make_mesh(
    (4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  x, w = shape(8, K), shape(K, N)
  for axes, copies in (({"x"}, 1), ({"x", "y"}, 2)):  # y holds copies
    product = jax.shard_map(
      lambda x, w: x @ w, mesh=mesh, axis_names=axes,
      in_specs=(jax.P("x"), jax.P()), out_specs=jax.P("x"))
    assert flops(jax.jit(product), x, w) == copies * 2 * 8 * K * N


def test_a_while_loop_with_products_needs_a_bound():
  def powers(x, w):
    return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x)

  x, w = shape(M, K), shape(K, K)
  with pytest.raises(ValueError, match="while_trips"):
    flops(powers, x, w)
  assert flops(powers, x, w, while_trips=(5,)) == 5 * 2 * M * K * K
  # Without products the trips do not matter.
  assert flops(lambda x: jax.lax.while_loop(
    lambda x: x[0, 0] < 9, lambda x: x + 1, x), x) == 0


def test_what_cannot_be_counted_is_an_error():
  def kernel(x, out):
    out[...] = x[...] @ x[...]

  with pytest.raises(ValueError, match="pallas_call"):
    flops(pl.pallas_call(kernel, out_shape=shape(8, 8)), shape(8, 8))
  with pytest.raises(ValueError, match="which of the"):
    flops(lambda a, b: jax.lax.custom_linear_solve(
      lambda x: a @ x, b, lambda _, b: b, symmetric=True),
      shape(K, K), shape(K))


@pytest.mark.parametrize(("channels", "knobs"), [
  (6, {"window_strides": (1, 1), "padding": "SAME"}),
  (3, {"window_strides": (2, 1), "padding": [(1, 2), (0, 3)],
       "rhs_dilation": (2, 1), "feature_group_count": 2}),
])
def test_convolutions_and_their_transposes_count_as_in_xla(channels, knobs):
  convolve = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"),
    **knobs)
  x, kernel = shape(4, 9, 8, 6), shape(3, 2, channels, 8)
  out = jax.eval_shape(convolve, x, kernel)
  programs = [
    (convolve, x, kernel),
    (lambda k, g: jax.linear_transpose(lambda x: convolve(x, k), x)(g),
     kernel, out),
    (lambda x, g: jax.linear_transpose(lambda k: convolve(x, k), kernel)(g),
     x, out)]
  counts = [flops(*program) for program in programs]
  assert counts == [xla(*program) for program in programs]
  # Each is about the same terms: a pair of a pixel and a kernel's entry.
  assert counts[0] == counts[1] == counts[2]


def xla(fn, *args):
  return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]


def test_a_program_without_loops_counts_as_in_xla():
  def network(params, x):
    for w in params:
      x = jnp.tanh(x @ w)
    return jnp.sum(x)

  sizes = (256, 512, 128, 64)
  args = ([shape(a, b) for a, b in itertools.pairwise(sizes)],
          shape(32, sizes[0]))
  for fn in (network, jax.grad(network)):
    counted = flops(fn, *args)
    # XLA also counts the elementwise work, which is little.
    assert counted <= xla(fn, *args) < 1.02 * counted
