"""Describes GPUs to XLA, which then compiles for them without having one.

The figures are from NVIDIA's data sheets and CUDA's `deviceQuery`, as in XLA's
own target descriptions.
"""

import dataclasses

from dlrl.costs import chips


@dataclasses.dataclass(frozen=True)
class Target:
  """One GPU; sizes are bytes.

  Attributes:
    kind: `device_kind` of such a device in JAX.
    capability: major number of its CUDA compute capability.
    cores: streaming multiprocessors.
    lanes: fp32 units of each.
    clock: GHz.
    l2: size of the L2 cache.
    shared: shared memory of a core.
  """

  kind: str
  capability: int
  cores: int
  lanes: int
  clock: float
  l2: int
  shared: int


TARGETS = {
  "a100": Target(
    "NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 41_943_040, 167_936),
  "h100": Target(
    "NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 52_428_800, 233_472),
  "h200": Target("NVIDIA H200", 9, 132, 128, 1.98, 52_428_800, 233_472),
  "b200": Target("NVIDIA B200", 10, 148, 128, 1.965, 132_644_864, 233_472),
}
# Versions to compile for; JAX lowers attention for this version of cuDNN.
CUDNN, CUDA = (9, 10), (12, 8)
_RESERVED = 1024  # bytes of shared memory per block that the driver keeps


def description(target: Target) -> str:
  """The text of a `stream_executor.GpuTargetConfigProto`."""
  chip = chips.CHIPS[target.kind]
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.shared}
  shared_memory_per_block_optin: {target.shared - _RESERVED}
  core_count: {target.cores}
  fpus_per_core: {target.lanes}
  clock_rate_ghz: {target.clock}
  memory_bandwidth: {int(chip.bandwidth)}
  l2_cache_size: {target.l2}
  device_memory_size: {chip.hbm}
  cuda_compute_capability {{ major: {target.capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} }}
runtime_version {{ major: {CUDA[0]} minor: {CUDA[1]} }}
device_description_str: "{target.kind}"
"""
