"""Rollouts of LLaDA-8B's shape by mode, and of SDAR-4B's: tokens/s and MFU.

Random weights are never confident: a threshold then commits one token of each
row per pass, the least that it can.
"""

import functools
import time
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator import arrays
from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl import update
from dlrl.costs.flops import flops
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.sampling import denoise
from dlrl.sampling.steps import DecodeState

ROWS = 16  # completions per device
# Four blocks, half of the preset's tokens, show the cost of a block. With the
# prefix cache each block is compiled by itself, which takes long.
SHORT = {"rollout.sampler.gen_length": 128, "rollout.sampler.steps": 64,
         "lora.rank": 0}
# Seconds; what a first call costs beside its work is little of more than that.
AGAIN = 10.0
EXACT = "exact"
MODES: dict[str, dict[str, Any]] = {
  EXACT: {"cache": "none"}, "dual cache": {"cache": "dual"},
  "dual cache, threshold 0.9": {"cache": "dual", "threshold": 0.9},
  "prefix cache": {"cache": "prefix"}}


def name_of(mode: str) -> str:
  """Names the row of a mode."""
  return f"rollout, {mode}"


def setups(scale: scale_lib.Scale) -> dict[str, setup_lib.Setup]:
  """LLaDA-8B's rollouts, by name."""
  rows, short = (2, {"lora.rank": 0}) if scale.dry else (ROWS, SHORT)
  return {name_of(mode): scale_lib.llada(scale, rows, short | {
    f"rollout.sampler.{k}": v for k, v in changes.items()},
    scale_lib.SHORT_PROMPTS) for mode, changes in MODES.items()}


def decode(
  setup: setup_lib.Setup, model: transformer.Model, params: Any,
  batch: update.Batch,
) -> DecodeState:
  """Decodes as a run does; rows do not end early."""
  return denoise.decode(
    model, params, batch.prompt, batch.prompt_length, batch.keys,
    sampler=setup.cfg.rollout.sampler, group=setup.cfg.rollout.group_size)


def program(setup: setup_lib.Setup) -> programs_lib.Program:
  """The rollout of a setup."""
  return programs_lib.Program(
    jax.jit(functools.partial(decode, setup, setup.model)),
    (setup.abstract_params(), arrays.batch_shapes(setup)), setup.mesh)


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """The rollouts by mode."""
  return {name: program(setup) for name, setup in setups(scale).items()}


def work(setup: setup_lib.Setup) -> tuple[int, float, float]:
  """Passes that a rollout takes at least, their FLOPs, and those of another.

  Without a cache, all passes are alike. With one, each block begins with a pass
  of all columns, and later ones are equally many in all blocks.
  """
  sampler = setup.cfg.rollout.sampler
  fn = functools.partial(decode, setup, scale_lib.plain(setup))
  args = setup.abstract_params(), arrays.batch_shapes(setup)

  def counted(*trips: int) -> int:
    with jax.set_mesh(setup.mesh):
      return flops(fn, *args, while_trips=trips)

  if sampler.cache == "none":
    return 0, 0, counted(1)
  blocks = sampler.gen_length // sampler.block_length
  outer = 1 if sampler.cache == "prefix" else blocks
  first = counted(outer, 0)
  return blocks, first, (counted(outer, 1) - first) / blocks


def measure(
  scale: scale_lib.Scale, rows: rows_lib.Rows, name: str,
  setup: setup_lib.Setup, compiled: Any, params: Any,
  costs: tuple[int, float, float] | None = None,
) -> None:
  """Times one rollout; `costs` are those of `work`, None if it is not counted.
  """
  batch = jax.block_until_ready(arrays.batch(setup))

  def decoded() -> tuple[Any, float]:
    start = time.monotonic()
    found = jax.block_until_ready(compiled(params, batch))
    return found, time.monotonic() - start

  found, took = decoded()
  if took < AGAIN:
    _, took = decoded()
  forwards = int(found.forwards)
  tokens = int(np.sum(np.asarray(found.trace) >= 0))
  count = setup.mesh.size
  speed = {}
  if costs is not None:
    least, first, each = costs
    speed = programs_lib.rate(
      scale, first + (forwards - least) * each, took, count)
  rows.put(
    name, rows=len(batch.keys), tokens=tokens, passes=forwards, seconds=took,
    tokens_per_s=tokens / took, pass_ms=1e3 * took / forwards, devices=count,
    layers=setup.cfg.model.layers, peak_gib=programs_lib.peak(scale),
    planned_gib=programs_lib.planned(compiled), **speed)


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Measures all modes."""
  scale = scale_lib.present(rows, dry=dry)
  found = setups(scale)
  params = arrays.weights(found[name_of(EXACT)].abstract_params())
  caches = {setup.cfg.rollout.sampler.cache: setup for setup in found.values()}
  costs = {cache: work(setup) for cache, setup in caches.items()}
  for name, compiled in programs_lib.compiled(
      {name: program(setup) for name, setup in found.items()}, rows):
    setup = found[name]
    rows.attempt(name, measure, scale, rows, name, setup, compiled, params,
                 costs[setup.cfg.rollout.sampler.cache])
