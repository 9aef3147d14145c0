"""`benchmarks.results` and the statistics over seeds in learning curves."""

import json
import pathlib
import types

import pytest

from benchmarks import results

STORED = pathlib.Path(results.__file__).parent / "results"


def test_lines_that_hide_one_another_are_one_group():
  lines = {
    "a": [(2, 10.0), (16, 10.0), (64, 10.0)], "b": [(2, 10.1), (64, 10.1)],
    "c": [(2, 10.0), (16, 10.0), (64, 12.0)],
    # Between the points of c, and close to the line through them.
    "d": [(3, 10.0), (40, 11.0), (63, 12.0)]}
  assert results.coinciding(lines) == [["a", "b"], ["c", "d"]]


def test_the_interval_is_students_and_a_single_seed_has_none():
  found = results.mean_interval([1.0, 2.0, 3.0])
  half = 4.302652729911275 * (1 / 3) ** 0.5  # t of 2 degrees of freedom
  assert found == pytest.approx(
    {"mean": 2.0, "low": 2 - half, "high": 2 + half})
  assert results.mean_interval([0.5]) == {"mean": 0.5}


def test_intervals_of_accuracies_stay_within_0_and_1():
  runs = [{"before": {"solved": b}, "after": {"solved": a}}
          for b, a in ((0.0, 0.9), (0.4, 1.0), (0.1, 1.0))]
  found = results.over_seeds(runs)
  assert found["before"]["low"] == 0.0
  assert found["after"]["high"] == 1.0
  assert found["gain"]["mean"] == pytest.approx(0.8)


def test_plot_only_measures_nothing(tmp_path, monkeypatch):
  def option(name, value):
    monkeypatch.setattr(results, name, types.SimpleNamespace(value=value))

  option("OUT", tmp_path / "new")
  option("PLOT_ONLY", False)
  assert results.obtain("x", lambda: {"a": 3}) == {"a": 3}
  option("PLOT_ONLY", True)
  assert results.obtain("x", lambda: pytest.fail("measured")) == {"a": 3}


@pytest.mark.parametrize("name", [
  path.stem for path in sorted(STORED.glob("learning_*.json"))])
def test_stored_means_and_intervals_are_those_of_the_stored_seeds(name):
  result = json.loads((STORED / f"{name}.json").read_text())
  wanted = results.over_seeds(result["runs"])
  assert result["over_seeds"].keys() == wanted.keys()
  for end, interval in wanted.items():
    assert result["over_seeds"][end] == pytest.approx(interval)
