"""Peak rates of accelerators, from their makers' data sheets.

Figures are per JAX device: a chip, or one of the two cores of a TPU7x.
"""

import dataclasses

GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published peaks of one device; nothing here is measured.

  Attributes:
    flops: dense bf16 matrix products, FLOPs per second.
    int8: operations of int8 products per second; None: the maker names none.
    fp8: the same of fp8 products.
    hbm: bytes of memory: on TPUs those that the compiler leaves to a program,
      on GPUs all that CUDA has, see `pool`.
    bandwidth: bytes per second of the HBM.
    links: bytes per second received over all links of the slice or node.
  """

  flops: float
  hbm: int
  bandwidth: float
  links: float
  int8: float | None = None
  fp8: float | None = None

  def seconds(self, flops: float, int8: float = 0, fp8: float = 0) -> float:
    """The least time of matrix products.

    Args:
      flops: of all of them.
      int8: those of them that are in int8.
      fp8: those in fp8. A format that the maker names no peak of counts as
        bf16.
    """
    return ((flops - int8 - fp8) / self.flops
            + int8 / (self.int8 or self.flops) + fp8 / (self.fp8 or self.flops))


# Keys are `device_kind`. TPUs: Google Cloud's pages on v5e, v5p, v6e, TPU7x;
# their link bandwidth counts both directions. GPUs: NVIDIA's SXM data sheets.
CHIPS = {
  "TPU v5 lite": Chip(197e12, int(15.75 * GiB), 819e9, 200e9, int8=394e12),
  "TPU v5": Chip(459e12, int(95.74 * GiB), 2765e9, 600e9, int8=918e12),
  "TPU v6 lite": Chip(
    918e12, int(31.25 * GiB), 1638e9, 400e9, int8=1836e12),
  "TPU7x": Chip(1153.5e12, int(94.75 * GiB), 3690e9, 300e9, fp8=2307e12),
  "NVIDIA A100-SXM4-80GB": Chip(
    312e12, 85_100_068_864, 2039e9, 300e9, int8=624e12),
  "NVIDIA H100 80GB HBM3": Chip(
    989e12, 84_942_979_072, 3350e9, 450e9, int8=1979e12, fp8=1979e12),
  "NVIDIA H200": Chip(
    989e12, 151_397_597_184, 4800e9, 450e9, int8=1979e12, fp8=1979e12),
  "NVIDIA B200": Chip(
    2250e12, 191_514_411_008, 8000e9, 900e9, int8=4500e12, fp8=4500e12),
}


def find(device_kind: str) -> Chip | None:
  """The chip's peaks; None if the table does not have it."""
  return CHIPS.get(device_kind)


def pool(chip: Chip, platform: str, share: float) -> int:
  """Bytes that JAX can give to a program and its arrays.

  Args:
    chip: of the device.
    platform: of the device, "gpu" or "tpu".
    share: of a GPU's memory that JAX takes; the rest is for CUDA, NCCL and
      other libraries. On TPUs, `Chip.hbm` is what remains already.
  """
  return int(chip.hbm * share) if platform == "gpu" else chip.hbm
