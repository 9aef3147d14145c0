"""FLOPs of the instructions of a compiled program.

`flops` counts those of a whole function as traced. Here each kernel's are
needed, to tell which of products and memory takes longer.
"""

import math
import re
from collections.abc import Mapping

from dlrl.costs import hlo_text

# Kernels that may compute products, of which their text does not tell.
_OPAQUE = re.compile(r'custom_call_target="(__cudnn\$|tpu_custom_call|Mosaic)')
# What a TPU's kernel says of itself, if anything. Products of groups of rows
# do: XLA's own and those of Pallas. As if every row were in a group.
_STATED = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')
# Computes where the groups of XLA's own start.
_PREPARES = 'op_name="ragged-dot-metadata"'
_GEMM = re.compile(r'custom_call_target="__cublas\$')


def flops(line: hlo_text.Line, shapes: Mapping[str, str]) -> int:
  """FLOPs of one instruction, without those that it calls.

  Args:
    line: the instruction.
    shapes: of the values of its computation, by name.

  Returns:
    2 m n k of products; 0 of all others, and of opaque kernels.
  """
  if line.op == "custom-call" and (stated := _STATED.search(line.rest)):
    return int(stated[1])
  if line.op == "dot":
    return _product(line, shapes, r"lhs_contracting_dims=\{([\d,]*)\}")
  if line.op == "custom-call" and _GEMM.search(line.rest):
    return _product(
      line, shapes, r'"lhs_contracting_dimensions":\[([\d,"]*)\]')
  if line.op == "convolution":
    return _convolution(line, shapes)
  return 0


def formats(line: hlo_text.Line, shapes: Mapping[str, str]
            ) -> tuple[bool, bool]:
  """Whether a product, see `flops`, is one of int8, and one of fp8, values."""
  factors = [shapes.get(name, "") for name in line.operands[:2]]
  return (all(shape.startswith("s8[") for shape in factors),
          all(shape.startswith("f8") for shape in factors))


def opaque(line: hlo_text.Line) -> bool:
  """Whether the instruction may compute products that `flops` does not see."""
  return (line.op == "custom-call" and bool(_OPAQUE.search(line.rest))
          and not _STATED.search(line.rest) and _PREPARES not in line.rest)


def _product(line: hlo_text.Line, shapes: Mapping[str, str], axes: str) -> int:
  left = hlo_text.dimensions(shapes[line.operands[0]])
  found = re.search(axes, line.rest)
  summed = re.findall(r"\d+", found[1]) if found else []
  return 2 * math.prod(hlo_text.dimensions(line.shape)) * math.prod(
    left[int(i)] for i in summed)


def _convolution(line: hlo_text.Line, shapes: Mapping[str, str]) -> int:
  """As `flops` counts them; a TPU's batched products are convolutions, too."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
  assert labels is not None
  left, right, out = (
    dict(zip(names, hlo_text.dimensions(shape), strict=True))
    for names, shape in zip(
      labels.groups(), (*(shapes[x] for x in line.operands[:2]), line.shape),
      strict=True))
  window = re.search(r"window=\{([^}]*)\}", line.rest)
  given = dict(x.split("=") for x in window[1].split()) if window else {}

  def by_axis(name: str, default: str) -> list[str]:
    return given[name].split("x") if name in given else [default] * len(spatial)

  spatial = sorted(set(out) - set("bf"))
  total = 2 * out["b"] * out["f"] * right["i"]
  for axis, stride, pad, hole, spread in zip(
      spatial, by_axis("stride", "1"), by_axis("pad", "0_0"),
      by_axis("lhs_dilate", "1"), by_axis("rhs_dilate", "1"), strict=True):
    before, holes = int(pad.split("_")[0]), int(hole)
    last = (left[axis] - 1) * holes
    at = (o * int(stride) - before + k * int(spread)
          for o in range(out[axis]) for k in range(right[axis]))
    total *= sum(0 <= i <= last and i % holes == 0 for i in at)
  return total
