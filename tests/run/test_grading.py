"""Rewards of completions, weighted, logged, and left out where not known."""

import dataclasses
import math
import types

import numpy as np
import pytest

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.run import grading
from dlrl.runtime import processes
from dlrl.tasks import reward_calls
from dlrl.tasks.user_files import rewards

ROWS = [{"puzzle": "1234341221434321", "solution": "1234341221434321",
         "difficulty": 1, "index": 7},
        {"puzzle": "0234341221434321", "solution": "1234341221434321",
         "difficulty": 1, "index": 8}]
RIGHT = "1234341221434321"
SUDOKU = tasks.TASKS["sudoku"]


def setup(functions, weights=None, group_size=2, normalize="sum"):
  """What scoring reads of a `Setup`."""
  return types.SimpleNamespace(
    cfg=types.SimpleNamespace(rollout=dataclasses.replace(
      config.RolloutConfig(), group_size=group_size, normalize=normalize,
      reward_weights=tuple(weights or [1.0] * len(functions)))),
    task=SUDOKU, prompt=SUDOKU.prompts["bare"], rewards=functions,
    tokenizer=char_tokenizer.CharTokenizer())


def fixed(*values):
  return lambda prompts, completions, **columns: list(values)


def whole(count):
  return processes.Share(range(count), count)


def graded(functions, weights=None, count=4, **knobs):
  done = grading.Answers(["?"] * count, [""] * count, {})
  made = setup(functions, weights, **knobs)
  return grading.rewards(made, grading.rewarded(made, done), whole(count))


def scored(*args, **kwargs):
  rewards, row = graded(*args, **kwargs)
  return rewards.total, row


def test_completions_come_with_their_prompts_and_columns():
  chars = char_tokenizer.CharTokenizer()
  ids = np.array([chars.encode(RIGHT)] * 3 + [[chars.eos_id] * 16])
  done = grading.read(setup({}), [row for row in ROWS for _ in "ab"], ids,
                      np.float32([1, 2, 0.5, 4]))
  assert done.texts == [RIGHT] * 3 + [""]
  first, second = (SUDOKU.prompts["bare"].question(row) for row in ROWS)
  assert done.prompts == [first] * 2 + [second] * 2
  assert done.columns["index"] == [7, 7, 8, 8]
  assert done.columns["dlrl_tokens_per_forward"] == [1, 2, 0.5, 4]
  assert done.columns["puzzle"] == [row["puzzle"] for row in ROWS for _ in "ab"]
  solved = setup(rewards.find(SUDOKU.rewards, ["solved"]))
  found, _ = grading.rewards(solved, grading.rewarded(solved, done), whole(4))
  assert found.total.tolist() == [1, 1, 1, 0]
  assert grading.metrics(setup({}), done, whole(4))["solved"] == [1, 1, 1, 0]


def test_what_is_learned_is_the_weighted_sum_and_each_mean_is_logged():
  reward, row = scored(
    {"a": fixed(1, 0, 1, 0), "b": fixed(0.5, 0.5, 0, 1)}, [2.0, -1.0])
  assert reward.dtype == np.float32
  assert reward.tolist() == [1.5, -0.5, 2.0, -1.0]
  assert row == {
    "reward/a": 0.5, "reward/b": 0.5, "reward/mean": 0.5,
    "reward/a_std": 0.5, "reward/b_std": pytest.approx(0.125**0.5),
    "reward/std": pytest.approx(np.std([1.5, -0.5, 2, -1])),
    "reward/infrastructure_errors": 0.0, "update/zero_groups": 0.0}


def test_what_is_not_known_is_counted_and_never_zero():
  reward, row = scored(
    {"a": fixed(1, None, 1, 0), "b": fixed(1, 1, None, 0)}, [1.0, 1.0])
  assert np.isnan(reward).tolist() == [False, True, True, False]
  assert row["reward/infrastructure_errors"] == 2
  assert row["reward/a"] == pytest.approx(2 / 3)
  assert row["reward/mean"] == 1.0  # of 2 and 0
  assert row["update/zero_groups"] == 1.0  # one known in each group
  _, row = scored({"a": fixed(1, None, 0, 1, 1, 1)}, count=6, group_size=3)
  assert row["update/zero_groups"] == 0.5


def test_a_step_of_which_nothing_is_known_is_logged_as_such():
  reward, row = scored({"a": fixed(*[None] * 4)})
  assert np.isnan(reward).all()
  assert row["reward/infrastructure_errors"] == 4
  assert math.isnan(row["reward/mean"])
  assert row["update/zero_groups"] == 1.0


@pytest.mark.parametrize("values", [
  (1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, "good"), (1, 2, 3, float("nan")),
  (1, 2, 3, float("inf")), (1, 2, 3, [1])])
def test_what_is_not_a_number_per_completion_names_the_reward(values):
  with pytest.raises(ValueError, match="'mine' gave"):
    scored({"mine": fixed(*values)})


def test_a_group_teaches_if_what_is_learned_differs_in_it():
  # Groups: sum equal, parts not; all equal; one known; a weight of zero.
  rewards = {"a": fixed(1, 0, 1, 1, 1, None, 1, 1),
             "b": fixed(0, 1, 2, 2, 5, 3, 2, 2), "c": fixed(*[1, 2] * 4)}
  weights = [1.0, 1.0, 0.0]
  found, row = graded(rewards, weights, 8)
  assert found.teaches.tolist() == [False] * 4
  assert row["update/zero_groups"] == 1
  assert [x.tolist() for x in found.learned(config.RolloutConfig())] == [
    [1, 1, 3, 3, 6, pytest.approx(np.nan, nan_ok=True), 3, 3]]

  each, row = graded(rewards, weights, 8, normalize="each")
  assert each.teaches.tolist() == [True, False, False, False]
  assert row["update/zero_groups"] == 0.75
  total, parts = each.learned(config.RolloutConfig(
    rewards=("a", "b", "c"), normalize="each"))
  np.testing.assert_array_equal(total, found.total)
  np.testing.assert_array_equal(parts, [
    [1, 0, 1], [0, 1, 2], [1, 2, 1], [1, 2, 2], [1, 5, 1], [np.nan] * 3,
    [1, 2, 1], [1, 2, 2]])
  assert parts.dtype == np.float32


def faster(prompts, completions, *, dlrl_tokens_per_forward):
  return [2 * each for each in dlrl_tokens_per_forward]


def closed(prompts, completions, *, index):  # takes no further columns
  return [float(i) for i in index]


def test_speed_is_a_reward_of_every_task_and_only_told_who_asks():
  names = ["tokens_per_forward", "test_grading:faster", "test_grading:closed"]
  found = rewards.find({}, names)
  columns = {"index": [7, 8]}
  reward_calls.check({"closed": closed}, columns)
  done = dataclasses.replace(
    grading.Answers(["?"] * 2, [""] * 2, columns),
    columns=columns | {reward_calls.MEASURED: [1.5, 4.0]})
  with pytest.raises(strict.ConfigError, match="faster"):
    reward_calls.check({"faster": faster}, columns)  # takes no `index`
  got = grading.rewarded(setup({
    "tokens_per_forward": found["tokens_per_forward"],
    "closed": found["closed"]}), done).columns[reward_calls.COLUMN]
  assert got == [{"tokens_per_forward": 1.5, "closed": 7},
                 {"tokens_per_forward": 4.0, "closed": 8}]
  got = grading.rewarded(setup({"faster": faster}), dataclasses.replace(
    done, columns={reward_calls.MEASURED: [1.5, 4.0]}))
  assert got.columns[reward_calls.COLUMN] == [{"faster": 3}, {"faster": 8}]


def length(prompts, completions, **columns):
  return [float(len(c)) for c in completions]


mean = length
number = 3


def test_a_reward_may_be_a_function_by_dotted_path():
  found = rewards.find(SUDOKU.rewards, ["solved", "test_grading:length"])
  assert list(found) == ["solved", "length"]
  assert found["length"]([], ["abc"]) == [3.0]


@pytest.mark.parametrize(("name", "cause"), [
  ("solvd", "choose from 'solved', 'units'"),
  ("nowhere.at_all:f", "ModuleNotFoundError"),
  ("test_grading:absent", "AttributeError"),
  ("test_grading:number", "must be a function, got int"),
  ("test_grading:mean", "reward/mean is already in the log"),
  (":f", "ValueError")])
def test_a_reward_that_cannot_be_found_names_field_and_cause(name, cause):
  with pytest.raises(strict.ConfigError) as error:
    rewards.find(SUDOKU.rewards, [name])
  assert error.value.field == "rollout.rewards"
  assert error.value.value == name
  assert cause in error.value.fix


def test_a_script_that_ends_is_no_module_of_rewards(tmp_path, monkeypatch):
  (tmp_path / "script_that_ends.py").write_text("raise SystemExit(0)")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(strict.ConfigError, match=r"cannot be imported: SystemEx"):
    rewards.find({}, ["script_that_ends:f"])


def test_two_rewards_of_one_name_are_refused():
  with pytest.raises(strict.ConfigError, match="length is already in the log"):
    rewards.find(SUDOKU.rewards, ["test_grading:length", "test_grading:length"])
