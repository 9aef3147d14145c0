"""Prompts for GSM8K and MATH: what is known of each project."""

import re

import pytest

from dlrl.tasks import answers
from dlrl.tasks.mathematics import prompts as math_prompts

FORMAT = ("Answer in this format:\n<reasoning>\n...\n</reasoning>\n"
          "<answer>\n...\n</answer>")
GSM8K_ROW = {
  "question": "What is {half} of $1,000?", "index": 0, "difficulty": 1,
  "answer": "It is 1000/2=<<1000/2=500>>500.\n#### 500",
  "solution": "It is 1000/2=500.\nThe answer is \\boxed{500}."}
MATH_ROW = {
  "problem": r"Simplify $\frac{2}{4}$ {exactly}.", "index": 0, "difficulty": 1,
  "answer": r"\frac{1}{2}", "subject": "Algebra",
  "solution": r"Divide: $\boxed{\frac{1}{2}}$."}
CASES = [(table, style, row, gold) for table, row, gold in (
  (math_prompts.GSM8K, GSM8K_ROW, "500"),
  (math_prompts.MATH, MATH_ROW, r"\frac{1}{2}")) for style in table]
TABLES = {"gsm8k": (math_prompts.GSM8K, GSM8K_ROW, "question"),
          "math": (math_prompts.MATH, MATH_ROW, "problem")}


def messages(prompt, row):
  asked = prompt.question(row)
  return [{"role": "user", "content": asked}] if isinstance(
    asked, str) else asked


@pytest.mark.parametrize(("table", "style", "row", "gold"), CASES)
def test_each_asks_the_question_once_and_its_answer_states_the_gold(
    table, style, row, gold):
  question = row.get("question") or row["problem"]
  turns = messages(table[style], row)
  said = "\n".join(turn["content"] for turn in turns)
  assert said.count(question) == 1
  assert gold not in said.replace(question, "")
  stated = answers.stated(table[style].answer(row))
  assert stated.removeprefix("\\boxed{").rstrip(".") == gold
  assert "<<" not in table[style].answer(row)


@pytest.mark.parametrize("name", TABLES)
def test_our_text_is_the_question_and_a_request_for_a_box(name):
  table, row, column = TABLES[name]
  asked = table["dlrl"].question(row)
  assert asked.startswith(row[column] + "\n")
  assert "\\boxed{}" in asked and "step by step" in asked
  assert table["dlrl"].answer(row) == row["solution"]
  assert table["bare"].question(row) == row[column]
  assert "dlrl_eval" not in table  # one text for both


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("style", ["d1", "spg"])
def test_d1_trains_with_its_format_at_the_head_of_the_users_turn(name, style):
  table, row, column = TABLES[name]
  asked = table[style].question(row)
  assert isinstance(asked, str)  # no system message
  assert asked.startswith(FORMAT)
  assert asked.endswith("\n\n" + row[column])
  assert ("\\boxed{}" in asked) == (name == "math")  # GSM8K: only evaluated so


def test_d1s_gold_for_gsm8k_is_only_the_number_in_its_frame():
  assert math_prompts.GSM8K["d1"].answer(GSM8K_ROW) == (
    "<reasoning>\nIt is 1000/2=500.\n</reasoning>\n<answer>\n500\n</answer>")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("style", ["d1_eval", "spg_eval"])
def test_d1_evaluates_with_a_box_in_the_frame_and_begins_the_answer(
    name, style):
  table, row, column = TABLES[name]
  user, begun = table[style].question(row)
  assert (user["role"], begun["role"]) == ("user", "assistant")
  assert begun["content"] == "<reasoning>"
  assert "math expert" in user["content"]
  assert "<answer>\n\\boxed{...}\n</answer>" in user["content"]
  assert user["content"].endswith("\n\n" + row[column])
  whole = begun["content"] + table[style].answer(row)
  assert re.fullmatch(
    r"<reasoning>\n.+\n</reasoning>\n<answer>\n\\boxed\{.+\}\n</answer>",
    whole, re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_espo_trace_rl_and_the_guess_at_bgpo_ask_for_a_box(name):
  table, row, column = TABLES[name]
  line = ("Please reason step by step, and put your final answer within "
          "\\boxed{}.")
  assert table["espo"].question(row) == f"{row[column]}\n{line}"
  assert table["bgpo"].question(row) == table["espo"].question(row)
  assert table["trace_rl"].question(row).startswith(
    "You need to put your final answer in \\boxed{}. This is the problem:")
  assert table["trace_rl"].question(row).endswith(row[column])


def test_espo_evaluates_gsm8k_after_four_worked_examples():
  assert "espo_eval" not in math_prompts.MATH
  turns = math_prompts.GSM8K["espo_eval"].question(GSM8K_ROW)
  assert [turn["role"] for turn in turns] == (
    ["user", "assistant"] * 4 + ["user"])
  for turn in turns[::2]:
    assert re.fullmatch(r"Question: .+\nLet's think step by step\nAnswer:",
                        turn["content"])
  for turn in turns[1::2]:
    assert re.search(r"\nThe answer is \d+$", turn["content"])


def test_the_sums_of_the_worked_examples_are_right():
  checked = 0
  turns = math_prompts.GSM8K["espo_eval"].question(GSM8K_ROW)
  for turn in turns[1::2]:
    reasoning, answer = turn["content"].split("\nThe answer is ")
    for left, right in re.findall(
        r"((?:\d[\d.]*|[-+*/ ])+) = (\d+)", reasoning):
      value = eval(left)  # of the source, not of a model
      assert value == int(right), (left, right)
      checked += 1
    assert reasoning.rstrip(".").split(" = ")[-1].startswith(answer)
  assert checked >= 10
