"""`benchmarks.claims`: its runs, its rule and its page, of made-up results."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claim_results import result
from claim_results import row

from benchmarks.claims import __main__ as command
from benchmarks.claims import bounds
from benchmarks.claims import figures
from benchmarks.claims import page
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from benchmarks.claims import table
from dlrl import losses
from dlrl import validate

ROOT = pathlib.Path(__file__).parents[2]
STORED = ROOT / "benchmarks/results/claims"
RATES = dict.fromkeys({**table.GRID, **table.OTHERS}, 1e-4)
ROWS = table.rows_at(RATES)


# Runs.


def test_a_run_is_known_by_all_that_is_set_and_by_nothing_else():
  a = row("a", **{"learn.n_mc": 4, "learn.negative_weight": 0.1})
  b = row("b", **{"learn.negative_weight": 0.1, "learn.n_mc": 4})
  assert a.run(0) == b.run(0) and a.run(0).name == b.run(0).name
  others = [
    a.run(0), a.run(1), row("a", **{"learn.n_mc": 4}).run(0),
    dataclasses.replace(a, config="configs/spg.py").run(0),
    dataclasses.replace(a, task="countdown").run(0)]
  assert len({run.name for run in others}) == len(others)


def test_runs_of_a_seed_begin_with_one_model_and_those_of_a_task_alone():
  warm = {run.warm for one in ROWS for run in one.runs
          if run.seed == 0}
  assert sorted(run.config for run in warm) == sorted(
    runs.WARM_STARTS.values())
  arguments = row("a").run(3).arguments(pathlib.Path("/x"))
  name = runs.warm_start("sudoku", 3).name
  assert f"--config.init_from=/x/{name}" in arguments
  assert "--config.sft.steps=0" in arguments
  own = runs.warm_start("sudoku", 3).arguments(pathlib.Path("/x"))
  assert "--config.job=sft" in own and "--config.seed=3" in own
  assert not [arg for arg in own if "init_from" in arg or "sft.steps" in arg]


@pytest.mark.parametrize(
  "one", ROWS, ids=lambda one: f"{one.claim}: {one.label}")
def test_a_run_accepts_the_settings_of_every_row(one):
  path, _, preset = one.config.partition(":")
  module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
  cfg = module.get_config(*([preset] if preset else []))
  cfg.update_from_flattened_dict(
    dict(one.run(0).settings) | runs.UNWATCHED | {"seed": 0, "init_from": "x"})
  validate.from_dict(cfg)


def test_labels_are_unique_and_what_is_compared_exists():
  names = [(one.claim, one.label) for one in ROWS]
  assert len(set(names)) == len(names)
  assert {claim for claim, _ in names} == table.CLAIMS.keys()
  for name, claim in table.CLAIMS.items():
    assert not claim.reference or (name, claim.reference) in names
  for one in statements.STATEMENTS:
    for label in sum(one.pairs, ()):
      assert (one.claim, label) in names


def test_a_method_is_run_at_the_rate_that_ends_highest():
  stored = {}
  for method, (_, _, rates) in {**table.GRID, **table.OTHERS}.items():
    for i, rate in enumerate(rates):
      run, = table.find(
        ROWS, f"tuning{'_others' * (method in table.OTHERS)}",
        f"{method}, rate {rate:g}").runs
      assert run.seed not in table.SEEDS
      assert dict(run.settings)[table.RATE] == rate
      stored[run.name] = result(100, 0.4, 0.5 + 0.1 * (i == 1) + 0.05 * i)
  wanted = {method: rates[1] for method, (_, _, rates) in {
    **table.GRID, **table.OTHERS}.items()}
  assert table.best_rates(stored) == wanted
  stored.pop(run.name)  # of a grid with a hole nothing is known
  assert table.best_rates(stored) == {k: v for k, v in wanted.items()
                                      if k != method}
  found = table.find(table.rows(stored), "objectives", "ESPO")
  assert found.seeds == table.SEEDS
  assert found.overrides[table.RATE] == wanted["ESPO"]
  assert table.find(table.rows(stored), "objectives", method).runs == []


# Numbers.


def test_area_and_collapse():
  one = result(0, 0.2, 0.6, 0.6)
  assert store.area(one) == pytest.approx((0.4 + 0.6) / 2)
  assert store.at_step(one, runs.COMMON["steps"] / 4) == pytest.approx(0.4)
  assert not store.collapsed(result(0, 0.4, 0.2))
  assert store.collapsed(result(0, 0.4, 0.19))


def stored_of(**after):
  """Results of rows by label, from accuracies of seeds 0, 1, ..."""
  rows = {label: row(label, seeds=tuple(range(len(values))),
                     **{"learn.n_mc": place})
          for place, (label, values) in enumerate(after.items())}
  stored = {rows[label].run(seed).name: result(seed, 0.4, value)
            for label, values in after.items()
            for seed, value in enumerate(values)}
  return rows, stored


def test_differences_are_paired_by_seed():
  rows, stored = stored_of(a=[0.5, 0.7, 0.9, 0.1], b=[0.4, 0.6, 0.7])
  found = statements.difference(rows["a"], rows["b"], stored)
  # 10, 10 and 20 points: 40 / 3, and 4.303 standard errors of 10 / 3.
  assert found.seeds == 3
  assert found.mean == pytest.approx(0.4 / 3)
  half = 4.302652729911275 * (0.1 / 3**0.5) / 3**0.5
  assert (found.low, found.high) == pytest.approx(
    (0.4 / 3 - half, 0.4 / 3 + half))


def told(*ends, seeds=3):
  return [statements.Difference((low + high) / 2, low, high, seeds)
          for low, high in ends]


@pytest.mark.parametrize(("found", "verdict"), [
  (told((0.01, 0.2)), "holds"),
  (told((0.01, 0.2), (0.001, 0.3)), "holds"),
  (told((0.01, 0.2), (-0.1, 0.3)), "holds in part"),
  (told((0.01, 0.2), (-0.3, -0.1)), "holds in part"),
  (told((-0.3, -0.1)), "does not hold"),
  (told((-0.3, 0.019)), "does not hold"),  # what may be gained is too little
  (told((-0.3, 0.021)), "could not be tested: seeds differ too much"),
  (told((-0.3, -0.1), (-0.1, 0.3)),
   "could not be tested: seeds differ too much"),
  (told((0.01, 0.2), seeds=2), "not run yet"),
  (told((0.01, 0.2)) + told((0.1, 0.2), seeds=0), "not run yet"),
])
def test_the_rule(found, verdict):
  assert statements.verdict(found) == verdict


def test_nothing_is_known_without_seeds():
  rows, stored = stored_of(a=[0.5], b=[])
  assert statements.difference(rows["a"], rows["b"], stored).seeds == 0
  assert statements.difference(
    rows["a"], rows["a"], stored).outcome == "not run yet"


def test_what_is_better_and_never_collapsed_is_recommended():
  rows, stored = stored_of(
    default=[0.5, 0.6, 0.7], a=[0.6, 0.7, 0.8], b=[0.8, 0.9, 0.19],
    c=[0.9, 1.0, 0.5], d=[0.55, 0.66, 0.77])

  def told(*labels):
    return statements.recommended(
      [rows[label] for label in labels], rows["default"], stored)

  assert told("default", "a", "d") is rows["a"]
  assert told("default", "c") is rows["default"]  # by no interval
  assert told("default", "a", "b", "c") is rows["a"]
  for seed, value in enumerate((0.9, 1.0, 1.0)):  # better, but it collapsed
    stored[rows["b"].run(seed).name] = result(
      seed, 0.4, value, before=2.1)
  assert told("default", "a", "b") is rows["a"]
  for seed in range(3):
    stored[rows["b"].run(seed).name]["before"] = 0.4
  assert told("default", "a", "b") is rows["b"]
  stored.pop(rows["b"].run(2).name)
  assert told("default", "a", "b") is None


# The page.


def results_of(claim, after):
  """Made-up results: the i-th row of a claim gains by i points on `after`."""
  rows = [one for one in ROWS if one.claim == claim]
  return {run.name: result(run.seed, 0.4, 0.5, after[run.seed] + 0.1 * place)
          for place, one in enumerate(rows) for run in one.runs
          if run.seed < len(after)}


def test_a_table_shows_means_intervals_and_equal_time():
  stored = results_of("draws", [0.4, 0.5, 0.6])
  seconds = {f"{n} draw" + "s" * (n > 1): {"rollout": 1.0, "update": float(n)}
             for n in table.NS}
  lines = page.section("draws", ROWS, stored, seconds)
  first = next(line for line in lines if line.startswith("| 1 draw |"))
  last = next(line for line in lines if line.startswith("| 16 draws |"))
  cells = [cell.strip() for cell in first.strip("|").split("|")]
  half = 4.302652729911275 * 0.1 / 3**0.5 * 100
  assert cells == [
    "1 draw", "3", f"50.0 [{50 - half:.1f}, {50 + half:.1f}]",
    "-40.0 [-40.0, -40.0]", cells[4], "0 of 3", "2.00", cells[2]]
  assert cells[4].startswith("47.5 [")  # trapezoids of 40, 50 and 50
  cells = [cell.strip() for cell in last.strip("|").split("|")]
  # 2 of 17 seconds: after 2 / 17 of the steps, from 40 to 50 at the middle.
  assert cells[3] == "" and cells[6] == "17.00"
  assert cells[7] == "42.4 [42.4, 42.4]"
  assert "Before RL: 40.0 [40.0, 40.0]." in lines


def test_the_page_says_what_holds_and_what_was_not_run():
  text = page.text(results_of("draws", [0.4, 0.5, 0.6]), {}, None)
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


# The paper's bounds.


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_each_bound_is_bgpos_for_the_advantages_that_it_bounds(sign):
  logps = -jnp.arange(1.0, 7.0).reshape(2, 3) / 3
  ones = jnp.ones((2, 3))
  rows = losses.Responses(sign * jnp.array([0.5, 2.0]), ones > 0, jnp.ones(2))

  def loss(objective, logps):
    draw = losses.Scored(logps, 1.2 * logps - 0.1, None, ones > 0, ones)
    return jnp.sum(objective.loss(draw, rows)[0])

  values, slopes = zip(*(
    jax.value_and_grad(loss, argnums=1)(one, logps) for one in (
      losses.OBJECTIVES["bgpo"](), bounds.taylor(), bounds.jensen())),
    strict=True)
  same, other = (1, 2) if sign > 0 else (2, 1)
  values = list(map(float, values))
  assert values[same] == pytest.approx(values[0], rel=1e-6)
  np.testing.assert_allclose(slopes[same], slopes[0], rtol=1e-6)
  # The other one bounds the objective from above: its loss is lower.
  assert values[other] < values[0]
  change = np.sum(-0.2 * logps + 0.1, 1)
  wanted = {1: 1 + change, 2: np.exp(change)}
  for place in (1, 2):
    assert values[place] == pytest.approx(
      -float(np.sum(wanted[place] * rows.advantage)), rel=1e-5)
