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
    hbm: bytes available to a program; on TPUs, what the compiler leaves.
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
  "NVIDIA A100-SXM4-80GB": Chip(312e12, 80 * GiB, 2039e9, 300e9),
  "NVIDIA H100 80GB HBM3": Chip(989e12, int(79.6 * GiB), 3350e9, 450e9),
  "NVIDIA H200": Chip(989e12, int(140.4 * GiB), 4800e9, 450e9),
}


def find(device_kind: str) -> Chip | None:
  """The chip's peaks; None if the table does not have it."""
  return CHIPS.get(device_kind)
