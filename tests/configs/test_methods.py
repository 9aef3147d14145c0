"""The tables of methods say what the code does."""

import json

import pytest
import runs

from benchmarks import gradient_error
from benchmarks import method_cost
from dlrl import losses
from dlrl.diffusion import method_processes

ROOT = runs.ROOT
PAGE = ROOT / "docs" / "methods.md"
COSTS = json.loads(
  (ROOT / "benchmarks" / "results" / "method_cost.json").read_text())
ROWS = {
  cells[0].strip("`"): cells for cells in (
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines() if line.startswith("| `"))}


def test_every_loss_has_its_row():
  assert ROWS.keys() == losses.OBJECTIVES.keys()


@pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
def test_a_row_is_right(name):
  _, _, _, process, advantage, kl, passes = ROWS[name]
  objective = losses.OBJECTIVES[name]()
  assert (
    process.strip("`") in method_processes.PROCESSES | method_processes.OF_TRACE
  )
  assert advantage.strip("`") in losses.ADVANTAGES
  assert int(passes) == (1 if isinstance(objective, losses.Separable) else 2)
  try:
    with_kl = losses.OBJECTIVES[name](kl_coef=0.1)
  except TypeError:
    assert kl in ("-", "in the ratio")
    assert losses.OBJECTIVES[name]().needs_ref == (kl != "-")
  else:
    assert kl != "-"
    assert with_kl.needs_ref == (kl != "k3 to the rollout")


def test_costs_are_on_the_page_as_they_were_measured():
  assert f"\n\n{method_cost.table(COSTS)}\n\n" in PAGE.read_text()


def test_errors_of_gradients_are_on_the_page_as_they_were_measured():
  path = ROOT / "benchmarks" / "results" / "gradient_error.json"
  for name, by_n in json.loads(path.read_text())["estimators"].items():
    cells = [f"{by_n[n]['error']:.2f}" if n in by_n else ""
             for n in ("1", "2", "4", "8", "16", "32")]
    process = gradient_error.ESTIMATORS[name][0]
    assert f"\n| {name} | `{process}` | {' | '.join(cells)} | " in (
      PAGE.read_text())


def test_every_loss_has_its_cost_and_passes():
  passes = {name: row["passes"] for name, row in COSTS["methods"].items()}
  assert passes == {name: int(cells[-1]) for name, cells in ROWS.items()}


@pytest.mark.parametrize("name", ["bgpo", "espo"])
def test_a_cost_is_right(name):
  assert COSTS["methods"][name]["forwards"] == method_cost.forwards(name)
