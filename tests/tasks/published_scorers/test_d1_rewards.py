import d1_rewards as rewards
import pytest

# The frame that the prompts ask for.
FRAME = "<reasoning>\n...\n</reasoning>\n<answer>\n42\n</answer>\n"


def one(reward, completion, **columns):
  [value] = reward([""], [completion],
                   **{name: [column] for name, column in columns.items()})
  return value


@pytest.mark.parametrize("text, reward", [
  (FRAME, 0.5), (FRAME[:-1], 0.5 - 0.001 * (len(FRAME) - 1) + 0.001),
  (FRAME + "12345", 0.5 - 2 * 0.005), ("", 0), ("<reasoning>\n", 0.125),
  ("<reasoning>\n" * 2, 0), ("\n</reasoning>\n", 0.125),
  ("\n<answer>\n", 0.125 - 0.010), ("\n</answer>", 0.126),
])
def test_tags(text, reward):
  assert one(rewards.tags_reward, text) == pytest.approx(reward)


@pytest.mark.parametrize("text, strict, soft", [
  (FRAME, 0.5, 0), (FRAME[:-1], 0, 0), (FRAME + "more", 0.5, 0),
  (FRAME.replace("...", "a\nb"), 0, 0),
  ("<reasoning>a</reasoning>\n\n<answer>b</answer> c", 0, 0.5),
  ("<reasoning></reasoning>x</reasoning><answer>b</answer>", 0, 0.5),
  ("<reasoning>a</reasoning><answer>b\n</answer>", 0, 0),
  ("<reasoning>a\n</reasoning><answer>b</answer>", 0, 0),
  (" <reasoning>a</reasoning><answer>b</answer>", 0, 0),
  ("<reasoning>a</reasoning> b <answer>b</answer>", 0, 0),
  ("<reasoning>", 0, 0), ("", 0, 0),
])
def test_formats(text, strict, soft):
  assert one(rewards.strict_format_reward, text) == strict
  assert one(rewards.soft_format_reward, text) == soft


@pytest.mark.parametrize("text, integer, correct", [
  (FRAME, 0.5, 2), ("42", 0.5, 2), ("<answer>42", 0.5, 2),
  ("1<answer>2</answer><answer> 42 </answer>3", 0.5, 2),
  ("42.0", 0, 0), ("\\boxed{42}", 0, 0), ("43", 0.5, 0), ("", 0, 0),
])
def test_the_number(text, integer, correct):
  assert one(rewards.integer_reward, text) == integer
  assert one(rewards.gsm8k_reward, text, answer="6 * 7\n#### 42") == correct
  assert one(rewards.gsm8k_reward, text, answer="42") == correct


@pytest.mark.parametrize("text, reward", [
  ("<answer>30+100-93</answer>", 1), ("<answer> 30 + 100 - 93\n</answer>", 1),
  ("<answer>1</answer> <answer>30+100-93</answer>", 1),
  ("<answer>30+100-93</answer> <answer>1</answer>", 0.1),
  ("<answer>x<answer>30+100-93</answer>", 0.1),
  ("<answer>30+100-93", 0), ("30+100-93", 0),
])
def test_countdown(text, reward):
  assert one(rewards.countdown_reward, text, numbers=[30, 100, 93],
             target=37) == reward


@pytest.mark.parametrize("text, reward", [
  ("<answer>1234341221434321</answer>", 1), ("1234341221434321", 0),
  ("<answer>4321341221434321</answer>", 1), ("<answer></answer>", 0),
  ("<answer>1234 3412 2143 4322</answer>", 7 / 8),
  ("<answer>1234341200000000</answer>", 0),
])
def test_sudoku(text, reward):
  assert one(rewards.sudoku_reward, text, puzzle="1234341200000000",
             solution="1234341221434321") == reward


@pytest.mark.parametrize("text, correct, form", [
  ("<answer>\\boxed{1/2}</answer>", 2, 0.75), ("\\boxed{\\frac12}", 2, 0.25),
  ("1/2", 2, 0.25), ("<answer>1/2</answer>", 0, 0.75), ("", 0, 0.25),
  ("\\boxed{1/2", 0, 0.25),
])
def test_math(text, correct, form):
  gold = "So it is \\boxed{\\frac{1}{2}}."
  assert one(rewards.math_reward, text, answer=gold) == correct
  assert one(rewards.math_reward, text, answer="\\frac{1}{2}") == correct
  assert one(rewards.boxed_format_reward, text) == form
