"""Trip counts of loops in the text of programs."""

import jax
import jax.numpy as jnp
import pytest
from updates import FAST

from dlrl.costs import hlo
from dlrl.costs import hlo_loops
from dlrl.costs import hlo_text

# A loop as a TPU's compiler writes one of windowed products: two windows at a
# time, so that its counter goes up by two.
WINDOWED = """HloModule jit_f, is_scheduled=true

%body (p: (u32[], f32[8])) -> (u32[], f32[8]) {
  %p = (u32[]{:T(128)}, f32[8]{0}) parameter(0)
  %two = u32[]{:T(128)} constant(STEP)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %next = u32[]{:T(128)} add(%i, %two)
  %y = f32[8]{0} negate(%x)
  ROOT %t = (u32[]{:T(128)}, f32[8]{0}) tuple(%next, %y)
}

%condition (q: (u32[], f32[8])) -> pred[] {
  %q = (u32[]{:T(128)}, f32[8]{0}) parameter(0)
  %limit = u32[]{:T(128)} constant(LIMIT)
  %j = u32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %limit), direction=LT
}

ENTRY %main (a: f32[8]) -> (u32[], f32[8]) {
  %a = f32[8]{0} parameter(0)
  %first = u32[]{:T(128)} constant(FIRST)
  %copy = u32[]{:T(128)} copy(%first)
  %state = (u32[]{:T(128)}, f32[8]{0}) tuple(%copy, %a)
  ROOT %w = (u32[]{:T(128)}, f32[8]{0}) while(%state), condition=%condition, body=%body
}
"""  # noqa: E501

# The counter comes out of a fusion with another result.
FUSED = WINDOWED.replace(
  "  %next = u32[]{:T(128)} add(%i, %two)\n  %y = f32[8]{0} negate(%x)\n",
  "  %f = (f32[8]{0}, u32[]{:T(128)}) fusion(%x, %i), kind=kLoop, calls=%g\n"
  "  %next = u32[]{:T(128)} get-tuple-element(%f), index=1\n"
  "  %y = f32[8]{0} get-tuple-element(%f), index=0\n").replace(
    "%body (p", """%g (r: f32[8], s: u32[]) -> (f32[8], u32[]) {
  %r = f32[8]{0} parameter(0)
  %s = u32[]{:T(128)} parameter(1)
  %n = f32[8]{0} negate(%r)
  %c = u32[]{:T(128)} constant(STEP)
  %u = u32[]{:T(128)} add(%s, %c)
  ROOT %v = (f32[8]{0}, u32[]{:T(128)}) tuple(%n, %u)
}

%body (p""", 1)


def trips(text, first, limit, step):
  lines, entry = hlo_text.computations(text.replace("STEP", str(step)).replace(
    "LIMIT", str(limit)).replace("FIRST", str(first)))
  loop = next(x for x in lines[entry] if x.op == "while")
  return hlo_loops.trips(lines, entry, loop)


@pytest.mark.parametrize("text", [WINDOWED, FUSED], ids=["plain", "fused"])
@pytest.mark.parametrize("first, limit, step, want", [
  (0, 8, 2, 4), (0, 8, 1, 8), (0, 7, 2, 4), (3, 8, 1, 5), (2, 16, 4, 4)])
def test_a_counter_has_a_start_a_step_and_a_limit(
    text, first, limit, step, want):
  assert trips(text, first, limit, step) == len(range(first, limit, step))
  assert trips(text, first, limit, step) == want


@pytest.mark.parametrize("change", [
  ("direction=LT", "direction=NE"),
  ("%limit = u32[]{:T(128)} constant(LIMIT)",
   "%limit = u32[]{:T(128)} get-tuple-element(%q), index=0")])
def test_what_depends_on_data_is_not_guessed(change):
  assert trips(WINDOWED.replace(*change), 0, 8, 2) is None


@pytest.mark.parametrize("first, last", [(0, 11), (3, 11)])
def test_a_loop_of_jax_runs_as_often_as_its_counter_says(first, last):
  def run(x):
    return jax.lax.fori_loop(first, last, lambda i, x: jnp.tanh(x @ x), x)

  program = jax.jit(run).lower(
    jax.ShapeDtypeStruct((32, 32), "float32")).compile(FAST)
  found = hlo.traffic(program.as_text()).kernels
  assert sum(k.flops * n for k, n in found.items()) == (
    last - first) * 2 * 32**3
