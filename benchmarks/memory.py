"""Memory of an update against the number of Monte-Carlo samples.

    python -m benchmarks.memory --out=benchmarks/results
    python -m benchmarks.memory --out=DIR --topology=v5e-64 --draws=1,16,128

The first compiles each objective's update of the tiny Sudoku model for this
machine, runs it and measures: minutes on 2 CPU cores. The second compiles the
update at LLaDA-8B's shape (`configs/bgpo.py:llada_8b_math`, with each
objective's own loss and draws) for devices that need not be present, see
`docs/compile_only.md`: minutes per point. New points join those of earlier runs
in `DIR/memory.json`; `DIR/memory.png` shows all of them:

    objective    value of `learn.loss`
    mode         separable or joint (see `dlrl.losses`), one sample at a time;
                 or stacked, the baseline: the graphs of all samples are kept
                 until one backward pass, as automatic differentiation does
                 when a loss is written over all samples
    shape        tiny or llada_8b
    platform     compilation target
    n_mc         samples per completion
    temp_bytes   temporaries per device, beside arguments and outputs; null if
                 the compiler refused the program
    argument_bytes, needed_bytes   arguments, and arguments, temporaries and
                 outputs together, per device
    limit_bytes  memory of a device; llada_8b only
    measured_bytes   growth of the process while the update ran; tiny only

The baseline is generous to other frameworks: it recomputes layers and logits in
the backward pass, like the other modes. A straight line through the points
gives the largest number of samples that fits, which is printed at the end.
"""

import ctypes
import dataclasses
import pathlib
import re
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from matplotlib import axes
from matplotlib import figure

from benchmarks import method_cost
from benchmarks import results
from configs import bgpo
from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import update
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs import memory
from dlrl.costs import program_report
from dlrl.costs import topology
from dlrl.diffusion import montecarlo
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.storage import plots

Row = dict[str, Any]
NAMES = ("bgpo", "vrpo_online", "espo", "spg", "diffu_grpo")
STACKED = "vrpo_online"
DRAWS = tuple(2**i for i in range(8))
LABELS = {
  ("bgpo", "separable"): "BGPO", ("vrpo_online", "joint"): "VRPO-OL, joint",
  ("vrpo_online", "stacked"): "VRPO-OL, stacked",
  ("espo", "joint"): "ESPO", ("spg", "joint"): "SPG",
  ("diffu_grpo", "separable"): "diffu-GRPO"}
BASELINE = LABELS[STACKED, "stacked"]
PANELS = {"tiny": "Tiny model (155,000 parameters)",
          "llada_8b": "LLaDA-8B"}


def cases(draws: Sequence[int]) -> Iterator[tuple[str, str, int]]:
  """Yields (objective, mode, n_mc); ESPO takes its samples in pairs."""
  for name in NAMES:
    objective = losses.OBJECTIVES[name](**method_cost.settings(name).loss_args)
    mode = "separable" if isinstance(objective, losses.Separable) else "joint"
    for n in draws:
      if name != "espo" or n % 2 == 0:
        yield name, mode, n
  for n in draws:
    yield STACKED, "stacked", n


def as_mode(mode: str) -> Any:
  """A context manager; updates traced inside have this mode."""
  fn = (method_cost.kept_value_and_grad if mode == "stacked"
        else montecarlo.value_and_grad)
  return mock.patch.object(montecarlo, "value_and_grad", fn)


def measure_tiny(name: str, mode: str, n: int) -> Row:
  """Compiles the tiny model's update for this machine and runs it."""
  learn = dataclasses.replace(method_cost.settings(name), n_mc=n)
  with as_mode(mode):
    # Two micro-batches stand for any number: they run one after the other.
    run, shapes = method_cost.program(learn, 2 * learn.micro_batch)
    compiled = jax.jit(run).lower(*shapes).compile(method_cost.FAST)
  stats = compiled.memory_analysis()
  assert stats is not None  # every backend in use has it
  args = arrays(shapes)
  grown = growth(lambda: jax.block_until_ready(compiled(*args)))
  return {
    "objective": name, "mode": mode, "shape": "tiny",
    "platform": jax.default_backend(), "n_mc": n,
    "temp_bytes": stats.temp_size_in_bytes,
    "argument_bytes": stats.argument_size_in_bytes, "needed_bytes": (
      stats.argument_size_in_bytes + stats.temp_size_in_bytes
      + stats.output_size_in_bytes),
    "measured_bytes": grown}


def arrays(shapes: Any) -> Any:
  """Random arrays of these shapes; every row has an advantage."""
  rng = np.random.default_rng(0)

  def one(shape):
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return jax.random.split(jax.random.key(0), shape.shape[0])
    if jnp.issubdtype(shape.dtype, jnp.floating):
      return jnp.asarray(0.05 * rng.normal(size=shape.shape), shape.dtype)
    return jnp.asarray(rng.integers(1, 3, shape.shape), shape.dtype)

  return jax.tree.map(one, shapes)


def growth(run: Callable[[], Any]) -> int | None:
  """Bytes by which the resident memory peaks during `run`; None off Linux."""
  clear = pathlib.Path("/proc/self/clear_refs")
  if not clear.exists():
    return None
  # Makes malloc take large buffers from the system and give them back, so that
  # the resident memory is what is in use.
  ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD
  run()  # one-time allocations do not count
  time.sleep(0.2)  # buffers are freed shortly after the result is ready
  # Resets the peak, VmHWM, to the current value.
  clear.write_text("5", encoding="ascii")
  before = _resident("VmHWM")
  run()
  return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
  status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
  match = re.search(rf"{name}:\s+(\d+) kB", status)
  assert match is not None
  return 1024 * int(match[1])


def large(name: str, n: int) -> config.Config:
  """The config at LLaDA-8B's shape, with the objective's loss and draws."""
  cfg = validate.from_dict(bgpo.get_config("llada_8b_math"))
  own = method_cost.settings(name)
  # One micro-batch: a scan over more of them takes no more memory.
  learn = dataclasses.replace(
    cfg.learn, loss=name, loss_args=own.loss_args, advantage=own.advantage,
    forward_process=own.forward_process, process_args=own.process_args,
    prompt_noise=own.prompt_noise, score_norm=own.score_norm, n_mc=n,
    epochs=own.epochs,
    # One row per chip of a v5e-64, as in the stored results.
    micro_batch=64, logps_chunk=32)
  return dataclasses.replace(cfg, learn=learn)


def compile_large(
  name: str, mode: str, n: int, platform: str, devices: Sequence[Any]
) -> Row:
  """Compiles LLaDA-8B's update for devices that need not be present."""
  setup = setup_lib.make(large(name, n), devices)
  cfg = setup.cfg
  chip = chips.find(devices[0].device_kind)
  abstract, tx = train_state.abstract_rl(setup), optimizer.for_rl(cfg)
  rows, t = cfg.learn.micro_batch, cfg.rollout.sampler.gen_length
  of_rows = mesh_lib.batch_sharding(setup.mesh)

  def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct((rows, *sizes), dtype, sharding=of_rows)

  batch = update.Batch(
    prompt=shape("int32", cfg.task.prompt_length),
    prompt_length=shape("int32"), completion=shape("int32", t),
    maskable=shape("bool", t), advantage=shape("float32"),
    keys=shape(jax.random.key(0).dtype))
  program = jax.jit(
    update.make(setup.model, cfg.learn, tx), donate_argnums=0,
    out_shardings=(setup_lib.shardings_of(abstract), None))
  with jax.set_mesh(setup.mesh), as_mode(mode):
    report, _ = program_report.of(
      name, program, (abstract, batch), flops=0, while_trips=(),
      limit=chips.pool(chip, devices[0].platform, cfg.mesh.gpu_memory)
      if chip else None)
  return {
    "objective": name, "mode": mode, "shape": "llada_8b",
    "platform": platform, "n_mc": n, "temp_bytes": report.temporaries,
    "argument_bytes": report.arguments or memory.per_device((abstract, batch)),
    "needed_bytes": report.needed, "limit_bytes": report.limit,
    "seconds": round(report.seconds)}


def key_of(row: Row) -> tuple[Any, ...]:
  """Identifies a point: a new measurement replaces the one with its key."""
  return tuple(row[k] for k in (
    "shape", "platform", "objective", "mode", "n_mc"))


def most(rows: Sequence[Row], size: float) -> dict[str, int | None]:
  """Largest number of samples that fits `size` bytes, by label.

  From a straight line through each label's points, because a sample adds a
  fixed number of bytes; None: more than a million. Points with one sample are
  left out: XLA drops a loop of one iteration and plans its memory differently.
  """
  found: dict[str, int | None] = {}
  for line, label in LABELS.items():
    points = [(r["n_mc"], r["needed_bytes"]) for r in rows
              if (r["objective"], r["mode"]) == line
              and r["temp_bytes"] is not None and r["n_mc"] > 1]
    if len(points) > 1:
      x, y = np.array(points).T
      slope, base = np.polyfit(x, y, 1)
      n = max(0.0, (size - base) / slope) if slope > 0 else np.inf
      found[label] = int(n) if n < 10**6 else None
  return found


def plot(rows: Sequence[Row]) -> figure.Figure:
  """Temporaries over samples, one panel per shape and platform."""
  panels = sorted({(r["shape"], r["platform"]) for r in rows}, reverse=True)
  fig, all_axes = results.page(
    "Temporary memory of one update: all samples' graphs kept (baseline), or "
    "one sample at a time", columns=len(panels),
    size=(4.5 * len(panels), 4.4))
  for ax, (shape, platform) in zip(all_axes, panels, strict=True):
    _draw(ax, [r for r in rows
               if (r["shape"], r["platform"]) == (shape, platform)])
    target = "a CPU" if platform == "cpu" else platform
    ax.set_title(f"{PANELS[shape]}, compiled for {target}", loc="left",
                 fontsize=9.5)
  return fig


def _draw(ax: axes.Axes, rows: Sequence[Row]) -> None:
  tiny = rows[0]["shape"] == "tiny"
  unit, name = (2**20, "MiB") if tiny else (2**30, "GiB")
  lines: dict[str, list[tuple[int, float]]] = {}
  refused = []
  order = list(LABELS)
  for row in sorted(rows, key=lambda row: (
      order.index((row["objective"], row["mode"])), row["n_mc"])):
    size = row["temp_bytes"]
    if size is None:  # refused: the compiler gives only the total
      size = row["needed_bytes"] - row["argument_bytes"]
      refused.append((row["n_mc"], size / unit))
    label = LABELS[row["objective"], row["mode"]].removesuffix(", joint")
    lines.setdefault(label, []).append((row["n_mc"], size / unit))
  results.draw_groups(ax, lines, baselines={
    BASELINE: "VRPO-OL, stacked (baseline)"})
  if refused:
    ax.plot(*zip(*refused, strict=True), "x", color="black", ms=10, mew=2,
            ls="", label="refused: does not fit a device")
  wall = {r["limit_bytes"] - r["argument_bytes"] for r in rows
          if r.get("limit_bytes") and r["argument_bytes"]}
  if wall:  # of the objectives without a reference, whose arguments are fewer
    ax.axhline(max(wall) / unit, color=plots.INK, lw=1, ls="--",
               label="free for temporaries on a device")
  sizes = [10, 20, 50, 100, 200] if tiny else [5, 10, 20, 40, 80]
  results.ticks(ax, x=DRAWS, y=sizes)
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel=f"temporaries per device ({name})")
  ax.legend(frameon=False, fontsize=8.5, loc="upper left")


def fits(rows: Sequence[Row]) -> str:
  """The largest numbers of samples that fit, for platforms with a limit."""
  lines = []
  for platform, limit in sorted({(r["platform"], r["limit_bytes"])
                                 for r in rows if r.get("limit_bytes")}):
    found = most([r for r in rows if r["platform"] == platform], limit)
    counts = (f"{label}: {'unlimited' if n is None else n}"
              for label, n in found.items())
    lines.append(f"{platform}, largest number of samples that fits: "
                 + "; ".join(counts))
  return "\n".join(lines)


def measure() -> list[Row]:
  """Measures the points asked for and adds them to the stored ones."""
  stored = pathlib.Path(results.OUT.value) / "memory.json"
  rows: list[Row] = results.read("memory") if stored.exists() else []
  name = flags.FLAGS.topology
  devices = topology.devices(name, "topology") if name else []
  draws = [int(n) for n in flags.FLAGS.draws] or DRAWS
  for case in cases(draws):
    if flags.FLAGS.only and f"{case[0]}/{case[1]}" not in flags.FLAGS.only:
      continue
    row = compile_large(*case, name, devices) if name else measure_tiny(*case)
    progress.say(str(row))
    rows = [r for r in rows if key_of(r) != key_of(row)] + [row]
    rows.sort(key=key_of)
    results.write("memory", rows)  # after every point: one can take minutes
  return rows


def main(argv: list[str]) -> None:
  """Adds points, draws all of them, prints what fits."""
  del argv
  rows = results.obtain("memory", measure)
  results.show("memory", plot(rows), fits(rows))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  flags.DEFINE_string(
    "topology", "", "accelerators to compile LLaDA-8B's update for, such as "
    "v5e-64; empty: run the tiny model on this machine")
  flags.DEFINE_list(
    "draws", [], "numbers of samples; default: 1, 2, 4, ..., 128")
  flags.DEFINE_list(
    "only", [], "measure only these, as objective/mode: vrpo_online/stacked")
  app.run(main)
