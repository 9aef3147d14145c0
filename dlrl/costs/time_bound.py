"""The least time of a compiled program, by what cannot overlap."""

from collections.abc import Iterable
from collections.abc import Mapping

from dlrl.costs import chips
from dlrl.costs import hlo

# The terms of the bound, which add up, and what each assumes.
TERMS = {
  "products": "kernels that multiply for longer than they read and write, at "
              "the peak of their format, which for fp32 is bf16's",
  "memory": "all others, at the memory's peak rate; kernels run one by one",
  "links": "collectives beside which no kernel runs, at the links' peak rate",
  "links beside": "other collectives, beyond the time of all kernels",
}


def seconds(
  kernels: Mapping[hlo.Kernel, int], collectives: Iterable[hlo.Collective],
  flops: float, chip: chips.Chip,
) -> dict[str, float]:
  """The terms of the bound, of one run on one device.

  Args:
    kernels: how often each kind of kernel runs.
    collectives: of more than one device.
    flops: of all matrix products. What is not in `kernels` is attributed to
      the opaque ones among them, such as attention.
    chip: peak rates.
  """
  products = memory = 0.0
  rest, opaque = flops, 0
  for kernel, times in kernels.items():
    rest -= times * kernel.flops
    if kernel.opaque:
      opaque += times * kernel.accessed
      continue
    multiply = chip.seconds(kernel.flops, kernel.int8, kernel.fp8)
    move = kernel.accessed / chip.bandwidth
    if multiply >= move:
      products += times * multiply
    else:
      memory += times * move
  multiply, move = max(rest, 0) / chip.flops, opaque / chip.bandwidth
  if opaque and multiply >= move:
    products += multiply
  else:
    memory += move
  alone = beside = 0.0
  for one in collectives:
    if one.beside:
      beside += one.moved / chip.links
    else:
      alone += one.moved / chip.links
  return {"products": products, "memory": memory, "links": alone,
          "links beside": max(0.0, beside - products - memory)}
