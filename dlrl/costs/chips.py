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
    hbm: bytes of memory: on TPUs those that the compiler leaves to a program,
      on GPUs all that CUDA has, see `pool`.
    bandwidth: bytes per second of the HBM.
    links: bytes per second received over all links of the slice or node.
  """

  flops: float
  hbm: int
  bandwidth: float
  links: float


# Keys are `device_kind`. TPUs: Google Cloud's pages on v5e, v5p, v6e, TPU7x;
# their link bandwidth counts both directions. GPUs: NVIDIA's SXM data sheets.
CHIPS = {
  "TPU v5 lite": Chip(197e12, int(15.75 * GiB), 819e9, 200e9),
  "TPU v5": Chip(459e12, int(95.74 * GiB), 2765e9, 600e9),
  "TPU v6 lite": Chip(918e12, int(31.25 * GiB), 1638e9, 400e9),
  "TPU7x": Chip(1153.5e12, int(94.75 * GiB), 3690e9, 300e9),
  "NVIDIA A100-SXM4-80GB": Chip(312e12, 85_100_068_864, 2039e9, 300e9),
  "NVIDIA H100 80GB HBM3": Chip(989e12, 84_942_979_072, 3350e9, 450e9),
  "NVIDIA H200": Chip(989e12, 151_397_597_184, 4800e9, 450e9),
  "NVIDIA B200": Chip(2250e12, 191_514_411_008, 8000e9, 900e9),
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
