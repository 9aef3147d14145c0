"""`--compile_only=v5e-64`: does a run fit, and what bounds its speed?

Compiles the programs of a run with the real compiler, for devices that need not
be present. Nothing is allocated, loaded or written, and no data are prepared.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import jax

from dlrl import config
from dlrl import optimizer
from dlrl import rollout
from dlrl import sft
from dlrl import train
from dlrl import update
from dlrl.costs import chips
from dlrl.costs import flops as flops_lib
from dlrl.costs import memory
from dlrl.costs import program_report
from dlrl.costs import time_bound
from dlrl.costs import topology
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.sampling import block_decode
from dlrl.sampling import denoise
from dlrl.storage import output_paths

ASSUMED = "\n".join((
  "What the terms of the least time, which add up, assume:",
  *(f"  {name}: {meaning}" for name, meaning in time_bound.TERMS.items()),
  "  all: every micro-batch has an advantage, rollouts take all their steps; "
  "rewards", "    and the networks between slices and hosts are left out"))


def main(cfg: config.Config, name: str, path: str | None = None,
         flag: str = "compile_only") -> bool:
  """Prints the table and returns whether all programs fit, as far as known.

  Args:
    cfg: config of the run.
    name: name of the devices, see `topology`.
    path: JSON file for the same figures; None: none is written.
    flag: that the user named the devices with.

  Raises:
    strict.ConfigError: the devices are unknown, or the config does not fit
      their number.
  """
  target = output_paths.file("json", path) if path else None
  if name == "cpu":
    mesh_lib.split_cpu(cfg.mesh.cpu_devices)
  devices = topology.devices(name, flag)
  setup = setup_lib.make(cfg, devices)
  kind = devices[0].device_kind
  chip = chips.find(kind)
  progress.say(f"compiling {cfg.job} of {cfg.task.name} for {len(devices)} x "
               f"{kind}, mesh {dict(setup.mesh.shape)}")
  limit = chips.pool(
    chip, devices[0].platform, cfg.mesh.gpu_memory) if chip else None
  reports = compile_all(setup, limit)
  abstract = (train_state.abstract_sft if cfg.job == "sft" else
              train_state.abstract_rl)(setup)
  state = {part: memory.per_device(tree)
           for part, tree in memory.parts(abstract).items()}
  lacking = [r for r in reports if r.fits is False]
  advice = suggestions(setup.cfg, dict(setup.mesh.shape), state, lacking)
  result = {
    "topology": name, "devices": len(devices), "device_kind": kind,
    "mesh": dict(setup.mesh.shape), "jax": jax.__version__, "limit": limit,
    "state": state, "assumed": ASSUMED, "suggestions": advice,
    "programs": [_as_json(r, chip) for r in reports]}
  if target:
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
  terminal.show(text(reports, state, chip, advice))
  if chip and devices[0].platform == "gpu":
    terminal.show(f"A device has {memory.as_text(chip.hbm)}, of which "
                  f"mesh.gpu_memory = {cfg.mesh.gpu_memory} is JAX's.")
  return not lacking


def compile_all(
  setup: setup_lib.Setup, limit: int | None
) -> list[program_report.Report]:
  """Reports of the job's programs, in the order in which they run.

  Args:
    setup: parts of the run, on the devices to compile for.
    limit: memory of a device, bytes; None: unknown.
  """
  cfg = setup.cfg
  # Outside of the mesh, because optimizers create small arrays here.
  of_sft, of_rl = (
    train_state.abstract_sft(setup), train_state.abstract_rl(setup))
  # The FLOPs of attention kernels are unknown; plain attention has the same.
  plain = dataclasses.replace(setup, model=transformer.build(
    dataclasses.replace(cfg.model, attention="xla"), setup.model.mask_id,
    cfg.lora))

  def report(name: str, program: Any, counted: Any, args: Sequence[Any],
             trips: Sequence[int] = ()) -> program_report.Report:
    return program_report.of(
      name, program, args, limit=limit, while_trips=trips,
      flops=flops_lib.flops(counted, *args, while_trips=trips))[0]

  reports = []
  with jax.set_mesh(setup.mesh):
    if cfg.job == "sft" or (cfg.sft.steps and not cfg.init_from):
      tx = optimizer.for_sft(cfg)
      step, plain_step = (
        sft.make_step(s.model, cfg.sft, tx, setup.tokenizer.eos_id)
        for s in (setup, plain))
      reports.append(report("fine-tuning", sft.jit(step, of_sft), plain_step,
                            (of_sft, sft.input_shapes(setup))))
    if cfg.job == "rl":
      tx = optimizer.for_rl(cfg)
      programs, counted = (
        train.make_programs(s, tx, of_rl) for s in (setup, plain))
      args = (of_rl, *rollout.input_shapes(setup))
      sampler = cfg.rollout.sampler
      trips = (block_decode if cfg.model.block_length else denoise).most_trips(
        sampler, cfg.rollout.prompts * cfg.rollout.group_size)
      reports.append(
        report("rollout", programs[0], counted[0], args, trips))
      reports.append(report("update", programs[1], counted[1],
                            train.learn_shapes(setup, programs[0], args)))
  return reports


def suggestions(
  cfg: config.Config, mesh: dict[str, int], state: dict[str, int],
  lacking: Sequence[program_report.Report],
) -> list[str]:
  """Settings that may make the programs fit, the most promising first.

  Args:
    cfg: config of the run.
    mesh: devices by mesh axis.
    state: bytes per device by their contents, see `memory.parts`.
    lacking: reports of the programs that do not fit.
  """
  if not lacking:
    return []
  names = {r.name for r in lacking}
  advice = []
  held, limit = sum(state.values()), lacking[0].limit or 0
  if mesh["data"] > 1 and held > limit / 4:
    advice.append("--config.mesh.data=1 --config.mesh.fsdp=-1: shards "
                  "parameters and optimizer over all devices")
  if "update" in names:
    advice += _of_update(cfg, mesh)
  if "rollout" in names:
    advice += _of_rollout(cfg, mesh)
  tensor = 2 * mesh["tensor"]
  if mesh["fsdp"] % 2 == 0 and cfg.model.kv_heads % tensor == 0:
    advice.append(
      f"--config.mesh.fsdp={mesh['fsdp'] // 2} --config.mesh.tensor={tensor}: "
      "splits matrices and logits over more devices")
  if held > limit / 2:
    if not cfg.lora.rank:
      if cfg.learn.optimizer.moment_dtype == "float32":
        advice.append("--config.learn.optimizer.moment_dtype=bfloat16")
      advice.append("--config.lora.rank=128 --config.model.param_dtype="
                    "bfloat16: trains adapters on frozen parameters")
      if math.prod(mesh.values()) == 1:
        advice.append(memory.ONE_GPU)
    advice.append(f"more devices: parameters, gradients and optimizer take "
                  f"{memory.as_text(held)} of {memory.as_text(limit)}")
  return advice or ["more devices"]


def _of_update(cfg: config.Config, mesh: dict[str, int]) -> list[str]:
  learn, parts = cfg.learn, mesh_lib.shards(mesh)
  advice = []
  if cfg.model.remat != "full":
    advice.append("--config.model.remat=full: recomputes layers")
  together = update.objective(learn).together
  least = math.lcm(parts, together)
  smaller = [n for n in range(least, learn.micro_batch, least)
             if learn.micro_batch % n == 0]
  if smaller:
    advice.append(f"--config.learn.micro_batch={smaller[-1]}: fewer "
                  "completions at a time")
  if learn.draws_at_once > 1:
    advice.append("--config.learn.draws_at_once=1: one draw at a time")
  if learn.logps_chunk > 256:
    advice.append(f"--config.learn.logps_chunk={learn.logps_chunk // 2}: "
                  "logits of fewer positions at a time")
  return advice


def _of_rollout(cfg: config.Config, mesh: dict[str, int]) -> list[str]:
  rollout, parts = cfg.rollout, mesh_lib.shards(mesh)
  advice = []
  if rollout.sampler.gather_once:
    advice.append("--config.rollout.sampler.gather_once=False: gathers one "
                  "layer at a time, in every pass")
  if rollout.sampler.cache != "none":
    advice.append("--config.rollout.sampler.cache=none")
  if rollout.prompts * rollout.group_size > parts and rollout.prompts > 1:
    advice.append(f"--config.rollout.prompts={rollout.prompts // 2}: all "
                  "completions of a step are decoded at once")
  return advice


def _as_json(report: program_report.Report, chip: chips.Chip | None
             ) -> dict[str, Any]:
  figures = {field.name: getattr(report, field.name)
             for field in dataclasses.fields(report) if field.name != "traffic"}
  return figures | {
    "fits": report.fits,
    "least_seconds": report.least_seconds(chip) if chip else None}


def text(
  reports: Sequence[program_report.Report], state: dict[str, int],
  chip: chips.Chip | None, advice: Sequence[str],
) -> str:
  """The printed table; figures are per device."""
  columns = [_column(r, chip) for r in reports]
  names = list(dict.fromkeys(name for c in columns for name in c))
  width = max(map(len, names))
  lines = ["", " " * width + "".join(f"{r.name:>22}" for r in reports)]
  lines += [f"{name:{width}}" + "".join(
    f"{c.get(name, '-'):>22}" for c in columns) for name in names]
  lines += ["", "arguments by contents (gradients are temporaries): "
            + ", ".join(f"{part} {memory.as_text(n)}"
                        for part, n in state.items() if n)]
  lines += [_verdict(r) for r in reports]
  if chip is not None:
    lines.append(ASSUMED)
  if advice:
    lines += ["Settings that may help (not tried):",
              *(f"  {x}" for x in advice)]
  return "\n".join(lines)


def _verdict(report: program_report.Report) -> str:
  if report.limit is None:
    return (f"{report.name}: unknown whether it fits; the memory and speed of "
            "this device are not in dlrl/costs/chips.py")
  spare = memory.as_text(abs(report.limit - report.needed))
  return f"{report.name}: " + (
    f"fits, {spare} to spare" if report.fits
    else f"does not fit, by {spare}")


def _column(
  report: program_report.Report, chip: chips.Chip | None
) -> dict[str, str]:
  """Maps names to values, in the order of the table."""
  sizes = {
    "arguments": report.arguments, "temporaries": report.temporaries,
    "output": report.output, "code": report.code, "together": report.needed,
    "a device has": report.limit}
  rows = {name: memory.as_text(size) for name, size in sizes.items()
          if size is not None}
  rows["GFLOPs of products"] = f"{report.flops / 1e9:,.3f}"
  if report.accessed is not None:
    rows["GB read and written"] = f"{report.accessed / 1e9:,.3f}"
  for kind, found in (report.collectives or {}).items():
    rows[f"{kind}, times, GB"] = (
      f"{found['count']:,}  {found['bytes'] / 1e9:,.3f}")
  if chip is not None:
    least = report.least_seconds(chip)
    rows |= {f"least s, {part}": f"{s:,.3f}" for part, s in least.items()}
    total = sum(least.values())
    rows["least s"] = f"{total:,.3f}"
    rows["products at peak, of it"] = (
      f"{report.product_seconds(chip) / total:.0%}")
  return rows | {"s to compile": f"{report.seconds:.1f}"}
