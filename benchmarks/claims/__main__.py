"""The commands; see the package."""

import pathlib
import signal
import sys
import time
from collections.abc import Sequence

from absl import app
from absl import flags

from benchmarks import results
from benchmarks.claims import example
from benchmarks.claims import figures
from benchmarks.claims import page as page_lib
from benchmarks.claims import runner
from benchmarks.claims import runs
from benchmarks.claims import store
from benchmarks.claims import table
from benchmarks.claims import timing
from benchmarks.claims import variance_page
from benchmarks.claims import variance_run
from dlrl.runtime import progress

ROOT = pathlib.Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"


def chosen(names: list[str]) -> list[str]:
  """The claims that `--only` names, or all.

  Raises:
    app.UsageError: there is no such claim.
  """
  claims = list(table.CLAIMS)
  if unknown := [name for name in names if name not in claims]:
    raise app.UsageError(
      f"--only={','.join(names)}: there is no claim {unknown[0]!r}; claims are "
      f"{', '.join(claims)}")
  return names or claims


def workdirs() -> pathlib.Path:
  """Where runs have their workdirs."""
  return pathlib.Path(flags.FLAGS.runs).absolute()


def run(directory: pathlib.Path) -> None:
  """Trains what is not stored yet; exits with 1 if a run failed."""
  only = chosen(flags.FLAGS.only)
  until = time.monotonic() + 3600 * flags.FLAGS.hours
  # So that runs under way are ended, too, and go on from their checkpoints.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  failed: list[runs.Run] = []
  # Again, because methods have rows once their learning rates are found.
  while (queue := _left(only, directory, failed)) and time.monotonic() < until:
    progress.say(f"{len(queue)} runs are not stored yet")
    failed += runner.run_all(
      queue, directory, workdirs(), jobs=flags.FLAGS.jobs,
      seconds=until - time.monotonic())
  if failed:
    sys.exit(1)


def _left(only: Sequence[str], directory: pathlib.Path,
          failed: Sequence[runs.Run]) -> list[runs.Run]:
  rows = [row for row in table.rows(store.read(directory))
          if row.claim in only]
  return [run for run in runner.pending(rows, directory)
          if run not in failed and run.warm not in failed]


def costs(directory: pathlib.Path) -> None:
  """Measures a step's costs of claims that compare, or of `--only`.

  Those that are stored of all rows are not measured again without `--only`.
  """
  only = flags.FLAGS.only
  for claim in chosen(only):
    name, every = f"cost_{claim}", table.rows(store.read(directory))
    rows = [row for row in every if row.claim == claim and row.seeds]
    there = store.read_one(directory, name) or {}
    if only or (table.references(claim, every)
                and any(row.label not in there for row in rows)):
      store.write_one(directory, name, timing.measure(rows, workdirs()))


def split(directory: pathlib.Path) -> None:
  """Splits the gradient's variance, and measures what pruning does to it."""
  for name, measure in (("variance", variance_run.measure),
                        ("variance_pruned", variance_run.measure_pruned)):
    if store.read_one(directory, name) is None:
      store.write_one(directory, name, measure(workdirs()))


def page(directory: pathlib.Path) -> None:
  """Writes the page, its figures, and the README's table."""
  stored = store.read(directory)
  variance = store.read_one(directory, "variance")
  for claim in table.CLAIMS:
    rows = [row for row in table.rows(stored) if row.claim == claim]
    if page_lib.started(rows, stored):
      figures.of_claim(claim, stored).savefig(
        directory.parent / f"claims_{claim}.png")
  if variance is not None:
    variance_page.draw(variance).savefig(
      directory.parent / "claims_variance.png")
  PAGE.write_text(page_lib.of_stored(directory), encoding="utf-8")
  README.write_text(example.written(
    README.read_text(encoding="utf-8"), table.rows(stored), stored),
    encoding="utf-8")


COMMANDS = {"run": run, "time": costs, "variance": split, "page": page}


def main(argv: list[str]) -> None:
  """Runs the command that is named."""
  if len(argv) != 2 or argv[1] not in COMMANDS:
    raise app.UsageError(
      f"got {' '.join(argv[1:]) or 'no command'!r}; name one command: "
      f"{', '.join(COMMANDS)}")
  COMMANDS[argv[1]](pathlib.Path(results.OUT.value) / "claims")


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  flags.DEFINE_list("only", [], "names of claims; the others are left out")
  flags.DEFINE_float(
    "hours", float("inf"), "no run is begun later than this", lower_bound=0)
  flags.DEFINE_integer("jobs", 2, "runs at a time", lower_bound=1)
  flags.DEFINE_string("runs", "runs/claims", "directory of the workdirs")
  app.run(main)
