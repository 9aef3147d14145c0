"""The devices, and the presets' settings at a size that fits them."""

import dataclasses
import functools
from typing import Any

import jax
import ml_collections

from benchmarks.accelerator import rows as rows_lib
from configs import bgpo
from dlrl import config
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs import memory
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import gpu
from dlrl.runtime import mesh as mesh_lib

LLADA, SHORT_PROMPTS = "llada_8b_math_1gpu", "llada_8b_countdown_1gpu"
SDAR = "sdar_4b_countdown_1gpu"
# Largest shares of a device's memory: for weights, and for the state and
# gradients of an update of all parameters. The rest is for activations and
# caches.
WEIGHTS, STATE = 0.45, 0.8
_TINY = dict(vocab_size=512, width=32, layers=2, heads=2, kv_heads=2,
             head_dim=16, mlp_width=64)
_SHORT = {
  "task.prompt_length": 8, "rollout.sampler.gen_length": 16,
  "rollout.sampler.steps": 8}


@dataclasses.dataclass(frozen=True)
class Scale:
  """The devices that the benchmark runs on.

  Attributes:
    devices: those of this host.
    platform: "cpu", "gpu" or "tpu"; that of the devices, or what programs are
      lowered for.
    limit: bytes that JAX can use of each; None: unknown.
    dry: whether all shapes are tiny.
  """

  devices: tuple[jax.Device, ...]
  platform: str
  limit: int | None = None
  dry: bool = False

  @property
  def chip(self) -> chips.Chip | None:
    """The device's published peaks; None: unknown."""
    return chips.find(self.devices[0].device_kind)

  @functools.cached_property
  def alone(self) -> jax.sharding.Mesh:
    """A mesh of the first device."""
    return mesh_lib.make(config.MeshConfig(1, 1, 1), self.devices[:1])


def present(rows: rows_lib.Rows, *, dry: bool) -> Scale:
  """The devices of this host, which a row describes."""
  gpu.take(config.MeshConfig().gpu_memory)
  devices = mesh_lib.found()
  first = devices[0]
  limit = (first.memory_stats() or {}).get("bytes_limit")
  rows.put("device", kind=first.device_kind, count=len(devices),
           platform=first.platform, limit_gib=limit and limit / 2**30,
           jax=jax.__version__)
  return Scale(tuple(devices), first.platform, limit, dry)


def llada(scale: Scale, rows: int, changes: dict[str, Any],
          preset: str = LLADA) -> setup_lib.Setup:
  """LLaDA-8B's shape on all devices.

  Args:
    scale: the devices.
    rows: completions per device.
    changes: settings that differ from the preset's.
    preset: of `configs/bgpo.py`.
  """
  count = len(scale.devices)
  cfg = bgpo.get_config(preset)
  cfg.mesh.fsdp = count
  group = min(rows, cfg.rollout.group_size)
  cfg.rollout.group_size = group
  cfg.rollout.prompts = rows * count // group
  cfg.learn.micro_batch = rows * count
  return _setup(scale, cfg, changes, scale.devices)


def sdar(scale: Scale, rows: int) -> setup_lib.Setup:
  """SDAR-4B's shape with plain weights on the first device."""
  cfg = bgpo.get_config(SDAR)
  cfg.rollout.prompts = rows // cfg.rollout.group_size
  return _setup(scale, cfg, {"lora.rank": 0}, scale.devices[:1])


def shrink(cfg: ml_collections.ConfigDict) -> None:
  """Changes model, prompts and completions, in place, to tiny ones."""
  cfg.model.update(_TINY)
  cfg.rollout.sampler.block_length = cfg.model.block_length or 8
  cfg.update_from_flattened_dict(_SHORT)


def whole_or_adapters(scale: Scale) -> dict[str, Any]:
  """Changes to `llada`'s settings: all parameters are trained if they fit."""
  changes = {"lora.rank": 0, "model.param_dtype": "float32"}
  state = train_state.abstract_rl(llada(scale, 8, changes))
  needed = memory.per_device(memory.parts(state))
  fits = scale.limit is not None and needed < STATE * scale.limit
  return changes if fits else {}


def _setup(
  scale: Scale, cfg: ml_collections.ConfigDict, changes: dict[str, Any],
  devices: tuple[jax.Device, ...],
) -> setup_lib.Setup:
  if scale.dry:
    shrink(cfg)
    cfg.learn.logps_chunk = 64
    if cfg.lora.rank:
      cfg.lora.rank = 4
  cfg.eval.batch_size = cfg.sft.batch_size = len(devices)
  cfg.update_from_flattened_dict(changes)
  setup = setup_lib.make(validate.from_dict(cfg), devices)
  while (scale.limit is not None and setup.cfg.model.layers > 1
         and _weights(setup) > WEIGHTS * scale.limit):
    # Speeds of a part of the layers still say what the device can do.
    cfg.model.layers = setup.cfg.model.layers // 2
    setup = setup_lib.make(validate.from_dict(cfg), devices)
  # The last id, so that prompts and completions can have all the others.
  model = transformer.build(
    setup.cfg.model, setup.cfg.model.vocab_size - 1, setup.cfg.lora)
  return dataclasses.replace(setup, model=model)


def _weights(setup: setup_lib.Setup) -> int:
  return memory.per_device(jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=x.sharding),
    setup.abstract_params()))


def plain(setup: setup_lib.Setup) -> transformer.Model:
  """The model without kernels and recomputation, to count its FLOPs.

  Kernels do not say what they compute, and the model needs nothing twice.
  """
  return transformer.build(
    dataclasses.replace(setup.cfg.model, attention="xla", remat="none"),
    setup.model.mask_id, setup.cfg.lora)
