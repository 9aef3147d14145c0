"""BGPO's update at LLaDA-8B's shape: seconds, MFU and memory by draws."""

from typing import Any

import jax

from benchmarks.accelerator import arrays
from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl import optimizer
from dlrl import update
from dlrl.costs.flops import flops
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

ROWS = 8  # completions per device
DRAWS = (2, 16, 64)  # from little memory to much, so that each peak is its own


def name_of(draws: int) -> str:
  """Names the row of a number of draws."""
  return f"update, {draws} draws"


def setup_of(scale: scale_lib.Scale, draws: int, changes: dict[str, Any]
             ) -> setup_lib.Setup:
  """LLaDA-8B's update; of all parameters only where these fit."""
  rows = 2 if scale.dry else ROWS
  return scale_lib.llada(scale, rows, {"learn.n_mc": draws, **changes})


def _step(setup: setup_lib.Setup, model: transformer.Model) -> update.Update:
  return update.make(model, setup.cfg.learn, optimizer.for_rl(setup.cfg))


def program(setup: setup_lib.Setup) -> programs_lib.Program:
  """The update, which takes over the memory of its state."""
  abstract = train_state.abstract_rl(setup)
  return programs_lib.Program(
    jax.jit(_step(setup, setup.model), donate_argnums=0,
            out_shardings=(setup_lib.shardings_of(abstract), None)),
    (abstract, arrays.batch_shapes(setup)), setup.mesh)


def setups(scale: scale_lib.Scale) -> dict[str, setup_lib.Setup]:
  """The settings of each update, by name."""
  changes = scale_lib.whole_or_adapters(scale)
  return {name_of(n): setup_of(scale, n, changes)
          for n in (DRAWS[:2] if scale.dry else DRAWS)}


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """The update by number of draws."""
  return {name: program(setup) for name, setup in setups(scale).items()}


def work_of_draw(setup: setup_lib.Setup) -> float:
  """FLOPs that the model needs for a draw; there are no other products."""
  with jax.set_mesh(setup.mesh):
    return flops(
      _step(setup, scale_lib.plain(setup)), train_state.abstract_rl(setup),
      arrays.batch_shapes(setup)) / setup.cfg.learn.n_mc


def _warms(draws: int) -> bool:
  """Tells if an update runs once before it is timed; the longest does not."""
  return draws < DRAWS[-1]


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Updates one state again and again, with more and more draws."""
  scale = scale_lib.present(rows, dry=dry)
  found = setups(scale)
  setup = found[name_of(DRAWS[0])]
  batch = arrays.batch(setup)
  held = [arrays.state(setup)]
  rows.put("state", peak_gib=programs_lib.peak(scale))
  work = work_of_draw(setup)
  each = 0.0  # seconds of a draw

  def measure(name: str, compiled: Any) -> None:
    nonlocal each
    setup = found[name]
    draws, metrics = setup.cfg.learn.n_mc, {}
    # Donated, and gone if the update fails.
    state = held.pop() if held else arrays.state(setup)

    def step() -> Any:
      nonlocal state, metrics
      state, metrics = compiled(state, batch)
      return metrics

    if _warms(draws):
      jax.block_until_ready(step())
    took = programs_lib.seconds(step, times=2 if _warms(draws) else 1)
    held.append(state)
    each = took / draws
    cfg = setup.cfg
    rows.put(
      name, draws=draws, rows=len(batch.advantage), layers=cfg.model.layers,
      trained="adapters" if cfg.lora.rank else "all", seconds=took,
      peak_gib=programs_lib.peak(scale), planned_gib=programs_lib.planned(
        compiled), devices=len(scale.devices), loss=float(metrics["loss"]),
      **programs_lib.rate(scale, work * draws, took, len(scale.devices)))

  for name, compiled in programs_lib.compiled(
      {name: program(setup) for name, setup in found.items()}, rows):
    draws = found[name].cfg.learn.n_mc
    rows.attempt(name, measure, name, compiled,
                 needs=(3 if _warms(draws) else 1) * draws * each)
