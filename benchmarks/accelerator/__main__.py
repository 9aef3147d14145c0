"""Runs the stages and writes the result; see the package."""

import pathlib
import sys
from typing import Any

from absl import app
from absl import flags

from benchmarks import results
from benchmarks.accelerator import report
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import runner

TOTAL = 470.0  # seconds; the rest of eight minutes is for table and figure
_HERE = "benchmarks.accelerator."
# In order of value: the last ones are left out if the time is over.
STAGES = (
  runner.Stage("ceilings", _HERE + "ceilings", 40),
  runner.Stage("kernels", _HERE + "kernels", 70),
  runner.Stage("steps", _HERE + "steps", 60, deterministic=True),
  runner.Stage("updates", _HERE + "updates", 150),
  runner.Stage("rollouts", _HERE + "rollouts", 120),
  runner.Stage("torch", _HERE + "torch_side", 70, no_jax=True),
  runner.Stage("blocks", _HERE + "blocks", 60),
)
# A dry run may share a slow machine; nothing that it measures matters.
DRY_TIMES = 10


def measure() -> dict[str, Any]:
  """Runs the stages that the flags name.

  Raises:
    app.UsageError: `--only` names a stage that there is not.
  """
  options, dry = flags.FLAGS, flags.FLAGS.dry
  names = [stage.name for stage in STAGES]
  if unknown := sorted(set(options.only) - set(names)):
    raise app.UsageError(
      f"--only={','.join(options.only)}: there is no stage {unknown[0]!r}; "
      f"stages are {', '.join(names)}")
  out = pathlib.Path(results.OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "accelerator_rows.jsonl"
  chosen = [stage.in_dry_run(DRY_TIMES) if dry else stage for stage in STAGES
            if not options.only or stage.name in options.only]

  def found() -> dict[str, Any]:
    return {"command": results.command(), "dry": dry,
            "rows": rows_lib.read(path)}

  runner.run(chosen, path, TOTAL * (DRY_TIMES if dry else 1), dry=dry,
             after=lambda: results.write("accelerator", found()))
  return found()


def main(argv: list[str]) -> None:
  """Measures; writes JSON, table and figure; exits with 1 if a part failed."""
  del argv
  result = results.obtain("accelerator", measure)
  rows, dry = result["rows"], result["dry"]
  table = report.table(rows, dry=dry)
  path = pathlib.Path(results.OUT.value) / "accelerator.md"
  path.write_text(table + "\n", encoding="utf-8")
  results.show("accelerator", report.draw(rows, dry=dry),
               f"{table}\n\n{report.ended(rows)}")
  if report.failures(rows):
    sys.exit(1)


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  flags.DEFINE_boolean(
    "dry", False, "tiny shapes on the CPU; shows only that everything works")
  flags.DEFINE_list("only", [], "names of stages; the others are not run")
  app.run(main)
