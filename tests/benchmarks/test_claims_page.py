"""`benchmarks.claims`: its page and its figures, of made-up results."""

import pathlib

import numpy as np
from claim_results import ROWS
from claim_results import cost_of
from claim_results import result
from claim_results import results_of

from benchmarks.claims import __main__ as command
from benchmarks.claims import example
from benchmarks.claims import figures
from benchmarks.claims import page
from benchmarks.claims import runs
from benchmarks.claims import store
from benchmarks.claims import table

STORED = pathlib.Path(__file__).parents[2] / "benchmarks/results/claims"


def test_a_table_shows_means_intervals_and_equal_time():
  stored = results_of("draws", [0.4, 0.5, 0.6])
  costs = {"draws": {f"{n} draw" + "s" * (n > 1): cost_of(1.0, float(n))
                     for n in table.NS}}
  lines = page.section("draws", ROWS, page.Found(stored, costs))
  first = next(line for line in lines if line.startswith("| 1 draw |"))
  last = next(line for line in lines if line.startswith("| 16 draws |"))
  cells = [cell.strip() for cell in first.strip("|").split("|")]
  half = 4.302652729911275 * 0.1 / 3**0.5 * 100
  assert cells == [
    "1 draw", "3", f"50.0 [{50 - half:.1f}, {50 + half:.1f}]",
    "-40.0 [-40.0, -40.0]", cells[4], "0 of 3", "5.0", "2.00", cells[2]]
  assert cells[4].startswith("47.5 [")  # trapezoids of 40, 50 and 50
  cells = [cell.strip() for cell in last.strip("|").split("|")]
  # 2 of 17 seconds: after 2 / 17 of the steps, from 40 to 50 at the middle.
  assert cells[3] == "" and cells[6:8] == ["20.0", "17.00"]
  assert cells[8] == "42.4 [42.4, 42.4]"
  assert "Before RL: 40.0 [40.0, 40.0]." in lines


def test_what_failed_is_told_beside_means_without_it():
  stored = results_of("draws", [0.4, 0.5, 0.6])
  four = table.find(ROWS, "draws", "4 draws")
  run = four.run(1)
  failed = {run.name: "step 9: not `finite`",
            runs.warm_start("sudoku", 4).name: "no puzzles"}
  del stored[run.name]
  lines = page.section("draws", ROWS, page.Found(stored, failed=failed))
  assert "| 4 draws | 2 |" in "\n".join(lines)
  told = [line for line in lines if line.startswith("Failed")]
  assert told.count("Failed: 4 draws, seed 1: `step 9: not 'finite'`") == 1
  # All rows need their seed's warm start.
  assert sum("seed 4: `no puzzles`" in line for line in told) == 5


def test_differences_that_seeds_explain_are_not_told():
  stored = results_of("off_policy", [0.1, 0.2, 0.3])
  reference, *others = (one for one in ROWS if one.claim == "off_policy")
  # By 1 point in the mean, and up to 5 from seed to seed.
  for seed, value in enumerate((0.15, 0.2, 0.28)):
    stored[others[0].run(seed).name] = result(seed, 0.4, value)
  line, = (line for line in page.section("off_policy", ROWS, page.Found(stored))
           if line.startswith("Differences larger"))
  labels = [one.label for one in others[1:]]
  assert line == (
    "Differences larger than the noise of seeds, of 7: "
    f"{', '.join(labels)}. After Holm's correction: all of them.")
  for one in others[1:]:
    for seed in range(3):
      del stored[one.run(seed).name]
  assert ("No difference of 1 is larger than the noise of seeds, one by one or "
          "together.") in page.section("off_policy", ROWS, page.Found(stored))
  del stored[reference.run(2).name]
  assert "noise" not in "".join(
    page.section("off_policy", ROWS, page.Found(stored)))


def test_the_pages_part_on_stp_says_where_time_is_saved():
  costs = {"nothing": cost_of(1.0, 2.0), "template": cost_of(0.75, 2.25)}
  costs["template"]["seconds"] = {
    "rollout": [6.75, 0.75, 0.375], "update": [18.0, 1.5, 0.75]}
  entry = {"step": 80, "n": 8, "pruning": "template", "signal": 0.9,
           "draws": [0.25, 0.2, 0.3], "whole": [0.5, 0.4, 0.6]}
  lines = page.section("stp", ROWS, page.Found(
    {}, {"stp": costs}, pruned=[entry, entry | {"signal": None, "step": 0}]))
  assert "| nothing | 1.000 | 2.000 | 2.5 | 3.5 | | | |" in lines
  row, = (line for line in lines if line.startswith("| template | 0.750"))
  # 2.25, 0.75 and 0.375 of 27, 3 and 1.5 seconds.
  share = (2.25 / 27 + 0.25 + 0.25) / 3
  assert row.startswith("| template | 0.750 | 1.500 | 2.2 | 3.8 | ")
  assert f"| {100 * share:+.1f} [" in row
  assert row.endswith("| +0.250 | +0.500 |")
  assert ("| 80 | template | 8 | 0.25 [0.20, 0.30] | 0.50 [0.40, 0.60] | 0.90 |"
          ) in lines
  assert ("| 0 | template | 8 | 0.25 [0.20, 0.30] | 0.50 [0.40, 0.60] |  |"
          ) in lines
  assert "Not timed yet." in page.section("stp", ROWS, page.Found({}))


def test_a_long_run_says_how_long_it_took():
  run, = (run for one in ROWS if one.claim == "harder" for run in one.runs)
  stored = {run.name: result(0, 0.2, 0.5) | {"hours": [0.25, 0.75]}}
  assert ("BGPO, 8 draws, seed 0: 0.25 hours of fine-tuning and 0.75 hours of "
          "RL on two cores, beside other work.") in page.section(
    "harder", ROWS, page.Found(stored))


def test_the_page_says_what_holds_and_what_was_not_run():
  text = page.text(page.Found(results_of("draws", [0.4, 0.5, 0.6])))
  assert ("| BGPO | 16 draws are better than one | +40.0 [+40.0, +40.0] | "
          "holds |") in text
  assert "on Countdown |  | not run yet |" in text
  assert "(../benchmarks/results/claims_draws.png)" in text
  assert "claims_off_policy.png" not in text
  assert "Not run yet." in text  # the variance
  for claim in table.CLAIMS.values():
    assert f"## {claim.title}" in text


def test_the_page_is_what_the_stored_results_give():
  assert command.PAGE.read_text() == page.of_stored(STORED)
  stored = store.read(STORED)
  for name in table.CLAIMS:
    if page.started([one for one in table.rows(stored) if one.claim == name],
                    stored):
      assert (STORED.parent / f"claims_{name}.png").exists()


def test_stored_results_are_of_runs_of_the_table():
  stored = store.read(STORED)
  known = {run.name for one in table.rows(stored) for run in one.runs}
  assert stored.keys() <= known


def test_a_figure_has_a_line_of_every_row_with_results():
  stored = results_of("off_policy", [0.1, 0.2])
  left, right = figures.of_claim("off_policy", stored).axes
  labels = [one.label for one in ROWS if one.claim == "off_policy"]
  assert [text.get_text() for text in left.get_yticklabels()] == labels
  assert [line.get_label() for line in right.lines] == labels
  np.testing.assert_allclose(right.lines[0].get_ydata(), [40, 50, 15])


def test_many_rows_are_points_with_intervals_not_lines():
  after = [0.1, 0.2, 0.3]
  rows = [one for one in ROWS if one.claim == "objectives"]
  stored = results_of("objectives", after) | {
    run.name: result(run.seed, 0.5, 0.5) for one in ROWS
    if one.claim.startswith("tuning") for run in one.runs}
  # The rate of all methods is then the first that was tried.
  rows = [one for one in table.rows(stored) if one.claim == "objectives"]
  for place, one in enumerate(rows):
    for seed, value in enumerate(after):
      stored[one.run(seed).name] = result(seed, 0.4, value + 0.01 * place)
  left, right = figures.of_claim("objectives", stored).axes
  for ax, mean in ((left, 20.0), (right, 30.0)):
    points, interval, middle = ax.lines[:3]  # of the first row
    assert len(points.get_xdata()) == 3
    np.testing.assert_allclose(middle.get_xdata(), [mean])
    assert interval.get_xdata()[0] < mean < interval.get_xdata()[1]
    assert len(ax.lines) == 3 * len(rows)
    assert set(points.get_ydata()) == {len(rows)}


def test_the_readme_has_the_table_of_the_stored_runs():
  readme, stored = command.README.read_text(), store.read(STORED)
  assert example.written(readme, table.rows(stored), stored) == readme


def test_the_table_of_the_example():
  row, = (one for one in ROWS if one.claim == "example")
  stored = {run.name: result(run.seed, 0.25, after, before=0.25) | {
    "items": 512} for run, after in zip(row.runs, [0.5, 0.75], strict=False)}
  text = example.written(
    "a\n<!-- example: begin -->\nold\n<!-- example: end -->\nb\n", ROWS, stored)
  # Wilson's interval of 128, 256 and 384 of 512, and Student's of two seeds,
  # whose quantile is 12.706: 0.625 +- 12.706 * 0.125.
  assert text == """a
<!-- example: begin -->
| seed | after fine-tuning | after RL |
| --- | --- | --- |
| 0 | 25.0% [21.4, 28.9] | 50.0% [45.7, 54.3] |
| 1 | 25.0% [21.4, 28.9] | 75.0% [71.1, 78.6] |
| mean of seeds | 25.0% [25.0, 25.0] | 62.5% [-96.3, 221.3] |
<!-- example: end -->
b
"""
