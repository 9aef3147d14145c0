"""Forward passes of a batch in slots, relative to those that its rows need.

    python -m benchmarks.turns --workdir=RUN --out=benchmarks/results

A row of a model with full attention needs as many forward passes as it takes
denoising steps. A batch that decodes `slots` rows at a time computes all slots
in each pass, even those without a row. The ratio of passes x slots to the sum
of all rows' steps is what this costs; at 1, no slot ever idles. It depends on
how much rows differ, thus on the model: RUN is a run of `configs/bgpo.py`,
whose policy completes 128 held-out puzzles. "In step" are batches in which all
rows are at the same block, and none leaves. Their passes follow from the steps
that the rows took.

With a cache, passes of whole rows and of blocks differ, so that the ratio is
that of columns computed.

Writes `turns.json` and prints a table; a minute or two on 2 CPU cores.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags

from benchmarks import results
from dlrl import config
from dlrl import data
from dlrl import rollout
from dlrl import tasks
from dlrl import validate
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import denoise

SLOTS = (8, 16, 32, 64, 128)
ROWS = 128
MODES: dict[str, dict[str, Any]] = {
  "blocks of 4": {"block_length": 4},
  "blocks of 4, dual cache": {"block_length": 4, "cache": "dual"},
  "one block": {"block_length": 16},
  "pruned": {  # as by configs/stp.py
    "block_length": 16, "threshold": 0, "steps": 8, "fill_after": 0.6},
}


@dataclasses.dataclass(frozen=True)
class Case:
  """The policy of a run, and the rows that it completes."""

  setup: setup_lib.Setup
  params: Any
  prompt: jax.Array
  prompt_length: jax.Array
  pruned: jax.Array


def of_run(workdir: str) -> Case:
  """The policy that a run has trained, and held-out prompts."""
  settings = saved_params.settings(workdir)
  settings["mesh"]["cpu_devices"] = 1
  mesh_lib.split_cpu(1)
  setup = setup_lib.make(validate.from_dict(settings))
  params, _ = saved_params.policy(setup, workdir, "latest")
  source = setup.examples(
    "validation", setup.cfg.eval.difficulty, field="eval.difficulty")
  rows = data.eval_rows(
    source, setup.tokenizer, setup.prompt, items=ROWS,
    prompt_length=setup.cfg.task.prompt_length)
  asked = [source[i] for i in rows["position"].tolist()]
  return Case(setup, params, *map(jnp.asarray, (
    rows["prompt_ids"], rows["prompt_length"], pruned(setup, asked))))


def pruned(setup: setup_lib.Setup, asked: Sequence[tasks.Example]
           ) -> np.ndarray:
  """Canvases with the clues, every second one with half of the other cells.

  As `configs/stp.py` has them at first, where every second puzzle comes again.
  """
  mask = setup.model.mask_id
  canvas = rollout.templates(
    setup.task, setup.tokenizer, asked,
    setup.cfg.eval.sampler.gen_length, mask)
  rng = np.random.default_rng(0)
  for row, example in zip(canvas[1::2], asked[1::2], strict=True):
    free = np.flatnonzero(row == mask)
    known = rng.choice(free, len(free) // 2, replace=False)
    row[known] = np.array(setup.tokenizer.encode(example["solution"]))[known]
  return canvas


def in_step(trace: np.ndarray, width: int) -> int:
  """Passes of a batch whose rows wait for each other in every block."""
  return sum(
    max(len(set(row[start:start + width]) - {-1}) for row in trace.tolist())
    for start in range(0, trace.shape[1], width))


def measure(case: Case, mode: dict[str, Any]) -> dict[str, Any]:
  """Passes by slots, steps that rows need, and the ratio.

  Raises:
    AssertionError: completions depend on the slots.
  """
  sampler = dataclasses.replace(
    case.setup.cfg.eval.sampler, **{"threshold": 0.9, "steps": 16} | mode)
  canvas = case.pruned if sampler.fill_after < 1 else None
  keys = jax.random.split(jax.random.key(0), ROWS)
  found: dict[str, Any] = {}
  first = None
  for slots in SLOTS:
    got = _decoded(case, dataclasses.replace(sampler, slots=slots), keys,
                   canvas)
    first = got if first is None else first
    np.testing.assert_array_equal(got.completion, first.completion)
    np.testing.assert_array_equal(got.trace, first.trace)
    found[str(slots)] = int(got.forwards)
  assert first is not None
  taken = np.asarray(first.taken)
  row: dict[str, Any] = {"needed": int(taken.sum()), "least": int(taken.min()),
                         "most": int(taken.max()), "forwards": found}
  row["in_step"] = in_step(np.asarray(first.trace), sampler.block_length)
  whole = case.prompt.shape[1] + sampler.gen_length
  return row | {"ratio": {name: computed(
    sampler, whole, rows, passes, row["needed"]) for name, rows, passes in (
      ("in step", ROWS, row["in_step"]),
      *((n, int(n), passes) for n, passes in found.items()))}}


def computed(sampler: config.SamplerConfig, whole: int, slots: int,
             passes: int, needed: int) -> float:
  """Columns computed, relative to those that the rows need.

  Args:
    sampler: the settings.
    whole: columns of a row with its prompt.
    slots: rows of a pass.
    passes: of the batch.
    needed: passes of all rows, each by itself.
  """
  if sampler.cache == "none":
    return slots * passes / needed
  # All rows begin all blocks, those in slots together.
  width = sampler.block_length
  blocks = sampler.gen_length // width
  first = -(-ROWS // slots) * blocks
  return slots * (first * whole + (passes - first) * width) / (
    ROWS * blocks * whole + (needed - ROWS * blocks) * width)


def _decoded(case: Case, sampler: config.SamplerConfig, keys: jax.Array,
             canvas: jax.Array | None) -> Any:
  model, tokenizer = case.setup.model, case.setup.tokenizer
  return jax.jit(lambda params: denoise.decode(
    model, params, case.prompt, case.prompt_length, keys, sampler=sampler,
    canvas=canvas, eos_id=tokenizer.eos_id))(case.params)


def table(modes: dict[str, Any]) -> str:
  """The ratios as a table."""
  lines = [
    "| | steps of a row | in step | "
    + " | ".join(f"{n} slots" for n in SLOTS) + " |",
    "| --- |" + " --- |" * (2 + len(SLOTS))]
  for name, row in modes.items():
    ratios = [f"{row['ratio'][key]:.2f}"
              for key in ("in step", *map(str, SLOTS))]
    lines.append(
      f"| {name} | {row['needed'] / ROWS:.1f} ({row['least']} to "
      f"{row['most']}) | {' | '.join(ratios)} |")
  return "\n".join(lines)


def main(args: list[str]) -> None:
  """Measures or reads, and prints the table."""
  del args

  def measured() -> Any:
    case = of_run(flags.FLAGS.workdir)
    with jax.set_mesh(case.setup.mesh):
      return {"command": results.command(), "rows": ROWS, "modes": {
        name: measure(case, mode) for name, mode in MODES.items()}}

  print(table(results.obtain("turns", measured)["modes"]), flush=True)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "", "a run, whose policy completes prompts")
  flags.mark_flag_as_required("workdir")
  app.run(main)
