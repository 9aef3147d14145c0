"""Work, memory and traffic of one device as devices are added; times nothing.

    python -m benchmarks.scaling --out=benchmarks/results

The model of `configs/bgpo.py` with 16 completions per device and micro-batch,
on 1, 2, 4 and 8 devices into which the CPU is divided; parameters are split
over all of them (`fsdp`) or copied to each (`data`). The programs of rollout
and update are compiled, and nothing runs: FLOPs, memory and the bytes that a
device receives are read from the programs. Writes `scaling.json` and
`scaling.png`; about a minute on 2 CPU cores.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
from absl import app
from absl import flags
from matplotlib import axes
from matplotlib import figure

from benchmarks import method_cost
from benchmarks import results
from configs import bgpo
from dlrl import config
from dlrl import optimizer
from dlrl import rollout
from dlrl import train
from dlrl import validate
from dlrl.costs import flops as flops_lib
from dlrl.costs import hlo
from dlrl.costs import memory
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress

DEVICES = (1, 2, 4, 8)
ROWS = 16  # completions per device
SUMS = ("all-reduce", "reduce-scatter")
# Mesh axes, and what they do to the parameters.
AXES = {"fsdp": "split (fsdp)", "data": "copied (data)"}
PROGRAMS = ("rollout", "update")
# Trips to count for the rollout's two loops, over blocks and denoising steps.
_ONE_STEP = (1, 1)


def exchanged(text: str) -> dict[str, float]:
  """Bytes that a device receives in one run, by kind of collective.

  Args:
    text: the compiled program; its loops over blocks and denoising steps count
      once.
  """
  found: collections.Counter[str] = collections.Counter()
  for collective in hlo.traffic(text, _ONE_STEP).collectives:
    found[collective.kind] += round(collective.moved)
  return dict(found)


def settings(axis: str, devices: int) -> config.Config:
  """The config on `devices` devices, all on one axis of the mesh."""
  cfg = bgpo.get_config()
  cfg.mesh.data, cfg.mesh.fsdp = 1, 1
  cfg.mesh[axis] = devices
  cfg.rollout.prompts = ROWS // cfg.rollout.group_size * devices
  cfg.learn.micro_batch = ROWS * devices
  cfg.sft.batch_size = cfg.eval.batch_size = 48 * devices
  return validate.from_dict(cfg)


def measure(axis: str, devices: int) -> list[dict[str, Any]]:
  """A row for each program, with the numbers of one device.

  The rollout's are those of one denoising step.
  """
  cfg = settings(axis, devices)
  setup = setup_lib.make(cfg, jax.devices()[:devices])
  tx, state = optimizer.for_rl(cfg), train_state.abstract_rl(setup)
  found = []
  with jax.set_mesh(setup.mesh):
    programs: tuple[Any, ...] = train.make_programs(setup, tx, state)
    asked = (state, *rollout.input_shapes(setup))
    learned = train.learn_shapes(setup, programs[0], asked)
    for name, program, args in zip(
        PROGRAMS, programs, (asked, learned), strict=True):
      compiled = program.lower(*args).compile(method_cost.FAST)
      found.append({
        "axis": axis, "devices": devices, "program": name,
        "flops": flops_lib.flops(
          program, *args, while_trips=_ONE_STEP) / devices,
        "state_bytes": memory.per_device(state),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "exchanged_bytes": exchanged(compiled.as_text())})
  return found


def plot(rows: list[dict[str, Any]]) -> figure.Figure:
  """Memory and traffic of one device, for the update and a denoising step.

  FLOPs per device do not change with the number of devices; the table has them.
  """
  fig, panels = results.page(
    "Memory and traffic of one device as devices are added, 16 completions on "
    "each;\nparameters split or copied; read from compiled programs, not timed",
    rows=2, columns=2, size=(8.4, 6.4))
  _draw(panels[0], rows, "update", "memory (MB)", {
    "temporaries": ("-", lambda row: row["temp_bytes"]),
    "parameters and moments": ("--", lambda row: row["state_bytes"])})
  _draw(panels[2], rows, "rollout", "memory (MB)", {
    "temporaries": ("-", lambda row: row["temp_bytes"])})
  for ax, program in (panels[1], "update"), (panels[3], "rollout"):
    _draw(ax, rows, program, "received (MB)", {
      "received": ("-", lambda row: sum(row["exchanged_bytes"].values()))})
  return fig


def _draw(
  ax: axes.Axes, rows: list[dict[str, Any]], program: str, unit: str,
  lines: dict[str, tuple[str, Callable[[dict[str, Any]], float]]]
) -> None:
  """Draws `lines`, {legend: (style, bytes of a row)}, for both mesh axes."""
  for name, (style, value) in lines.items():
    for axis, colour in zip(AXES, results.COLOURS, strict=False):
      own = [row for row in rows
             if (row["program"], row["axis"]) == (program, axis)]
      ax.plot([row["devices"] for row in own],
              [value(row) / 1e6 for row in own], color=colour, ls=style,
              marker="o", ms=4, lw=2, clip_on=False,
              label=f"{name}, {AXES[axis]}")
  results.ticks(ax, x=DEVICES)
  ax.set(xlabel="devices", ylabel=unit)
  ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
  titles = {"update": "Update", "rollout": "Denoising step of a rollout"}
  ax.set_title(titles[program], loc="left", fontsize=10)
  ax.legend(frameon=False, fontsize=8.5, handlelength=3)


def table(rows: list[dict[str, Any]]) -> str:
  """The table of `docs/scaling.md`."""
  lines = ["| mesh axis | devices | program | MFLOPs | state, MB | "
           "temporaries, MB | gathered, MB | summed, MB | exchanged, MB |",
           "|" + " --- |" * 9]
  for row in rows:
    moved = row["exchanged_bytes"]
    lines.append(" | ".join([
      f"| `{row['axis']}`", str(row["devices"]), row["program"],
      f"{row['flops'] / 1e6:,.1f}", f"{row['state_bytes'] / 1e6:.2f}",
      f"{row['temp_bytes'] / 1e6:.2f}",
      f"{moved.get('all-gather', 0) / 1e6:.2f}",
      f"{sum(moved.get(kind, 0) for kind in SUMS) / 1e6:.2f}",
      f"{moved.get('all-to-all', 0) / 1e6:.2f} |"]))
  return "\n".join(lines)


def measure_all() -> dict[str, Any]:
  """Compiles for every mesh axis and number of devices."""
  mesh_lib.split_cpu(max(DEVICES))
  rows = []
  for axis in AXES:
    for devices in DEVICES:
      rows += measure(axis, devices)
      progress.say(f"{axis} {devices}")
  return {"jax": jax.__version__, "rows_per_device": ROWS, "rows": rows}


def main(argv: list[str]) -> None:
  """Compiles, draws, prints the table."""
  del argv
  rows = results.obtain("scaling", measure_all)["rows"]
  results.show("scaling", plot(rows), table(rows))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  app.run(main)
