"""Traffic read from programs against counts by hand and XLA's own."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from updates import FAST

from dlrl import config
from dlrl.costs import hlo
from dlrl.runtime import mesh as mesh_lib


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, "float32")


def compiled(fn, *args):
  return jax.jit(fn).lower(*args).compile(FAST)


@pytest.mark.parametrize("fn, args", [
  (lambda x, w: x @ w, (shape(64, 32), shape(32, 48))),
  (lambda x, w: jnp.sum(jnp.tanh(x @ w) * 2, 0),
   (shape(64, 32), shape(32, 48))),
  (lambda x, i: jax.lax.dynamic_slice_in_dim(x, i, 4, 0) + 1,
   (shape(100, 7), jax.ShapeDtypeStruct((), "int32"))),
], ids=["product", "fusion", "slice"])
def test_without_loops_bytes_are_what_xla_counts(fn, args):
  program = compiled(fn, *args)
  want = program.cost_analysis()["bytes accessed"]
  got = hlo.traffic(program.as_text()).accessed
  assert abs(got - want) <= 0.02 * want + 32  # scalars


def test_a_loop_counts_as_often_as_it_runs_and_reads_its_slice_of_a_stack():
  def scan(x, stack):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

  few, many = (
    hlo.traffic(compiled(scan, shape(8, 64), shape(n, 64, 64)).as_text()
                ).accessed for n in (10, 110))
  per_layer = (many - few) / 100
  weights, state = 64 * 64 * 4, 8 * 64 * 4
  # Sliced, read, and the state in and out a few times; not 110 layers' weights.
  assert 3 * weights <= per_layer <= 3 * weights + 8 * state


def test_loops_of_unknown_length_take_the_numbers_given_by_depth():
  def inner(x, limit):
    return jax.lax.while_loop(
      lambda x: jnp.sum(x) < limit, lambda x: x @ x, x)

  def outer(x, limit):
    return jax.lax.while_loop(
      lambda x: jnp.max(x) < limit, lambda x: inner(x, limit) + 1, x)

  text = compiled(outer, shape(32, 32), shape()).as_text()
  with pytest.raises(ValueError, match="while_trips"):
    hlo.traffic(text, (2,))
  product = 3 * 32 * 32 * 4
  base, more = (hlo.traffic(text, t).accessed for t in ((2, 10), (2, 110)))
  assert more - base >= 2 * 100 * product
  assert hlo.traffic(text, (4, 110)).accessed > 1.9 * more


@pytest.mark.parametrize("times", [1, 7])
def test_collectives_are_those_of_the_layers(times):
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  rows, width, inner = 16, 32, 64

  def layers(x, stack):
    def one(x, w):
      up = mesh_lib.constrain(w, None, "tensor")
      y = mesh_lib.constrain(x @ up, mesh_lib.BATCH, "tensor")
      return mesh_lib.shard_batch(y @ up.T), None

    return jax.lax.scan(one, x, stack)[0]

  with jax.set_mesh(mesh):
    program = jax.jit(
      layers, in_shardings=(
        NamedSharding(mesh, P(mesh_lib.BATCH)),
        NamedSharding(mesh, P(None, "fsdp", "tensor")))).lower(
          shape(rows, width), shape(times, width, inner)).compile(FAST)
  found = {c.kind: c for c in hlo.traffic(program.as_text()).collectives}
  gathered = found["all-gather"]
  assert gathered == ("all-gather", width * inner // 2 * 4, 4, times, False)
  assert gathered.moved == times * gathered.size * 3 / 4
  summed = found["all-reduce"]
  assert summed == ("all-reduce", rows // 4 * width * 4, 2, times, False)
  assert summed.moved == times * summed.size  # half of it, twice
  assert len(found) == 2


# As a TPU's compiler writes it: one gather, started in a fusion and ended in
# another, in a loop whose limit is a constant; vector memory is S(1).
ASYNC = """HloModule jit_f, is_scheduled=true, num_partitions=4

%start (p.0: bf16[8,4]) -> (bf16[8,4], bf16[8,16]) {
  %p.0 = bf16[8,4]{1,0} parameter(0)
  %ag.0 = bf16[8,16]{1,0} all-gather(%p.0), channel_id=3, replica_groups=mesh['a'=4,'b'=1] {'a'}, dimensions={1}
  ROOT %c.0 = (bf16[8,4]{1,0}, bf16[8,16]{1,0}) custom-call(%ag.0), custom_call_target="AsyncCollectiveStart"
}

%done (p.1: bf16[8,4]) -> bf16[8,16] {
  %p.1 = bf16[8,4]{1,0} parameter(0)
  %ag.1 = bf16[8,16]{1,0} all-gather(%p.1), channel_id=3, replica_groups=mesh['a'=4,'b'=1] {'a'}, dimensions={1}
  ROOT %c.1 = bf16[8,16]{1,0} custom-call(%ag.1), custom_call_target="AsyncCollectiveDone"
}

%body (p.2: (s32[], bf16[8,4], bf16[8,16])) -> (s32[], bf16[8,4], bf16[8,16]) {
  %p.2 = (s32[]{:T(128)}, bf16[8,4]{1,0}, /*index=2*/bf16[8,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%p.2), index=1
  %s = (bf16[8,4]{1,0}, bf16[8,16]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %y = bf16[8,16]{1,0:T(8,128)(2,1)S(1)} fusion(%x), kind=kCustom, calls=%done
  %z = bf16[8,16]{1,0} negate(%y)
  ROOT %t = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) tuple(%i, %x, %z)
}

%condition (p.3: (s32[], bf16[8,4], bf16[8,16])) -> pred[] {
  %p.3 = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %j = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (a: (s32[], bf16[8,4], bf16[8,16])) -> (s32[], bf16[8,4], bf16[8,16]) {
  %a = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


def test_an_asynchronous_collective_is_one():
  found = hlo.traffic(ASYNC)
  assert found.collectives == (("all-gather", 8 * 16 * 2, 4, 5, True),)


def test_what_is_in_vector_memory_is_not_read_from_the_main_one():
  one = ASYNC.replace("S(1)", "")
  # Once written by a fusion, once read by the negation, five times.
  assert (hlo.traffic(one).accessed - hlo.traffic(ASYNC).accessed
          == 5 * 2 * 8 * 16 * 2)


@pytest.mark.parametrize("groups, size", [
  ("{{0,1},{2,3}}", 2), ("[2,4]<=[8]", 4), ("[4,2]<=[2,4]T(1,0)", 2),
  ("mesh['a'=2,'b'=4] {'a','b'}", 8), ("mesh['a'=2,'b'=4] {'b'}", 4),
  ("{}", 8)])
def test_groups_of_devices_in_every_spelling(groups, size):
  text = f"""HloModule f, num_partitions=8

ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4]{{0}} parameter(0)
  ROOT %r = f32[4]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add
}}
"""
  assert hlo.traffic(text).collectives == (
    ("all-reduce", 16, size, 1, False),)


# Two gathers that JAX itself asked for have one channel. One is in parts, which
# have a chain in common.
SHARED = ASYNC.replace("dimensions={1}", """dimensions={1}, \
frontend_attributes={chain_id="7"}""").replace(
  "  %z = bf16[8,16]{1,0} negate(%y)", """\
  %o = bf16[8,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[2,2]<=[4], dimensions={1}
  %z = bf16[8,16]{1,0} negate(%y)""")  # noqa: E501


def test_collectives_with_the_same_channel_are_told_apart():
  assert set(hlo.traffic(SHARED).collectives) == {
    ("all-gather", 8 * 16 * 2, 4, 5, True),
    ("all-gather", 8 * 8 * 2, 2, 5, False)}


# As a TPU's compiler writes the sum over four chips of which each keeps a part.
SCATTERED = """HloModule f, num_partitions=4

%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[20,8] {
  %input = bf16[64,8]{1,0} parameter(0)
  %zero = bf16[] constant(0)
  %pad = bf16[80,8]{1,0} pad(%input, %zero), padding=0_16x0_0
  %all-reduce.1 = bf16[80,8]{1,0} all-reduce(%pad), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
  %at = u32[] partition-id()
  ROOT %part = bf16[20,8]{1,0} dynamic-slice(%all-reduce.1, %at, %at), dynamic_slice_sizes={20,8}
}

ENTRY %main (a: bf16[64,8]) -> bf16[20,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  ROOT %f = bf16[20,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_a_fused_reduce_scatter_is_no_all_reduce():
  assert hlo.traffic(SCATTERED).collectives == (
    ("reduce-scatter", 80 * 8 * 2, 4, 1, False),)


# A gather that is started before a loop, carried on in its fusions, and ended
# after it, as TPUs hide one of a large matrix behind layers.
ACROSS = ASYNC.split("%body")[0] + """
%on (p.4: bf16[8,4], p.5: bf16[8,16]) -> bf16[8,16] {
  %p.4 = bf16[8,4]{1,0} parameter(0)
  %p.5 = bf16[8,16]{1,0} parameter(1)
  %ag.2 = bf16[8,16]{1,0} all-gather(%p.4), channel_id=3, replica_groups=mesh['a'=4,'b'=1] {'a'}, dimensions={1}
  ROOT %n.1 = bf16[8,16]{1,0} negate(%p.5)
}

%body (p.2: (s32[], bf16[8,4], bf16[8,16])) -> (s32[], bf16[8,4], bf16[8,16]) {
  %p.2 = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = bf16[8,4]{1,0} get-tuple-element(%p.2), index=1
  %z = bf16[8,16]{1,0} get-tuple-element(%p.2), index=2
  %o = bf16[8,16]{1,0} fusion(%x, %z), kind=kOutput, calls=%on
  ROOT %t = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) tuple(%i, %x, %o)
}

%condition""" + ASYNC.split("%condition", 1)[1].split("ENTRY")[0] + """
ENTRY %main (a: (s32[], bf16[8,4], bf16[8,16])) -> bf16[8,16] {
  %a = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %b = bf16[8,4]{1,0} get-tuple-element(%a), index=1
  %s = (bf16[8,4]{1,0}, bf16[8,16]{1,0}) fusion(%b), kind=kCustom, calls=%start
  %w = (s32[]{:T(128)}, bf16[8,4]{1,0}, bf16[8,16]{1,0}) while(%a), condition=%condition, body=%body
  ROOT %y = bf16[8,16]{1,0} fusion(%b), kind=kCustom, calls=%done
}
"""  # noqa: E501


def test_a_collective_that_goes_on_during_a_loop_is_one():
  assert hlo.traffic(ACROSS).collectives == (
    ("all-gather", 8 * 16 * 2, 4, 1, True),)


# A slice of a stack in a fusion that is inside of another one, as TPUs' fusions
# of products have them.
NESTED = """HloModule jit_f, is_scheduled=true

%inner (p.0: f32[36,16,8], p.1: s32[]) -> f32[16,8] {
  %p.0 = f32[36,16,8]{2,1,0} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %ds = f32[1,16,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,16,8}
  ROOT %b = f32[16,8]{1,0} bitcast(%ds)
}

%outer (p.2: f32[36,16,8], p.3: s32[]) -> f32[16,8] {
  %p.2 = f32[36,16,8]{2,1,0} parameter(0)
  %p.3 = s32[]{:T(128)} parameter(1)
  %one = f32[16,8]{1,0} fusion(%p.2, %p.3), kind=kLoop, calls=%inner
  ROOT %n = f32[16,8]{1,0} negate(%one)
}

ENTRY %main (a: f32[36,16,8], i: s32[]) -> f32[16,8] {
  %a = f32[36,16,8]{2,1,0} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  ROOT %f = f32[16,8]{1,0} fusion(%a, %i), kind=kOutput, calls=%outer
}
"""  # noqa: E501


def test_a_fusion_inside_of_another_reads_its_slice_of_a_stack():
  # The slice in and out, and its index.
  assert hlo.traffic(NESTED).accessed == 2 * 16 * 8 * 4 + 4


def test_other_tiles_in_a_fusion_are_no_traffic():
  """int8 values, which a TPU's products take in tiles of another shape."""
  text = NESTED.replace("%ds = f32[1,16,8]{2,1,0} dynamic-slice(%p.0,", """\
%tiles = f32[36,16,8]{2,1,0:T(8,128)(4,1)} fusion(%p.0), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%copy
  %ds = f32[1,16,8]{2,1,0} dynamic-slice(%tiles,""")  # noqa: E501
  text = text.replace("%inner (", """%copy (p.4: f32[36,16,8]) -> f32[36,16,8] {
  %p.4 = f32[36,16,8]{2,1,0} parameter(0)
  ROOT %c = f32[36,16,8]{2,1,0:T(8,128)(4,1)} copy(%p.4)
}

%inner (""", 1)
  assert hlo.traffic(text).accessed == 2 * 16 * 8 * 4 + 4


# As a GPU's compiler writes them.
BESIDE = """HloModule jit_f, is_scheduled=true, num_partitions=4

%sum (p.0: f32[8], p.1: f32[8]) -> f32[8] {
  %p.0 = f32[8]{0} parameter(0)
  %p.1 = f32[8]{0} parameter(1)
  ROOT %add = f32[8]{0} add(%p.0, %p.1)
}

%wrapped (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %a2a = f32[8]{0} all-to-all(%p.2), channel_id=2, replica_groups=[1,4]<=[4]
}

ENTRY %main (a: f32[8]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  %start.1 = f32[8]{0} all-reduce-start(%a), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%sum
  BETWEEN.1
  %done.1 = f32[8]{0} all-reduce-done(%start.1)
  %start.2 = ((f32[8]{0}), f32[8]{0}) async-start(%done.1), calls=%wrapped
  BETWEEN.2
  %done.2 = f32[8]{0} async-done(%start.2)
  ROOT %gather = f32[32]{0} all-gather(%done.2), channel_id=3, replica_groups=[1,4]<=[4]
}
"""  # noqa: E501


@pytest.mark.parametrize("between, beside", [
  ("%b = f32[8]{0} bitcast(%a)", False),
  ("%b = f32[8]{0} negate(%a)", True),
  ("%b = f32[8]{0} all-reduce-start(%a), channel_id=9, "
   "replica_groups=[4,1]<=[4], to_apply=%sum", False)])
def test_only_kernels_between_start_and_end_run_beside(between, beside):
  first, second, last = hlo.traffic(
    BESIDE.replace("BETWEEN.1", between.replace("%b", "%b.1")
                   ).replace("BETWEEN.2", between.replace("%b", "%b.2"))
  ).collectives
  assert (first.kind, second.kind, last.kind) == (
    "all-reduce", "all-to-all", "all-gather")
  assert (first.beside, second.beside) == (beside, beside)
  assert not last.beside


def test_a_gpu_may_say_that_it_waits():
  text = BESIDE.replace("BETWEEN.1", "%b = f32[8]{0} negate(%a)").replace(
    "BETWEEN.2", "").replace(
      "to_apply=%sum", 'to_apply=%sum, backend_config={"collective_'
      'backend_config":{"is_sync":true}}')
  assert not any(c.beside for c in hlo.traffic(text).collectives)


# The maximum of each row with its index, fused with something else.
MAXIMA = """HloModule jit_f, is_scheduled=true

%larger (a: f32[], i: s32[], b: f32[], j: s32[]) -> (f32[], s32[]) {
  %a = f32[] parameter(0)
  %i = s32[] parameter(1)
  %b = f32[] parameter(2)
  %j = s32[] parameter(3)
  ROOT %t = (f32[], s32[]) tuple(%a, %i)
}

%fused (x: f32[16,32], n: s32[16,32]) -> ((f32[16], s32[16]), f32[16,32]) {
  %x = f32[16,32]{1,0} parameter(0)
  %n = s32[16,32]{1,0} parameter(1)
  %zero = f32[] constant(0)
  %none = s32[] constant(0)
  %most = (f32[16]{0}, s32[16]{0}) reduce(%x, %n, %zero, %none), dimensions={1}, to_apply=%larger
  %minus = f32[16,32]{1,0} negate(%x)
  ROOT %both = ((f32[16]{0}, s32[16]{0}), f32[16,32]{1,0}) tuple(%most, %minus)
}

ENTRY %main (x: f32[16,32], n: s32[16,32]) -> ((f32[16], s32[16]), f32[16,32]) {
  %x = f32[16,32]{1,0} parameter(0)
  %n = s32[16,32]{1,0} parameter(1)
  ROOT %f = ((f32[16]{0}, s32[16]{0}), f32[16,32]{1,0}) fusion(%x, %n), kind=kInput, calls=%fused
}
"""  # noqa: E501


def test_a_fusion_writes_all_parts_of_a_tuple_in_a_tuple():
  # Both operands and three results.
  assert hlo.traffic(MAXIMA).accessed == 4 * (3 * 16 * 32 + 2 * 16)
