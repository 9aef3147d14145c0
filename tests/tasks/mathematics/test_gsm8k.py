import json

import pytest

from dlrl.tasks.mathematics import gsm8k

GOLD = "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 1,018"


@pytest.mark.parametrize("completion", [
  "<answer>1018</answer>", "<answer>\n\\boxed{1,018}\n</answer>",
  "\\boxed{\\$1{,}018.00}", "so\n#### 1018", "The answer is 1,018.",
  "<answer>9 eggs at $2, so +1018 dollars</answer>",
  "1. \\boxed{9} eggs 2. \\boxed{1018 \\text{ dollars}}",
  "#### 5\n<answer>x = 1018</answer>",
  "The answer is\n\n1018", "The correct answer is 1018.",
  "1000+18=1018\n#### 1018\nThis confirms that it is right.",
  "\\boxed{1\\,018}", "\\boxed{1.018 \\text{ thousand}}",
  "<answer>\n\\boxed{1018\n</answer>", "The answer is 1018!",
  "The answer is <<1000+18=1018>>1018", "<answer>\\textbf{1018}</answer>",
])
def test_the_number_stated_as_the_answer_is_right(completion):
  assert gsm8k.correct_reward([""], [completion], answer=[GOLD]) == [1.0]
  assert gsm8k.correct_reward([""], [completion], answer=["1018"]) == [1.0]
  assert gsm8k.correct_reward([""], [completion], answer=["1,018.0"]) == [1.0]


@pytest.mark.parametrize("completion", [
  "1018", "", "It is 1018.", "1018</answer>", "<answer>1018",
  "<answer>1018</answer> or <answer>1019</answer>",
  "<answer>1018 or 1019</answer>", "\\boxed{1018} \\boxed{}",
  "<answer>1,0,18</answer>", "<answer>10,18</answer>",
  "<answer>1017+1</answer>", "<answer>1018**1</answer>",
  "<answer>1018.0000001</answer>", "<answer>-1018</answer>",
  "<answer>1018\u00b2</answer>", "<answer>\u0661\u0660\u0661\u0668</answer>",
  "<answer>10181018</answer>", "<answer>018</answer>",
  "The wrong answer is 1018.", "#### 1018. The total\nIt is 5.",
  "\\boxed{10\\,18}", "\\boxed{1018!}", "\\boxed{1018 million}",
  "\\boxed{1018 squared}", "<answer>\\boxed{5} \\boxed{1018</answer>",
])
def test_everything_else_is_wrong(completion):
  assert gsm8k.correct_reward([""], [completion], answer=[GOLD]) == [0.0]


def test_the_format_is_any_number_stated_as_the_answer():
  completions = ["<answer>5</answer>", "5", "<answer>many</answer>"]
  assert gsm8k.format_reward([""] * 3, completions) == [1.0, 0.0, 0.0]
  assert gsm8k.metrics([""] * 3, completions, answer=["5"] * 3) == {
    "solved": [1.0, 0.0, 0.0], "format": [1.0, 0.0, 0.0]}


@pytest.mark.parametrize("gold", ["", "none", "####", "1,2", "#### 5 or 6"])
def test_a_gold_answer_that_is_not_a_number_is_an_error(gold):
  with pytest.raises(ValueError, match="is not a gold answer"):
    gsm8k.correct_reward([""], [""], answer=[gold])


def test_lengths_must_agree():
  with pytest.raises(ValueError):
    gsm8k.correct_reward([""], ["", ""], answer=["5"])


@pytest.mark.shared_data
def test_the_public_files_golds_are_numbers_and_right_completions(shared):
  for name in ("test", "train"):
    lines = (shared / "data/gsm8k" / f"{name}.jsonl").read_text().splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    assert set(gsm8k.correct_reward(golds, golds, answer=golds)) == {1.0}
