import pytest
from timing import timed

from dlrl.tasks import answers


@pytest.mark.parametrize("text, final", [
  ("5", "5"),
  (" 5-3+2\n", "5-3+2"),
  ("", ""),
  ("so <answer> 5 </answer>.", "5"),
  ("<answer>5</answer> no, <answer>6</answer>", "6"),
  ("<answer>5</answer> no, <answer>6", "5"),  # never closes
  ("5</answer>", "5</answer>"),
  ("<answer>a<answer>b</answer>c</answer>", "b"),
  ("<answer></answer> \\boxed{5}", ""),  # an answer, and it is empty
  ("\\boxed{6} <answer>5</answer> \\boxed{7}", "5"),
  ("<answer>\\boxed{5}</answer>", "5"),
  ("<answer>\\boxed{5} or \\boxed{6} dollars</answer>", "6"),
  ("<answer>```python\nx = 1\n```</answer>", "x = 1"),
  ("<answer>```\n1\n```\nno\n```text\n2\n```\n</answer>", "2"),
  ("<answer>```5```</answer>", "5"),
  ("<answer>```\n5</answer>", "```\n5"),  # no closing fence
  ("<answer>```text\n\\boxed{5}\n```</answer>", "5"),
  ("\\boxed{5} and \\boxed{6}", "6"),
  ("\\boxed{5} and \\boxed{6", "5"),
  ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
  ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
  ("\\boxed{a \\boxed{b}}", "b"),
  ("} { \\boxed {5} }", "5"),
  ("\\\\boxed{5}", "5"),  # as JSON has it
  ("\\fbox{5}", "5"),
  ("boxed{5}", "boxed{5}"),
  ("The answer is 5.", "The answer is 5."),
  ("<ANSWER>5</ANSWER>", "<ANSWER>5</ANSWER>"),
  ("<answer>`5`</answer>", "5"),
  ("<answer>**5**</answer>", "5"),
  ("<answer>$5$</answer>", "5"),
  ("<answer>`5` or `6`</answer>", "`5` or `6`"),
  ("<answer>\\(5\\)</answer>", "5"),
  ("<answer>\\[ 5 \\]</answer>", "5"),
  ("<answer>**\\(5\\)**</answer>", "5"),
  ("<answer>\\(5\\) or \\(6\\)</answer>", "\\(5\\) or \\(6\\)"),
  ("<answer>$5$ and $6$</answer>", "$5$ and $6$"),
  ("<answer>\n\\boxed{5\n</answer>", "5"),  # the tags close, so this is it
  ("<answer>\\boxed{\\text{a}</answer>", "\\text{a}"),
  ("<answer>\\boxed{5} or \\boxed{6</answer>", "5"),
])
def test_the_final_answer(text, final):
  assert answers.final(text) == final


@pytest.mark.parametrize("text, stated", [
  ("5", None),
  ("", None),
  ("5</answer>", None),
  ("<answer>5", None),
  ("\\boxed{5", None),
  ("<answer>5</answer>", "5"),
  ("\\boxed{5}\n#### 6", "5"),
  ("2 + 3\n#### 5\n", "5"),
  ("#### 2. The total\nIt is 5.", None),  # a heading
  ("##### 5", None),
  ("text #### 5", None),
  ("The answer is 5. Or so", "5"),
  ("the FINAL answer is: $3.14$.\nGood", "$3.14$"),
  ("The answer is 5, I think; no, the answer is 6", "6"),
  ("The answer is 5\n#### 6", "6"),
  ("The answer is\n\n5", "5"),
  ("The answer is:\n$$5$$", "$$5$$"),
  ("**The answer is:** 5", "5"),
  ("The correct answer is 5.", "5"),
  ("The final correct answer is: 5", "5"),
  ("The wrong answer is 5.", None),
  ("The answer is 5!", "5"),
  ("The answer is $5!$.", "$5!$"),
  ("#### 5\nThis is right.", "5"),
  ("#### -1,234.5 dollars\n\nSo it is.", "-1,234.5 dollars"),
  ("#### $5\nThis is right.", "$5"),
  ("#### \\frac{1}{2}\nThis is right.", "\\frac{1}{2}"),
  ("#### 5\nNo, the answer is 6", "6"),
  ("The answer is 6\n#### 5\nThis is right.", "5"),
  ("#### 2)\nIt is 5.", None),  # headings
  ("#### 2 Total\nIt is 5.", None),
  ("#### Step2\nIt is 5.", None),
])
def test_the_stated_answer(text, stated):
  assert answers.stated(text) == stated


@pytest.mark.parametrize("part", [
  "{", "}", "\\boxed{", "\\boxed{}", "<answer>", "</answer>", "```", "####",
  "the answer is ", "\\", "\\boxed" + " " * 1000, "\n", "<answer>```"])
def test_a_long_text_of_the_same_part_takes_no_time(part):
  text = part * (10**6 // len(part))
  timed(0.15, lambda: (
    answers.final(text), answers.stated("<answer>" + text),
    answers.stated("\\boxed{" + text + "}")))


def test_an_answer_far_from_the_end_is_not_read():
  assert answers.stated("\\boxed{5}" + " so" * 10_000) is None
  assert answers.stated("so " * 10_000 + "\\boxed{5}") == "5"
