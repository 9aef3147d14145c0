"""What a reward function may return, and how an error names it."""

import decimal
import functools
import gc
import math

import jax.numpy as jnp
import many_rewards
import numpy as np
import pytest

from dlrl import strict
from dlrl.losses import advantages
from dlrl.tasks import reward_calls

COLUMNS = {"index": [3, 3, 8, 9], "answer": ["a", "a", "b", None],
           "prompt": ["p"] * 4}


def each(function, columns=COLUMNS, count=4):
  return reward_calls.each({"mine": function}, ["p"] * count, ["c"] * count,
                           columns)


def fixed(values):
  return lambda prompts, completions, **columns: values


@pytest.mark.parametrize("values", [
  [1, 0, True, None], (1.0, 0.0, 1.0, None), [decimal.Decimal(1), 0, 1, None],
  [np.float32(1), np.int64(0), np.bool_(True), None],
  np.array([1, 0, 1, None], object)])
def test_numbers_of_any_kind_are_taken(values):
  assert each(fixed(values)) == [
    {"mine": 1.0}, {"mine": 0.0}, {"mine": 1.0}, {"mine": None}]
  assert each(fixed(np.ones(4)))[3] == {"mine": 1.0}


@pytest.mark.parametrize(("values", "text"), [
  ([1, 1, 1], "gave 3 values for 4 completions of rows 3, 8, 9"),
  ([1] * 5, "gave 5 values"),
  (0.5, "returned 0.5 for completions"),
  (np.float32(2), "returned"), (np.array(0.5), "returned"),
  (None, "returned None"), ("1111", "returned '1111'"),
  ({"a": 1, "b": 2, "c": 3, "d": 4}, "returned {"),
  ({1, 2, 3, 4}, "returned {"), (iter([1, 1, 1, 1]), "returned <"),
  ([1, 1, math.nan, 1], "gave nan for a completion of row 8"),
  ([1, -math.inf, 1, 1], "gave -inf for a completion of row 3"),
  ([1, 1, 1, 1e39], "gave 1e.39 for a completion of row 9"),
  ([10**400, 1, 1, 1], "gave 1000"),
  ([1, 1, -2e15, 1], "gave -2000.* of at most 1e.15 in size"),
  ([1, 1, "1", 1], "gave '1' for a completion of row 8"),
  ([1, 1, 1, [1]], r"gave \[1\] for a completion of row 9"),
  (np.ones((4, 1)), "gave array"), ([1, 1, 1, 1j], "gave 1j"),
  ([many_rewards.Odd()] * 4, "gave <many_rew.* for a completion of row 3"),
  (many_rewards.Unreadable([1] * 4), "returned Unreadable, which cannot")])
def test_anything_else_names_the_reward_the_row_and_the_columns(values, text):
  with pytest.raises(reward_calls.RewardError, match=text) as error:
    each(fixed(values))
  last = str(error.value).splitlines()[-1]
  assert last.startswith("the reward 'mine' ")
  assert "The columns are ['answer', 'index', 'prompt']" in last
  assert last.endswith("(config.rollout.rewards)")


def test_an_exception_shows_where_the_function_raised_it():
  def judge(prompts, completions, **columns):
    return [columns["gold"][i] for i in range(4)]

  with pytest.raises(reward_calls.RewardError) as error:
    each(judge)
  *frames, last = str(error.value).splitlines()
  assert frames[0] == "in the reward 'mine':"
  assert __file__ in frames[1]
  assert 'columns["gold"]' in "".join(frames)
  assert "dlrl/tasks/reward_calls.py" not in "".join(frames)
  assert last.startswith("the reward 'mine' raised KeyError(\"'gold'\") for "
                         "completions of rows 3, 8, 9. The columns are ['ans")


@pytest.mark.parametrize(("function", "text"), [
  (many_rewards.unprintable, r"raised Unprintable\(no message\) for compl"),
  (many_rewards.ends, r"raised SystemExit\('0'\) for completions of rows 3")])
def test_whatever_is_raised_names_the_reward(function, text):
  with pytest.raises(reward_calls.RewardError, match=text):
    each(function)


def test_an_exception_that_quotes_a_completion_cannot_write_to_a_terminal():
  def judge(prompts, completions, **columns):
    raise ValueError("\x1b[2J" + "x" * 10_000 + "\nfirst line")

  with pytest.raises(reward_calls.RewardError) as error:
    each(judge)
  assert "\x1b" not in str(error.value)
  assert len(str(error.value).splitlines()[-1]) < 300


@pytest.mark.parametrize(("function", "text"), [
  (lambda prompts, completions, *, gold, **columns: [1] * 4, "'gold'"),
  (lambda prompts, completions: [1] * 4, "unexpected keyword argument 'index'"),
  (lambda completions, **columns: [1] * 4, "positional")])
def test_a_function_that_cannot_take_the_columns_is_found_before_any_call(
    function, text):
  with pytest.raises(reward_calls.RewardError, match=text) as failed:
    each(function)
  with pytest.raises(strict.ConfigError, match=text) as refused:
    reward_calls.check({"mine": function}, COLUMNS)
  assert refused.value.field == "rollout.rewards"
  for error in (failed, refused):
    assert "cannot be called as f(prompts, completions, **columns)" in (
      str(error.value))
    assert "'mine'" in str(error.value)
    assert "['answer', 'index', 'prompt']" in str(error.value)
  reward_calls.check({"mine": fixed(1), "max": max}, COLUMNS)


def test_advantages_of_the_largest_rewards_are_finite():
  most = [one["mine"] for one in each(fixed([1e15, -1e15, 0, 1e15]))]
  rewards = jnp.asarray(most * 256, jnp.float32)
  for advantage in advantages.ADVANTAGES.values():
    assert jnp.isfinite(advantage(rewards, 1024)).all()


def test_functions_are_called_once_each_and_with_lists_of_their_own():
  calls = []

  def first(prompts, completions, *, answer, **columns):
    calls.append(len(completions))
    prompts.clear()
    completions.sort(key=id)
    answer.clear()
    return [1] * 4

  def second(prompts, completions, *, answer, **columns):
    assert len(prompts) == len(answer) == 4
    calls.append(len(completions))
    return [0] * 4

  found = reward_calls.each(
    {"first": first, "second": second}, ["p"] * 4, ["c"] * 4, COLUMNS)
  assert found == [{"first": 1.0, "second": 0.0}] * 4
  assert calls == [4, 4]
  assert len(COLUMNS["answer"]) == 4
  assert reward_calls.each({"first": first}, [], [], {}) == []
  assert calls == [4, 4]


class Async:
  async def __call__(self, prompts, completions, **columns):
    return [1.0 for _ in completions]


async def promised(prompts, completions, **columns):
  return [1.0 for _ in completions]


def yielded(prompts, completions, **columns):
  yield from completions


@pytest.mark.parametrize("function", [
  promised, yielded, Async(), functools.partial(promised, x=1)])
def test_functions_that_return_no_list_are_found_before_any_call(function):
  with pytest.raises(strict.ConfigError, match="'mine': is async or a gener"):
    reward_calls.check({"mine": function}, COLUMNS)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_a_promise_that_nobody_keeps_is_the_last_line():
  with pytest.raises(reward_calls.RewardError, match="returned <coroutine"):
    each(lambda p, c, **columns: promised(p, c))
  gc.collect()


def test_many_rows_are_named_by_the_first_and_tasks_are_told_apart():
  columns = {"index": list(range(20)), "task": ["gsm8k", "files"] * 10}
  with pytest.raises(reward_calls.RewardError, match=(
      r"rows 0 of gsm8k, 1 of files, .*7 of files and 12 more;")):
    each(fixed([]), columns, 20)
