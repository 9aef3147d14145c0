"""What each device computes, holds and exchanges as devices are added.

    python -m benchmarks.scaling --out=benchmarks/results

Weak scaling: the model of `configs/bgpo.py`, 16 completions and as many of a
micro-batch for each device, on 1, 2, 4 and 8 devices that the CPU is divided
into; parameters split over all of them (`fsdp`) or copied to all (`data`). The
programs of rollout and update are compiled for them, and nothing runs: FLOPs,
memory and the bytes that arrive at a device are read from the programs. Writes
`scaling.json` and `scaling.png`, about a minute on 2 CPU cores.
"""

import collections
import json
import pathlib
from typing import Any

import jax
from absl import app
from absl import flags
from matplotlib import figure

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
from dlrl.storage import plots

DEVICES = (1, 2, 4, 8)
ROWS = 16  # completions of a device
AXES = {"fsdp": "parameters split", "data": "parameters copied"}
PROGRAMS = ("rollout", "update")
# Less to compile; what XLA plans, buffers too, is the same.
FAST: Any = {"xla_backend_optimization_level": 0,
             "xla_llvm_disable_expensive_passes": True}
_OUT = flags.DEFINE_string("out", "benchmarks/results", "directory")
_ONE_STEP = (1, 1)  # of the rollout's loops, over blocks and steps


def exchanged(text: str) -> dict[str, float]:
  """Bytes that arrive at a device in one run, by kind of collective.

  Args:
    text: of a compiled program; loops of blocks and of denoising steps count
      once.
  """
  found: collections.Counter[str] = collections.Counter()
  for collective in hlo.traffic(text, _ONE_STEP).collectives:
    found[collective.kind] += round(collective.moved)
  return dict(found)


def settings(axis: str, devices: int) -> config.Config:
  """The run on so many devices, all on one axis of the mesh."""
  cfg = bgpo.get_config()
  cfg.mesh.data, cfg.mesh.fsdp = 1, 1
  cfg.mesh[axis] = devices
  cfg.rollout.prompts = ROWS // cfg.rollout.group_size * devices
  cfg.learn.micro_batch = ROWS * devices
  cfg.sft.batch_size = cfg.eval.batch_size = 48 * devices
  return validate.from_dict(cfg)


def measure(axis: str, devices: int) -> list[dict[str, Any]]:
  """A row for each program: numbers of one device.

  Of the rollout, one denoising step of each of its two loops, blocks and steps.
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
      compiled = program.lower(*args).compile(FAST)
      found.append({
        "axis": axis, "devices": devices, "program": name,
        "flops": flops_lib.flops(
          program, *args, while_trips=_ONE_STEP) / devices,
        "state_bytes": memory.per_device(state),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "exchanged_bytes": exchanged(compiled.as_text())})
  return found


def _draw(ax, rows: list[dict[str, Any]], title: str, lines) -> None:
  """Lines `(value of a row, legend, style)` over devices, for both axes."""
  # Broad below narrow: equal lines are both seen.
  for axis, colour, width in zip(
      AXES, (plots.BLUE, plots.ORANGE), (4.0, 1.4), strict=True):
    own = [row for row in rows if row["axis"] == axis]
    for value, label, style in lines:
      ax.plot([row["devices"] for row in own], [value(row) for row in own],
              color=colour, ls=style, marker="o", ms=width + 2, lw=width,
              label=", ".join(filter(None, (AXES[axis], label))))
  ax.set_title(title, loc="left", fontsize=9.5, color=plots.INK)
  ax.set_xscale("log", base=2)
  ax.set_xticks(DEVICES, DEVICES)
  ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
  ax.legend(frameon=False, fontsize=8, labelcolor=plots.INK, handlelength=4)
  ax.grid(axis="y", color=plots.PALE, lw=0.6)
  ax.spines[["top", "right"]].set_visible(False)
  ax.tick_params(labelsize=8, labelcolor=plots.INK, color=plots.PALE)


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Writes the PNG."""
  page = figure.Figure(figsize=(12, 6), dpi=150, layout="constrained")
  page.suptitle(
    "Weak scaling, 16 completions per device: numbers of one device, read from "
    "the compiled programs", x=0.01, ha="left", fontsize=12, color=plots.INK)
  titles = {"update": "update", "rollout": "denoising step"}
  for i, (program, title) in enumerate(titles.items()):
    own = [row for row in rows if row["program"] == program]
    unit, size = ("G", 1e9) if program == "update" else ("M", 1e6)
    for j, (of, lines) in enumerate({
      f"{unit}FLOPs": [(lambda row, by=size: row["flops"] / by, "", "-")],
      "MB in memory": [
        (lambda row: row["temp_bytes"] / 1e6, "temporaries", "-"),
        (lambda row: row["state_bytes"] / 1e6, "state", "--")][: 2 - i],
      "MB received": [
        (lambda row: sum(row["exchanged_bytes"].values()) / 1e6, "", "-")],
    }.items()):
      ax = page.add_subplot(2, 3, 3 * i + j + 1)
      _draw(ax, own, f"{title}: {of}", lines)
      if i:
        ax.set_xlabel("devices", fontsize=9, color=plots.INK)
  page.savefig(path, format="png")


def table(rows: list[dict[str, Any]]) -> str:
  """The rows for `docs/scaling.md`."""
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
      f"{moved.get('all-reduce', 0) / 1e6:.2f}",
      f"{moved.get('all-to-all', 0) / 1e6:.2f} |"]))
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Compiles, writes both files, prints the table."""
  del argv
  mesh_lib.split_cpu(max(DEVICES))
  rows = []
  for axis in AXES:
    for devices in DEVICES:
      rows += measure(axis, devices)
      progress.say(f"{axis} {devices}")
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / "scaling.json").write_text(json.dumps(
    {"jax": jax.__version__, "rows_per_device": ROWS, "rows": rows},
    indent=1) + "\n")
  plot(rows, out / "scaling.png")
  print(table(rows), flush=True)


if __name__ == "__main__":
  app.run(main)
