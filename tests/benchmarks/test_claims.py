"""`benchmarks.claims`: its runs and its rule, of made-up results."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from claim_results import ROWS
from claim_results import cost_of
from claim_results import result
from claim_results import row

from benchmarks.claims import bounds
from benchmarks.claims import cost
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from benchmarks.claims import table
from configs import bgpo
from dlrl import losses
from dlrl import validate
from dlrl.diffusion import forward_process
from dlrl.models import char_tokenizer
from dlrl.models import transformer

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
    for better, worse in one.pairs:
      assert (one.claim, better) in names
      assert (one.than or one.claim, worse) in names


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


def test_one_estimator_is_given_to_objectives_that_have_another():
  rows = [one for one in ROWS if one.claim == "objectives_balanced"]
  assert {one.label for one in rows} == set(table.OF_ELBO)
  for one in rows:
    own = table.find(ROWS, "objectives", one.label)
    assert one.overrides == {**own.overrides, table.PROCESS: "balanced"}
    assert one.config == own.config and one.seeds == own.seeds
    assert not {run.name for run in one.runs} & {run.name for run in own.runs}
  # The others have it already, or are their masks. Quadrature is unbiased, too,
  # but for its levels.
  estimates = forward_process.PROCESSES.keys() | {"quadrature"}
  for label, (config, _, _) in table.OTHERS.items():
    module = importlib.import_module(
      config.removesuffix(".py").replace("/", "."))
    process = module.get_config().learn.forward_process
    assert (label in table.OF_ELBO) == (process in estimates - {"balanced"})


def test_the_harder_task_is_for_a_model_of_a_million_parameters():
  one, = (one for one in ROWS if one.claim == "harder")
  cfg = validate.from_dict(bgpo.get_config(one.config.partition(":")[2]))
  model = transformer.build(cfg.model, char_tokenizer.CharTokenizer().mask_id)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(shapes)) > 1_000_000
  assert cfg.task.name == "countdown_digits4" and len(one.runs) == 1
  assert one.runs[0].warm.config == one.config


def test_rows_are_compared_with_one_row_or_with_their_namesakes():
  found = table.references("draws", ROWS)
  assert found.keys() == {"1 draw", "2 draws", "4 draws", "8 draws"}
  assert {row.label for row in found.values()} == {"16 draws"}
  found = table.references("objectives_balanced", ROWS)
  assert found["ESPO"] is table.find(ROWS, "objectives", "ESPO")
  assert found.keys() == set(table.OF_ELBO)
  assert table.references("tuning", ROWS) == {}


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


def test_the_p_value_is_that_of_a_paired_t_test():
  # 10, 10 and 20 points: t = (40 / 3) / (10 / 3) = 4, of 2 degrees of freedom,
  # whose distribution is 1 / 2 + t / (2 sqrt(2 + t^2)).
  found = statements.of_gains([0.1, 0.1, 0.2])
  assert found.p_value == pytest.approx(1 - 4 / 18**0.5)
  assert statements.of_gains([-0.1, -0.1, -0.2]).p_value == found.p_value
  assert statements.of_gains([0.5, 0.5]).p_value == 0
  assert statements.of_gains([0.0, 0.0]).p_value == 1
  assert statements.of_gains([0.5]).p_value == 1


@pytest.mark.parametrize(("p_values", "each", "together"), [
  # The least is compared with 0.05 / 4, the next with 0.05 / 3, and so on.
  ([0.04, 0.01, 0.016, 0.03], "abcd", "bc"),
  ([0.013, 0.013, 0.013, 0.013], "abcd", ""),
  ([0.012, 0.016, 0.024, 0.049], "abcd", "abcd"),
  ([0.06, 0.5, 0.5, 0.5], "", ""),
])
def test_holms_correction(p_values, each, together):
  found = {name: statements.Difference(0.1, 0.0, 0.2, 5, p)
           for name, p in zip("abcd", p_values, strict=True)}
  for corrected, names in ((False, each), (True, together)):
    assert statements.larger_than_noise(
      found, corrected=corrected) == list(names)


def test_seconds_that_are_saved_are_paired_by_turns():
  costs = {"a": cost_of(1.0, 2.0), "b": cost_of(2.0, 2.0)}
  costs["b"]["seconds"]["update"] = [20.0, 2.5, 0.5]
  # Rollouts take half the time in each turn; steps 27 of 38, 3 of 4.5, 1.5 of
  # 1.5 seconds.
  found = statements.seconds_saved("a", "b", costs, ["rollout"])
  assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
  found = statements.seconds_saved("a", "b", costs, cost.PARTS)
  assert found.mean == pytest.approx((11 / 38 + 1 / 3) / 3)
  assert found.seeds == 3 and found.low < 0 < found.high
  assert statements.seconds_saved("a", "c", costs, ["rollout"]).seeds == 0
  assert statements.seconds_saved("a", "b", None, ["rollout"]).seeds == 0


def test_variance_that_is_saved_is_told_of_all_steps():
  one = {"pruning": "template and truncated draws", "n": 8}
  found = statements.variance_saved([
    {**one, "whole": [0.75, 0.5, 0.875]}, {**one, "whole": [0.5, 0.25, 1.25]},
    {**one, "n": 1, "whole": [0.1, 0.1, 0.1]},
    {"pruning": "template", "n": 8, "whole": [0.1, 0.1, 0.1]}])
  assert [(d.mean, d.low, d.high) for d in found] == [
    (0.25, 0.125, 0.5), (0.5, -0.25, 0.75)]
  assert statements.verdict(found) == "holds in part"
  assert statements.verdict(statements.variance_saved(None)) == "not run yet"


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
