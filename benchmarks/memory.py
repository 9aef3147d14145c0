"""Memory of an update by the number of Monte-Carlo samples.

    python -m benchmarks.memory --out=benchmarks/results
    python -m benchmarks.memory --out=DIR --topology=v5e-64 --draws=1,16,128

The first compiles each objective's update of the tiny Sudoku model for this
machine, runs it and measures; minutes on 2 CPU cores. The second compiles it at
LLaDA-8B's shape (`configs/bgpo.py:llada_8b_math`, each objective's own loss and
draws) for devices that need not be there, see `docs/compile_only.md`; minutes
for each point. Points go into `DIR/memory.json`, which keeps those of earlier
runs, and `DIR/memory.png` shows them all:

    objective    of `learn.loss`
    mode         separable, joint, or stacked: the graphs of all samples are
                 kept until one backward pass, as PyTorch does by itself
    shape        tiny or llada_8b
    platform     that it was compiled for
    n_mc         samples per completion
    temp_bytes   per device, beside arguments and output; null if the compiler
                 refused the program, for which `needed_bytes` is its figure
    argument_bytes, needed_bytes   per device, the latter of all together
    measured_bytes   by which the process grew as it ran; tiny alone

Stacked is generous to other frameworks: layers and logits are recomputed in it,
too. At the end it prints the most samples that fit, by a straight line.
"""

import ctypes
import dataclasses
import json
import pathlib
import re
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from matplotlib import figure

from benchmarks import method_cost
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

Row = dict[str, Any]
NAMES = ("bgpo", "vrpo_online", "espo", "spg", "diffu_grpo")
STACKED = "vrpo_online"
DRAWS = tuple(2**i for i in range(8))
LABELS = {
  ("bgpo", "separable"): "BGPO", ("vrpo_online", "joint"): "VRPO-OL, joint",
  ("vrpo_online", "stacked"): "VRPO-OL, stacked",
  ("espo", "joint"): "ESPO", ("spg", "joint"): "SPG",
  ("diffu_grpo", "separable"): "diffu-GRPO"}
COLOURS = ("#2a6fbb", "#3f9c6d", "#c23b3b", "#8a5fb0", "#d9822b", "#777777")


def cases(draws: Sequence[int]) -> Iterator[tuple[str, str, int]]:
  """(objective, mode, n_mc); ESPO's draws come in pairs."""
  for name in NAMES:
    objective = losses.OBJECTIVES[name](**method_cost.settings(name).loss_args)
    mode = "separable" if isinstance(objective, losses.Separable) else "joint"
    for n in draws:
      if name != "espo" or n % 2 == 0:
        yield name, mode, n
  for n in draws:
    yield STACKED, "stacked", n


def as_mode(mode: str):
  """Updates traced within are of this mode."""
  fn = (method_cost.kept_value_and_grad if mode == "stacked"
        else montecarlo.value_and_grad)
  return mock.patch.object(montecarlo, "value_and_grad", fn)


def measure_tiny(name: str, mode: str, n: int) -> Row:
  """Compiled for this machine, and run."""
  learn = dataclasses.replace(method_cost.settings(name), n_mc=n)
  with as_mode(mode):
    # Of more micro-batches, one after the other, memory is the same.
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
  """Random arrays; every row has an advantage."""
  rng = np.random.default_rng(0)

  def one(shape):
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return jax.random.split(jax.random.key(0), shape.shape[0])
    if jnp.issubdtype(shape.dtype, jnp.floating):
      return jnp.asarray(0.05 * rng.normal(size=shape.shape), shape.dtype)
    return jnp.asarray(rng.integers(1, 3, shape.shape), shape.dtype)

  return jax.tree.map(one, shapes)


def growth(run) -> int | None:
  """Bytes by which the resident memory rises while `run` runs; Linux only."""
  clear = pathlib.Path("/proc/self/clear_refs")
  if not clear.exists():
    return None
  # Larger buffers come from the system and go back to it.
  ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD
  run()  # what is made once does not count
  time.sleep(0.2)  # buffers are freed a little after the result is there
  clear.write_text("5")  # the peak is what there is now
  before = _resident("VmHWM")
  run()
  return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
  status = pathlib.Path("/proc/self/status").read_text()
  match = re.search(rf"{name}:\s+(\d+) kB", status)
  assert match is not None
  return 1024 * int(match[1])


def large(name: str, n: int) -> config.Config:
  """The run at LLaDA-8B's shape, with the objective's loss and draws."""
  cfg = validate.from_dict(bgpo.get_config("llada_8b_math"))
  own = method_cost.settings(name)
  # The completions of a step one time, in one micro-batch: a scan over more of
  # them takes no more memory.
  learn = dataclasses.replace(
    cfg.learn, loss=name, loss_args=own.loss_args, advantage=own.advantage,
    forward_process=own.forward_process, process_args=own.process_args,
    prompt_noise=own.prompt_noise, score_norm=own.score_norm, n_mc=n,
    epochs=own.epochs)
  return dataclasses.replace(cfg, learn=learn)


def compile_large(name: str, mode: str, n: int, platform: str, devices) -> Row:
  """Compiled for devices that need not be there."""
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
      limit=chip.hbm if chip else None)
  return {
    "objective": name, "mode": mode, "shape": "llada_8b",
    "platform": platform, "n_mc": n, "temp_bytes": report.temporaries,
    "argument_bytes": report.arguments or memory.per_device((abstract, batch)),
    "needed_bytes": report.needed, "limit_bytes": report.limit,
    "seconds": round(report.seconds)}


def key_of(row: Row) -> tuple[Any, ...]:
  """What a point is of."""
  return tuple(row[k] for k in (
    "shape", "platform", "objective", "mode", "n_mc"))


def most(rows: Sequence[Row], size: float) -> dict[str, int | None]:
  """The most samples with which a device of `size` bytes is enough, by line.

  From a straight line through its points, as what is kept is a fixed amount per
  sample; None: more than a million. A loop of one sample is none, and planned
  otherwise: it is left out.
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


def plot(rows: Sequence[Row], path: pathlib.Path) -> None:
  """One panel per shape and platform."""
  panels = sorted({(r["shape"], r["platform"]) for r in rows}, reverse=True)
  fig = figure.Figure(figsize=(5.6 * len(panels), 4.4), layout="constrained")
  for i, panel in enumerate(panels):
    ax = fig.add_subplot(1, len(panels), i + 1)
    of_panel = [r for r in rows if (r["shape"], r["platform"]) == panel]
    _draw(ax, of_panel)
    ax.set_title(f"{panel[0]}, {panel[1]}", loc="left", fontsize=10)
  fig.savefig(path, dpi=150)


def _draw(ax, rows: Sequence[Row]) -> None:
  unit, name = (2**30, "GiB") if rows[0]["shape"] != "tiny" else (2**20, "MiB")
  for colour, (line, label) in zip(COLOURS, LABELS.items(), strict=True):
    points = sorted((r["n_mc"], r["temp_bytes"]) for r in rows
                    if (r["objective"], r["mode"]) == line
                    and r["temp_bytes"] is not None)
    refused = sorted((r["n_mc"], r["needed_bytes"] - r["argument_bytes"])
                     for r in rows
                     if (r["objective"], r["mode"]) == line
                     and r["temp_bytes"] is None)
    if points or refused:
      x, y = zip(*(points + refused), strict=True)
      ax.plot(x, [v / unit for v in y], color=colour, marker="o", ms=3.5,
              label=label, lw=1.6)
    if refused:
      x, y = zip(*refused, strict=True)
      ax.plot(x, [v / unit for v in y], "x", color=colour, ms=9, mew=2)
  wall = {r["limit_bytes"] - r["argument_bytes"] for r in rows
          if r.get("limit_bytes") and r["argument_bytes"]}
  if wall:  # beside the arguments of those without a reference
    ax.axhline(max(wall) / unit, color="#333333", lw=1, ls="--")
    ax.text(0.02, max(wall) / unit, "what a device has; x: refused by the "
            "compiler", fontsize=8, va="bottom",
            transform=ax.get_yaxis_transform())
  ax.set_xscale("log", base=2)
  if wall:
    ax.set_ylim(0, 1.6 * max(wall) / unit)
  else:
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.yaxis.set_minor_formatter(lambda v, _: "")
  ax.set_xlim(0.85, 1.2 * DRAWS[-1])
  ax.set_xticks(DRAWS, [str(n) for n in DRAWS])
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel=f"temporaries of an update per device, {name}")
  ax.grid(alpha=0.3)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(frameon=False, fontsize=8)


def main(argv: list[str]) -> None:
  """Adds points, writes both files, prints what fits."""
  del argv
  out = pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "memory.json"
  rows = json.loads(path.read_text()) if path.exists() else []
  name = flags.FLAGS.topology
  devices = topology.devices(name, "topology") if name else None
  draws = [int(n) for n in flags.FLAGS.draws] or DRAWS
  for case in cases(draws):
    if flags.FLAGS.only and f"{case[0]}/{case[1]}" not in flags.FLAGS.only:
      continue
    row = (compile_large(*case, name, devices) if name
           else measure_tiny(*case))
    progress.say(str(row))
    rows = [r for r in rows if key_of(r) != key_of(row)] + [row]
    rows.sort(key=key_of)
    # After every point: a compiler takes minutes for one.
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
  plot(rows, out / "memory.png")
  for platform, limit in {(r["platform"], r["limit_bytes"])
                          for r in rows if r.get("limit_bytes")}:
    of_platform = [r for r in rows if r["platform"] == platform]
    print(f"{platform}: most samples that fit:", most(of_platform, limit))


if __name__ == "__main__":
  # Here, so that tests can import this module next to others.
  flags.DEFINE_string("out", "benchmarks/results", "directory")
  flags.DEFINE_string("topology", "", "devices; empty: tiny, on this machine")
  flags.DEFINE_list("draws", [], "numbers of samples; default 1, 2, ..., 128")
  flags.DEFINE_list("only", [], "of objective/mode: vrpo_online/stacked, ...")
  app.run(main)
