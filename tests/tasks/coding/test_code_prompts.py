"""Prompts for MBPP and HumanEval, and the tests that they show."""

import ast

import pytest

from dlrl.tasks import answers
from dlrl.tasks.coding import prompts as code_prompts

FORMAT = ("Answer in this format:\n<reasoning>\n...\n</reasoning>\n"
          "<answer>\n...\n</answer>")
SHOW_A_TEST = ("diffucoder", "espo")
MBPP_ROW = {
  "text": "Write a function to double {n}.", "signature": "def twice(n):",
  "prefix": "", "tests": ["assert twice(1) == 2", "assert twice(4) == 8"],
  "setup": "", "entry_point": "twice",
  "solution": "def twice(n):\n  return 2 * n"}
HUMAN_ROW = {
  "text": "def add(a, b):\n", "signature": "", "prefix":
    'def add(a, b):\n  """Adds.\n  >>> add(1, 2)\n  3\n  """\n',
  "tests": ["def check(f):\n  assert f(1, 2) == 3\n\n\ncheck(add)\n"],
  "setup": "", "entry_point": "add",
  "solution": 'def add(a, b):\n  """Adds."""\n  return a + b\n'}
CASES = [(table, style, row) for table, row in (
  (code_prompts.MBPP, MBPP_ROW), (code_prompts.HUMANEVAL, HUMAN_ROW))
  for style in table]


def said(prompt, row):
  asked = prompt.question(row)
  return asked if isinstance(asked, str) else "\n".join(
    turn["content"] for turn in asked)


@pytest.mark.parametrize(("table", "style", "row"), CASES)
def test_each_names_the_function_and_shows_the_tests_that_it_says(
    table, style, row):
  text = said(table[style], row)
  assert row["entry_point"] + "(" in text
  assert (row["text"] if table is code_prompts.MBPP else row["prefix"]) in text
  shown = [test for test in row["tests"] if test in text]
  assert shown == (
    row["tests"][:1] if table is code_prompts.MBPP and style in SHOW_A_TEST
    else [])


@pytest.mark.parametrize(("table", "style", "row"), CASES)
def test_each_answer_is_the_published_program(table, style, row):
  code = answers.unfenced(table[style].answer(row))
  assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(row["solution"]))
  assert row["solution"].rstrip() not in said(table[style], row)


def test_only_published_styles_show_a_test():
  for style in code_prompts.MBPP.keys() - set(SHOW_A_TEST):
    assert "assert" not in said(code_prompts.MBPP[style], MBPP_ROW)


@pytest.mark.parametrize("style", SHOW_A_TEST)
def test_diffucoder_and_espo_have_a_system_message_and_the_first_test(style):
  system, user = code_prompts.MBPP[style].question(MBPP_ROW)
  assert (system["role"], user["role"]) == ("system", "user")
  assert user["content"] == (
    MBPP_ROW["text"] + "\nTest cases: assert twice(1) == 2")
  assert ("```python" in system["content"]) == (style == "espo")
  assert ("helpful assistant" in system["content"]) == (style == "diffucoder")


@pytest.mark.parametrize(("table", "row"), [
  (code_prompts.MBPP, MBPP_ROW), (code_prompts.HUMANEVAL, HUMAN_ROW)])
def test_d1_has_its_format_first_and_the_guess_at_bgpo_is_trace_rls(table, row):
  assert table["d1"].question(row).startswith(
    FORMAT + "\nYou are a coding expert.")
  assert table["spg"] == table["d1"]
  assert table["d1"].answer(row).endswith("\n```\n</answer>")
  assert table["bgpo"] == table["trace_rl"]
  assert table["bgpo"].question(row).endswith(
    "\n\nPlace your code within a single Python code block.")
  assert "```python" in table["dlrl"].question(row)
