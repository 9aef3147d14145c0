"""FLOPs of a function as traced by JAX: exact, also inside loops.

XLA's own count (`compiled.cost_analysis()`) counts a loop's body once, and the
update consists of nested loops. Here a body counts as often as it runs. A
multiply-add is two FLOPs. Only matrix products and convolutions count, not
elementwise operations, reductions, sorts or decompositions. Unused results do
not count, as `jax.jit` removes them before XLA sees the program; work that XLA
removes later does.
"""

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

# Kernels whose FLOPs cannot be read from their parameters: an error is better
# than counting zero.
OPAQUE = frozenset({
  "pallas_call", "ffi_call", "scaled_matmul_wrapper",
  "dot_product_attention_fwd_wrapper", "dot_product_attention_bwd_wrapper",
  "dot_product_attention_fp8_fwd_wrapper",
  "dot_product_attention_fp8_bwd_wrapper",
})
# The scope of loops that depend on data and nearly always run once: they count
# as if they did, and need no trip count.
ONCE = "mostly_once"
# The scope of those that hardly ever run: in compiled programs they do not
# count.
RARELY = "rarely"
# Functions under `jax.jit` that multiply groups of rows, however they do: they
# count as each row by one matrix.
GROUPED = frozenset({"grouped_product", "grouped_gradient"})
Branch = Callable[[Iterable[int]], int]


def flops(
  fn: Callable[..., Any], *args: Any, while_trips: Sequence[int] = (),
  branch: Branch = max,
) -> int:
  """FLOPs of `fn(*args)`, over all devices.

  Args:
    fn: any function of arrays; it is traced, not compiled or run.
    *args: trees of arrays or `jax.ShapeDtypeStruct`s.
    while_trips: trip counts of `while_loop`s that compute products, by nesting
      depth, outermost first. A trace does not contain them. Scans need none.
    branch: which branch of a `cond` counts: `max` the most expensive, `min` the
      cheapest.

  Returns:
    2 m n k for each matrix product and accordingly for convolutions and for
    products of groups of rows, times the lengths of the scans around it. With a
    `cond` this is an upper bound, or a lower bound with `min`. The body of a
    `shard_map` counts once per device.

  Raises:
    ValueError: `while_trips` is too short, or a kernel's FLOPs are unknown.
  """
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _program(jaxpr, tuple(while_trips), branch)


def _program(jaxpr: core.Jaxpr, trips: tuple[int, ...], branch: Branch
             ) -> int:
  return sum(_equation(eqn, trips, branch) for eqn in jaxpr.eqns)


def _equation(eqn: core.JaxprEqn, trips: tuple[int, ...], branch: Branch
              ) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    return _dot(eqn)
  if name == "ragged_dot_general":
    return _grouped(eqn)
  # Without arguments it is the part that JAX computes once for all layers.
  if name == "jit" and params["name"] in GROUPED and eqn.invars:
    left, right, *_ = _shapes(eqn)
    return 2 * math.prod(left) * right[-1]
  if name == "conv_general_dilated":
    return _convolution(eqn)
  if name in OPAQUE:
    raise ValueError(
      f"the FLOPs of {name!r} are unknown; count the function with a "
      "plain implementation in its place")
  if name == "while":
    if ONCE in str(eqn.source_info.name_stack):
      return _program(eqn.params["body_jaxpr"].jaxpr, trips, branch)
    return _while(eqn, trips, branch)
  inner = [_program(j, trips, branch) for j in core.jaxprs_in_params(params)]
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "cond":
    return branch(inner)
  if name == "shard_map":
    mesh = params["mesh"].shape
    return math.prod(mesh[a] for a in params["newly_manual_axes"]) * sum(inner)
  # A primitive that JAX added later, perhaps a loop: better an error than a
  # count that is silently too low.
  if len(inner) > 1 and any(inner):
    raise ValueError(
      f"which of the {len(inner)} programs in {name!r} run is unknown")
  return sum(inner)


def _while(eqn: core.JaxprEqn, trips: tuple[int, ...], branch: Branch) -> int:
  parts = [eqn.params[k].jaxpr for k in ("cond_jaxpr", "body_jaxpr")]
  if not any(map(_has_products, parts)):
    return 0
  if not trips:
    raise ValueError(
      "a while_loop computes products and its trip count is unknown; "
      "pass while_trips, or give the loop a static length")
  condition, body = (_program(p, trips[1:], branch) for p in parts)
  return trips[0] * body + (trips[0] + 1) * condition


def _has_products(jaxpr: core.Jaxpr) -> bool:
  return any(
    eqn.primitive.name in (
      "dot_general", "ragged_dot_general", "conv_general_dilated", *OPAQUE)
    or any(map(_has_products, core.jaxprs_in_params(eqn.params)))
    for eqn in jaxpr.eqns)


def _dot(eqn: core.JaxprEqn) -> int:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  left, _, out = _shapes(eqn)
  return 2 * math.prod(out) * math.prod(left[i] for i in contracted)


def _grouped(eqn: core.JaxprEqn) -> int:
  """Products of groups of rows, each with a matrix of its own.

  As if every row were in a group; how many are is not known before.
  """
  numbers = eqn.params["ragged_dot_dimension_numbers"]
  (_, contracted), (_, batch) = numbers.dot_dimension_numbers
  left, right, *_ = _shapes(eqn)
  others = set(range(len(right))) - {
    *contracted, *batch, *numbers.rhs_group_dimensions}
  return 2 * math.prod(left) * math.prod(right[i] for i in others)


def _convolution(eqn: core.JaxprEqn) -> int:
  """Products with padding or with the gaps of a dilation do not count."""
  params = eqn.params
  left, right, out = _shapes(eqn)
  left_spec, right_spec, out_spec = params["dimension_numbers"]
  total = 2 * out[out_spec[0]] * out[out_spec[1]] * right[right_spec[1]]
  for axis, (before, _) in enumerate(params["padding"]):
    stride = params["window_strides"][axis]
    hole, spread = params["lhs_dilation"][axis], params["rhs_dilation"][axis]
    last = (left[left_spec[axis + 2]] - 1) * hole
    at = [o * stride - before + k * spread
          for o in range(out[out_spec[axis + 2]])
          for k in range(right[right_spec[axis + 2]])]
    total *= sum(0 <= i <= last and i % hole == 0 for i in at)
  return total


def _shapes(eqn: core.JaxprEqn) -> list[tuple[int, ...]]:
  return [v.aval.shape  # type: ignore[attr-defined]
          for v in (*eqn.invars, *eqn.outvars)]
