"""No function that reads completions takes long on 100 kB of hostile text."""

import d1_rewards
import pytest
from timing import timed

from dlrl.tasks import answers
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import math_strings
from dlrl.tasks.published_scorers import scorers
from dlrl.tasks.sudoku import grading as sudoku

LENGTH = 100_000
SECONDS = 0.5  # of CPU time, in any of which a quadratic function is far behind

COLUMNS = {
  "numbers": [[30, 100, 93]], "target": [23], "difficulty": [1],
  "puzzle": ["1030040203102001"], "solution": ["1234341221434321"]}
EXAMPLE = {name: values[0] for name, values in COLUMNS.items()} | {
  "answer": "7919"}


def rewarded(reward):
  return lambda text: reward([""], [text], answer=["7919"], **COLUMNS)


READERS = {
  "answers.final": answers.final,
  "answers.stated": answers.stated,
  "answers.boxed": answers.boxed,
  "answers.tagged": answers.tagged,
  "answers.unfenced": answers.unfenced,
  "exact_numbers.last": exact_numbers.last,
  "exact_numbers.whole": exact_numbers.whole,
  "gsm8k.metrics": rewarded(gsm8k.metrics),
  "gsm8k.answer": lambda text: gsm8k.answer(EXAMPLE, text),
  "competition.metrics": rewarded(competition.metrics),
  "competition.answer": lambda text: competition.answer(EXAMPLE, text),
  "countdown.metrics": rewarded(countdown.metrics),
  "countdown.tokens": countdown.tokens,
  "sudoku.metrics": rewarded(sudoku.metrics),
  "sudoku.units_reward": rewarded(sudoku.units_reward),
  "d1.gsm8k_answer": d1.gsm8k_answer,
  "d1.first_tagged": d1.first_tagged,
  "d1.reaches": lambda text: d1.reaches(text, [30, 100, 93], 23),
  "d1.number": lambda text: d1.number(text, first=False),
  "math_strings.last_boxed": math_strings.last_boxed,
  "math_strings.unboxed": math_strings.unboxed,
  "math_strings.equivalent": lambda text: math_strings.equivalent(text, "1"),
  **{f"{scorer} {task}": lambda text, points=points: points(EXAMPLE, text)
     for scorer, tasks in scorers.PUBLISHED.items()
     for task, points in tasks.items()},
  **{f"d1 {reward.__name__}": rewarded(reward) for reward in (
    d1_rewards.sudoku_reward, d1_rewards.countdown_reward,
    d1_rewards.tags_reward, d1_rewards.strict_format_reward,
    d1_rewards.soft_format_reward, d1_rewards.integer_reward,
    d1_rewards.gsm8k_reward, d1_rewards.math_reward,
    d1_rewards.boxed_format_reward)},
}
PARTS = [
  "1", "1 ", " ", "\n", "\t", "a", "A", "aB ", "-", ".", ",", "1,", "1,000,",
  "1.", "=", "1=", "(", ")", "()", "{", "}", "{}", "[", "|", "\\", "\\\\",
  "\\,", "1\\,", "1\\,000", "~", "`", "```", "```1", "`1` ", "*", "**", "**1",
  "$", "$1$", "#", "####", "\n####", "\n#### ", "\n#### 1", "\n#### 1#", "!",
  "<", "<<", "<<1>>", "<answer>", "</answer>", "<answer>1", "\\boxed{",
  "\\boxed{}", "\\boxed ", "\\fbox{1}", "\\text{", "\\text{a}", "\\text{a} ",
  "\\text{and}", "\\frac", "\\frac{1}", "\\frac ", "\\frac1", "\\sqrt",
  "\\over", "{1\\over", "\\pm", "x=", "x=1,", "x_", "x_{", "^", "^{", "^{9",
  "_1", " and ", " or ", "the answer is", "the answer is ", "the final ",
  "the correct final answer is:\n", "million ", " thousand", "1 million ",
  "1/", "1:", "1:00 ", "p.m.", "%", "1%", "\u0661", "\u2009", "1\u2009",
  "\u221e", "\ud800", "\x00", "1234123412341234 ", "1234123412341234",
  "<|eot_id|>", "<reasoning>", "30+100-93", "93-100+30=", "((((9**9"]
FRAMES = ["{}", "<answer>{}</answer>", "\\boxed{{{}}}", "the answer is {}"]


@pytest.mark.parametrize("reader", READERS)
def test_time_grows_with_the_length_of_a_text_only(reader):
  for part in PARTS:
    for frame in FRAMES:
      text = frame.format(part * (LENGTH // len(part)))
      timed(SECONDS, READERS[reader], text)


@pytest.mark.parametrize("reader", ["competition.metrics", "gsm8k.metrics"])
def test_short_answers_of_one_part_take_little(reader):
  """An answer longer than 500 characters is not taken apart."""
  for part in PARTS:
    for frame in FRAMES[1:3]:
      timed(SECONDS, READERS[reader], frame.format(part * (490 // len(part))))


@pytest.mark.parametrize("gold", [
  r"x=3, y=4", r"(1, \sqrt{2})", r"\{1, 2, 3\}", r"\text{A, B}", "1101_2",
  r"y=2x+3", r"\text{4:30 p.m.}", r"60 \text{ m}^2", r"1 \pm \sqrt{2}",
  ", ".join(f"{k}\\pi" for k in range(12))])
def test_short_answers_to_any_gold_take_little(gold):
  for part in PARTS:
    for frame in ("{}", "{{{}}}", "({})", "x={}", "\\text{{{}}}", "1{}x"):
      timed(0.2, competition.decided, gold, frame.format(part * 490)[:490])
