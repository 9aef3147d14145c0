"""FLOPs read from the text of programs, against those of their shapes."""

import jax
import jax.numpy as jnp
import pytest
from updates import FAST

from dlrl.costs import flops as flops_lib
from dlrl.costs import hlo
from dlrl.costs import hlo_products
from dlrl.costs import hlo_text


def shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, "float32")


@pytest.mark.parametrize("fn, args", [
  (lambda x, w: jnp.tanh(x @ w), (shape(6, 32), shape(32, 48))),
  (lambda x, w: jnp.einsum("bthk,bshk->bhts", x, w),
   (shape(2, 24, 4, 16), shape(2, 40, 4, 16))),
  (lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0],
   (shape(24, 32), shape(5, 32, 32))),
  (lambda x, w: jax.lax.conv_general_dilated(
    x, w, (2, 1), ((1, 2), (0, 3)), (1, 2), (2, 1),
    dimension_numbers=("NHWC", "HWIO", "NHWC")),
   (shape(2, 11, 9, 16), shape(3, 2, 16, 24))),
], ids=["product", "batched", "scan", "convolution"])
def test_flops_of_a_program_are_those_of_its_function(fn, args):
  kernels = hlo.traffic(
    jax.jit(fn).lower(*args).compile(FAST).as_text()).kernels
  assert sum(k.flops * n for k, n in kernels.items()) == flops_lib.flops(
    fn, *args)
  assert not any(k.opaque for k in kernels)


def one(text):
  lines, entry = hlo_text.computations(
    f"ENTRY %main (a: f32[1]) -> f32[1] {{\n{text}\n}}")
  shapes = {x.name: x.shape for x in lines[entry]}
  line = lines[entry][-1]
  return hlo_products.flops(line, shapes), hlo_products.opaque(line)


def test_heads_in_a_window_of_a_tpu_are_products():
  # Of v5p's windowed q: rows [8, 1024, 512] by [512, 32 heads, 128].
  text = """  %a = bf16[8,1024,2,256,1]{3,1,0,2,4:T(8,128)(2,1)S(1)} parameter(0)
  %b = bf16[32,128,2,256,1]{3,1,2,0,4} parameter(1)
  ROOT %c = bf16[8,1024,32,128,1]{3,1,4,2,0} convolution(%a, %b), window={size=1x32x2 pad=0_0x31_31x0_0 rhs_reversal=0x1x0}, dim_labels=0b2f1_1o2i0->0b1f2"""  # noqa: E501
  assert one(text) == (2 * 8 * 1024 * 512 * 32 * 128, False)


def test_rows_and_heads_that_are_spread_are_batches():
  # Scores of one block's 32 queries: each row and head by itself.
  text = """  %a = bf16[8,32,32,128]{3,2,1,0} parameter(0)
  %b = bf16[8,32,1024,128]{3,2,1,0} parameter(1)
  ROOT %c = f32[8,32,32,1024]{3,2,1,0} convolution(%a, %b), window={size=8x32 stride=7x31 lhs_dilate=8x32}, dim_labels=01bf_01oi->01bf"""  # noqa: E501
  assert one(text) == (2 * 8 * 32 * 32 * 1024 * 128, False)


def test_a_gpus_gemm_is_a_product():
  text = """  %a = bf16[16,64]{1,0} parameter(0)
  %b = bf16[64,24]{1,0} parameter(1)
  ROOT %c = (bf16[16,24]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}"""  # noqa: E501
  assert one(text) == (2 * 16 * 64 * 24, False)


@pytest.mark.parametrize("target, opaque", [
  ("__cudnn$fmhaSoftmaxBackward", True), ("tpu_custom_call", True),
  ("AsyncCollectiveStart", False), ("TopK", False)])
def test_attention_is_opaque(target, opaque):
  text = f"""  %a = bf16[16,64]{{1,0}} parameter(0)
  ROOT %c = bf16[16,24]{{1,0}} custom-call(%a), custom_call_target="{target}"
"""
  assert one(text.rstrip()) == (0, opaque)


def kernel(name, result, stated=""):
  """A kernel on a TPU of 64 groups of rows, [8192, 512] and [64, 512, 256]."""
  return f"""  %s = s32[65]{{0:T(128)S(1)}} parameter(0)
  %x = bf16[8192,512]{{1,0:T(8,128)(2,1)}} parameter(1)
  %w = bf16[64,512,256]{{2,1,0:T(8,128)(2,1)}} parameter(2)
  ROOT %c = {result} custom-call(%s, %x, %w), custom_call_target="tpu_custom_call", metadata={{op_name="{name}"}}, backend_config={{"flag_configs":[],"custom_call_config":{{"body":"bW9k"{stated},"needs_layout_passes":true}}}}"""  # noqa: E501


def test_products_of_groups_say_what_they_compute():
  stated = (',"cost_estimate":{"flops":"2147483648","transcendentals":"0",'
            '"bytes_accessed":"29360384"}')
  rows = "bf16[8192,256]{1,0:T(8,128)(2,1)}"
  text = kernel("jit(fn)/ragged_dot_general/ragged-dot-none", rows, stated)
  assert one(text) == (2 * 8192 * 512 * 256, False)
  traffic = hlo.traffic(f"ENTRY %main (a: f32[1]) -> f32[1] {{\n{text}\n}}")
  # Rows and matrices once, and not the starts of groups, in a core's memory.
  assert traffic.accessed == 2 * (8192 * 512 + 64 * 512 * 256 + 8192 * 256)
  # The same kernel without its figures could be anything.
  assert one(kernel("attention", rows)) == (0, True)
  assert one(kernel("ragged-dot-metadata", "s32[65]{0}")) == (0, False)


@pytest.mark.parametrize("text, want", [
  ("""  %a = s8[4,64,6144]{2,1,0:T(8,128)(4,1)} parameter(0)
  %b = s8[6144,4096,1]{1,0,2:T(8,128)(4,1)} parameter(1)
  ROOT %c = s32[4,64,4096]{2,1,0} convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf""",  # noqa: E501
   (True, False)),
  ("""  %a = f8e4m3fn[64,48]{1,0} parameter(0)
  %b = f8e4m3fn[48,32]{1,0} parameter(1)
  ROOT %c = f32[64,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}""",  # noqa: E501
   (False, True)),
  ("""  %a = bf16[64,48]{1,0} parameter(0)
  %b = s8[48,32]{1,0} parameter(1)
  ROOT %c = bf16[64,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}""",  # noqa: E501
   (False, False)),
], ids=["int8", "fp8", "mixed"])
def test_formats_are_those_of_both_factors(text, want):
  kernel, = hlo.traffic(
    f"ENTRY %main (a: s8[1]) -> f32[1] {{\n{text}\n}}").kernels
  assert kernel.flops > 0
  assert (kernel.int8, kernel.fp8) == tuple(kernel.flops * x for x in want)
