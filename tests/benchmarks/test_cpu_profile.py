"""A program's time is told by what its instructions do."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import cpu_profile

TEXT = """HloModule a_step

fused_product (a: f32[4,8], b: f32[8,2]) -> f32[4,2] {
  a = f32[4,8]{1,0} parameter(0)
  b = f32[8,2]{1,0} parameter(1)
  p = f32[4,2]{1,0} dot(a, b)
  ROOT e = f32[4,2]{1,0} exponential(p)
}

fused_copy (a: f32[4,8]) -> f32[8,4] {
  a = f32[4,8]{1,0} parameter(0)
  m = f32[4,8]{1,0} multiply(a, a)
  ROOT t = f32[8,4]{1,0} transpose(m), dimensions={1,0}
}

fused_zeros () -> f32[4,8] {
  z = f32[] constant(0)
  ROOT filled = f32[4,8]{1,0} broadcast(z), dimensions={}
}

fused_slice (a: f32[4,8], i: s32[]) -> f32[1,8] {
  a = f32[4,8]{1,0} parameter(0)
  i = s32[] parameter(1)
  z = s32[] constant(0)
  ROOT s = f32[1,8]{1,0} dynamic-slice(a, i, z), dynamic_slice_sizes={1,8}
}

fused_sum (a: f32[4,8]) -> f32[4,8] {
  a = f32[4,8]{1,0} parameter(0)
  ROOT s = f32[4,8]{1,0} add(a, a)
}

ENTRY main (a: f32[4,8], b: f32[8,2], i: s32[]) -> f32[4,2] {
  a = f32[4,8]{1,0} parameter(0)
  b = f32[8,2]{1,0} parameter(1)
  i = s32[] parameter(2)
  product.1 = f32[4,2]{1,0} fusion(a, b), kind=kLoop, calls=fused_product
  copy.2 = f32[8,4]{1,0} fusion(a), kind=kLoop, calls=fused_copy
  zeros.3 = f32[4,8]{1,0} fusion(), kind=kLoop, calls=fused_zeros
  slice.4 = f32[1,8]{1,0} fusion(a, i), kind=kLoop, calls=fused_slice
  sum.5 = f32[4,8]{1,0} fusion(a), kind=kLoop, calls=fused_sum
  ROOT dot.6 = f32[4,2]{1,0} dot(a, b)
}
"""


def test_fusions_have_the_kind_of_what_is_in_them():
  found = cpu_profile.kinds(TEXT)
  assert {name: found[name] for name in found if "." in name} == {
    "product.1": "products", "copy.2": "transposed copies", "zeros.3": "zeros",
    "slice.4": "slices", "sum.5": "elementwise and sums", "dot.6": "products"}


@pytest.mark.slow
def test_shares_are_those_of_what_takes_long():
  x, few = jnp.ones((600, 600)), jnp.ones(8)
  products, exps = (
    jax.jit(f).lower(x, few).compile() for f in (
      lambda x, few: ((x @ x) @ x, jnp.exp(few)),
      lambda x, few: (jnp.sin(jnp.exp(x)), few[:2, None] @ few[None, :2])))
  found = cpu_profile.shares(products, lambda: products(x, few))
  assert abs(sum(found.values()) - 1) < 1e-6
  assert next(iter(found)) == "products" and found["products"] > 0.5
  found = cpu_profile.shares(exps, lambda: exps(x, few))
  assert next(iter(found)) == "elementwise and sums"
