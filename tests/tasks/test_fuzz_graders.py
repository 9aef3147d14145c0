"""Hostile completions: no grader raises, is slow, or pays for a non-answer.

FUZZ_CASES is how many completions each test draws.
"""

import functools
import os
import string
import time

import d1_rewards
import hypothesis
import pytest
from hypothesis import strategies as st
from timing import timed

from dlrl import score
from dlrl.tasks import answers
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.mathematics import verify_pool
from dlrl.tasks.published_scorers import scorers

CASES = int(os.environ.get("FUZZ_CASES", "200"))
SECONDS = 0.05  # of CPU time, for one completion

GRID = "1234341221434321"
# Rows without their generation. Their answers are rare by chance.
ROWS = {
  "countdown": ("", [[7919, 101, 13], 8007]),
  "sudoku": ("Sudoku puzzle: 1030040203102001", "1234341221434321"),
  "gsm8k": ("", 7919),
  "math500": ("", "\\frac{7919}{3}"),
}
# Without one of these, a completion has no answer.
EVIDENCE = {"countdown": "7919", "sudoku": "34", "gsm8k": "7919",
            "math500": "7919"}

PIECES = [
  "<answer>", "</answer>", "<reasoning>", "</reasoning>", "\\boxed{", "\\boxed",
  "\\fbox{", "}", "{", "[", "]", "(", ")", "```", "####", "The answer is ",
  "<|eot_id|>", "\n", " ", "\\", "$", "%", "**", "*", "//", "/", "+", "-", ".",
  ",", "=", "^", "^{", "_", "9", "10", "1e9", "7919", "101", "13", GRID,
  "1,000", "\\frac{7919}{3}", "\\frac", "\\sqrt", "\\text{", "\\left(",
  "\u0665", "\u00b2", "\uff11", "\u2167", "\u200b", "\u0338", "\ud800", "\x00",
  "\u4e94", "x"]
TOWERS = st.one_of(
  st.integers(1, 3000).map(lambda n: "**".join(["9"] * n)),
  st.integers(1, 3000).map(lambda n: "9^{" * n + "9" + "}" * n),
  st.integers(1, 3000).map(lambda n: "93**(100**30" * n + ")" * n))
NESTED = st.tuples(
  st.sampled_from(["(", "{", "[", "<answer>", "\\boxed{", "\\frac{", "```",
                   "\\sqrt{", "-", "\\text{", "\\{", "####\n"]),
  st.integers(1, 20_000), st.sampled_from(PIECES),
  st.sampled_from([")", "}", "]", "</answer>", "```", "", "\n"]),
).map(lambda t: t[0] * t[1] + t[2] + t[3] * t[1])
DIGITS = st.tuples(
  st.sampled_from(
    ["9", "0", "7919", ".", ",", "-", "\u0669", "\uff19", "1,000"]),
  st.integers(1, 30_000)).map(lambda t: t[0] * t[1])
HOSTILE = st.one_of(
  st.text(max_size=200),
  st.binary(max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape")),
  st.binary(max_size=300).map(lambda b: b.decode("latin-1")),
  st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
  st.text(string.digits + "+-*/()., ^{}\\$%", max_size=60),
  TOWERS, NESTED, DIGITS)
COMPLETIONS = st.one_of(
  HOSTILE, HOSTILE.map("<answer>{}</answer>".format),
  HOSTILE.map("\\boxed{{{}}}".format), HOSTILE.map("so\n#### {}".format),
  st.tuples(HOSTILE, HOSTILE).map("<answer>".join))

fuzzed = hypothesis.settings(
  max_examples=CASES, deadline=None,
  suppress_health_check=list(hypothesis.HealthCheck))


@pytest.mark.parametrize("task", [t for t in ROWS if t != "math500"])
@fuzzed
@hypothesis.given(completion=COMPLETIONS)
def test_our_graders(task, completion):
  question, truth = ROWS[task]
  generation = score.generation(task, question, completion, truth)
  metrics = timed(SECONDS, score.sound, task, [generation])
  assert all(0 <= value <= 1 for [value] in metrics.values())
  if EVIDENCE[task] not in completion.replace(",", ""):
    assert metrics["solved"] == [0.0]


@fuzzed
@hypothesis.given(completion=COMPLETIONS)
def test_math_before_its_other_process(completion):
  gold = ROWS["math500"][1]
  answer = timed(SECONDS, answers.stated, completion) or ""
  verdict = timed(SECONDS, competition.decided, gold, answer)
  assert verdict in (False, True)  # the gold is a number: no other process
  if verdict:
    assert "7919" in completion
  for other in ("(1, 2)", "\\text{east}", "4210_{5}", "x = \\sqrt{7}", "\\pi"):
    timed(SECONDS, competition.decided, other, answer)


@pytest.mark.parametrize("task", ROWS)
@fuzzed
@hypothesis.given(completion=COMPLETIONS)
def test_legacy_scorers(task, completion):
  question, truth = ROWS[task]
  generation = score.generation(task, question, completion, truth)
  for scorer in scorers.PUBLISHED:
    points, out_of = timed(SECONDS, score.points, task, scorer, generation)
    assert 0 <= points <= out_of


@fuzzed
@hypothesis.given(completion=COMPLETIONS)
def test_legacy_rewards(completion):
  columns = {
    "numbers": [[7919, 101, 13]], "target": [8007], "answer": ["7919"],
    "puzzle": ["1030040203102001"], "solution": [GRID]}
  for reward in (
      d1_rewards.sudoku_reward, d1_rewards.countdown_reward,
      d1_rewards.tags_reward, d1_rewards.strict_format_reward,
      d1_rewards.soft_format_reward, d1_rewards.integer_reward,
      d1_rewards.gsm8k_reward, d1_rewards.math_reward,
      d1_rewards.boxed_format_reward):
    [value] = timed(
      SECONDS, lambda reward=reward: reward([""], [completion], **columns))
    assert value <= 2


NOT_ALONE = [
  "**2", "^2", "^{2}", "^{9^{9^9}}", "*1", "/0", "!", "x", "e0", "e9", "_8",
  "(1)", ".0.0", ",0", ":00", "\u00b2", "\u0665", "\u4e94", "\u0338", "\u200b0",
  "\x001", "-1", " - 1", "+0", " + 0", "\\cdot 1", " squared", "\\pi", "<0",
  "/1/1", "\\sqrt{1}", "[0]", "{0}"]


@fuzzed
@hypothesis.given(
  st.sampled_from(NOT_ALONE), st.sampled_from(["", "$", "x = ", "about "]),
  st.sampled_from(["<answer>{}</answer>", "\\boxed{{{}}}", "#### {}",
                   "the answer is {}"]), st.integers(1, 10**6))
def test_a_number_in_something_bigger_is_never_the_answer(
    after, before, form, number):
  text = f"{before}{number}{after}"
  completion = form.format(text)
  assert exact_numbers.last(text) is None
  # Prose may end with an exclamation mark.
  hypothesis.assume(after != "!" or "answer is" not in form)
  assert gsm8k.correct_reward([""], [completion], answer=[str(number)]) == [0.0]
  assert not competition.decided(
    str(number), answers.stated(completion) or "")


@pytest.fixture(scope="module")
def pool():
  pool = verify_pool.VerifyPool(verify_pool.WorkerLimits(processes=1))
  yield pool
  pool.close()


@pytest.mark.slow
@hypothesis.settings(
  fuzzed, max_examples=CASES if "FUZZ_CASES" in os.environ else 20)
@hypothesis.given(answer=st.one_of(
  st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=12
                                 ).map("".join),
  st.text(string.digits + "xy+-*/()., ^{}\\$%", max_size=30)))
def test_maths_other_process_answers_within_its_limits(pool, answer):
  start = time.monotonic()
  assert pool.verify([("\\frac{\\pi}{7919}", answer)]) == [False]
  assert time.monotonic() - start < 2 * verify_pool.WorkerLimits().wall_seconds


def rate(grade, completions):
  """Completions per second of CPU time."""
  start = time.process_time()
  grade(completions)
  return len(completions) / (time.process_time() - start)


@pytest.mark.parametrize("task", [t for t in ROWS if t != "math500"])
def test_a_thousand_completions_take_less_than_a_second(task):
  question, truth = ROWS[task]
  reasoning = "We first multiply 12 by 4, which is 48, and then add 2. " * 20
  generation = score.generation(
    task, question, f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n"
    "\\boxed{7919 + 101 - 13}\n</answer>\n", truth)
  assert rate(functools.partial(score.sound, task), [generation] * 500) > 1000
