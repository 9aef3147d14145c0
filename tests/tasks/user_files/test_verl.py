"""Rows in verl's format: the columns that dlrl's rewards read."""

import pytest

from dlrl import strict
from dlrl.tasks.coding import grading
from dlrl.tasks.coding import results
from dlrl.tasks.user_files import files
from dlrl.tasks.user_files import verl

VERL = {
  "gsm8k": ("18", {}, {"answer": "18"}),
  "MATH-lighteval": (r"\frac12", {}, {"answer": r"\frac12"}),
  "countdown": ("23", {"numbers": "[30, 100, 93]"},
                {"numbers": [30, 100, 93], "target": 23}),
  "sudoku": ("1432", {"puzzle": "0432"},
             {"puzzle": "0432", "solution": "1432"}),
  "mbpp": ('["assert sum(f(1), len([])) == 2", "assert sum(f(3))"]', {},
           {"tests": ["assert sum(f(1), len([])) == 2", "assert sum(f(3))"],
            "setup": "", "prefix": "", "entry_point": "f"}),
  "humaneval": ("def check(c):\n  assert c() == 1\n", {},
                {"tests": ["def check(c):\n  assert c() == 1\n\n\ncheck(g)\n"],
                 "setup": "", "entry_point": "g", "prefix":
                   "import x\ndef f():\n  pass\ndef g():\n  'Is 1.'\n"}),
}


@pytest.mark.parametrize("source", VERL)
def test_rows_of_verl_get_the_columns_of_dlrls_tasks(source):
  gold, extra, columns = VERL[source]
  content = "Complete this:\nimport x\ndef f():\n  pass\ndef g():\n  'Is 1.'\n"
  row = {"prompt": [{"role": "user", "content": content}],
         "data_source": f"someone/{source}", "extra_info": extra,
         "reward_model": {"ground_truth": gold, "style": "rule"}}
  task = "math" if source.startswith("MATH") else source
  assert verl.decode(row) == {**row, "task": task, **columns}


@pytest.mark.parametrize("row", [
  {"data_source": "chess"}, {}, {"data_source": "gsm8k"},
  {"data_source": "mbpp", "reward_model": {"ground_truth": "assert f("}},
  {"data_source": "countdown", "reward_model": {"ground_truth": "x"},
   "extra_info": {"numbers": "[1]"}}])
def test_rows_of_verl_with_another_task_or_format_are_errors(row):
  with pytest.raises(ValueError, match=r"unknown data_source|not in the exp"):
    verl.decode(row)


def row_of(source, gold, content="q", **extra_info):
  return {"data_source": source, "extra_info": extra_info,
          "prompt": [{"role": "user", "content": content}],
          "reward_model": {"style": "rule", "ground_truth": gold}}


CHECK = "def check(candidate):\n    assert candidate(3)==3\n"
IDENTITY = 'def f(x: int) -> int:\n    """Id."""\n'


@pytest.mark.parametrize("content", [
  f"Complete:\n```python\n{IDENTITY}```",
  f"Complete:\n```python\n{IDENTITY}```\nAnswer with the whole function.",
  "Complete:\n\n1. this\n   ```py\n   def f(x: int) -> int:\n"
  '       """Id."""\n   ```\n',
  f"Complete:\n~~~\n{IDENTITY}~~~\n",
  f"Complete:\n```python\n{IDENTITY.rstrip()}",
  f"As in\n```\n>>> f(3)\n3\n```\ncomplete\n```python\n{IDENTITY}```"])
def test_the_code_of_a_question_may_be_fenced(content):
  row = verl.decode(row_of("humaneval", CHECK, content))
  assert row["prefix"] == IDENTITY and row["entry_point"] == "f"
  try:
    results.start()
  except strict.ConfigError as error:
    pytest.skip(f"not on this machine: {error}")
  found = grading.passed_reward(
    [""] * 3,
    ["```python\n    return x\n```", "    return x\n", "    return 4"],
    **{name: [row[name]] * 3 for name in (
      "tests", "setup", "prefix", "entry_point")})
  results.close()
  assert found == [1, 1, 0]


@pytest.mark.parametrize(("gold", "extra"), [
  ({"target": 98, "numbers": [44, 19, 35]}, {}),  # TinyZero
  ({"target": "98", "numbers": "[44, 19, 35]"}, {}),
  ("98", {"numbers": [44, 19, 35]})])
def test_numbers_of_countdown_are_in_the_gold_or_beside_it(gold, extra):
  row = verl.decode(row_of("countdown", gold, **extra))
  assert (row["numbers"], row["target"]) == ([44, 19, 35], 98)


FULL = {"puzzle": "0432"}


@pytest.mark.parametrize(("source", "gold", "extra"), [
  *((source, gold, {}) for source in ("math", "lighteval/MATH", "gsm8k", "mbpp",
                                      "humaneval", "sudoku", "countdown")
    for gold in (None, 18, ["1", "2"], "", " \n", 1.5, True, b"1", {})),
  ("gsm8k", "eighteen", {}), ("mbpp", '{"a": 1}', {}), ("mbpp", "[]", {}),
  ("mbpp", '"assert f()"', {}), ("mbpp", "[1]", {}), ("mbpp", '[""]', {}),
  ("mbpp", '["assert f("]', {}), ("mbpp", '["# f()"]', {}),
  ("sudoku", "143", FULL), ("sudoku", "1342", FULL), ("sudoku", "0432", FULL),
  ("sudoku", "1432", {}), ("sudoku", "1432", {"puzzle": 432}),
  ("countdown", "98.5", {"numbers": "[1]"}),
  ("countdown", "98", {"numbers": "[1.5]"}), ("countdown", "98", {}),
  ("countdown", "98", {"numbers": "[]"}), ("countdown", "98", {"numbers": 3}),
  ("countdown", {"target": 98}, {}),
  ("countdown", {"target": 9.5, "numbers": [1]}, {}),
  ("countdown", {"target": None, "numbers": [1]}, {}),
  ("countdown", {"target": True, "numbers": [1]}, {})])
def test_a_gold_answer_that_no_reward_could_read_is_an_error(
    source, gold, extra):
  with pytest.raises(ValueError, match=r"not in the expected format"):
    verl.decode(row_of(source, gold, f"Complete:\n{IDENTITY}", **extra))


@pytest.mark.parametrize(("content", "gold"), [
  ("Write f.", CHECK), (f"Complete:\n{IDENTITY}\nBe brief.", CHECK),
  ("Complete:\ndef f(x):\n", CHECK), ("Complete:\nimport math\n", CHECK),
  (f"Complete:\n{IDENTITY}", "assert candidate(3) == 3"),
  (f"Complete:\n{IDENTITY}", "def check(candidate)"),
  (f"Complete:\n```python\n{IDENTITY}``` Be brief.", CHECK)])
def test_code_to_complete_that_does_not_run_is_an_error(content, gold):
  with pytest.raises(ValueError, match=r"not in the expected format"):
    verl.decode(row_of("humaneval", gold, content))


@pytest.mark.parametrize(("source", "task"), [
  ("openai/gsm8k", "gsm8k"), ("gsm8k_train", "gsm8k"), ("math500", "math"),
  ("HuggingFaceH4/MATH-500", "math"), ("DigitalLearningGmbH/MATH-lighteval",
                                       "math"),
  ("hendrycks_math", "math"), ("math_dapo", "math"), ("sudoku-4x4", "sudoku"),
  ("Countdown-Tasks-3to4", "countdown"), ("countdown-n20000", "countdown"),
  ("openai_humaneval", "humaneval"), ("mbpp-sanitized", "mbpp")])
def test_names_of_data_sources(source, task):
  assert verl._task(source) == task


@pytest.mark.parametrize("source", [
  "mathvista", "AI4Math/MathVista", "math-vision", "math_verse", "mathqa",
  "math23k", "aftermath", "math+", "mathé", "math vista", "humaneval_x",
  "humanevalpack", "humaneval+", "humaneval-plus", "mbppplus", "gsm8k-platinum",
  "gsm-hard", "gsm", "sudokus", "countdowns", "chess", "", "/"])
def test_a_name_that_only_resembles_a_tasks_is_an_error(source):
  with pytest.raises(ValueError, match="unknown data_source"):
    verl.decode(row_of(source, "1"))


@pytest.mark.shared_data
def test_published_files_in_verls_format_are_read_and_understood(shared):
  sizes = {}
  for path in sorted((shared / "data/rl_prompts").glob("test_*.parquet")):
    rows = files.load(str(path), bad_rows="error", field="path")
    decoded = [verl.decode(row) for row in rows]
    sizes[decoded[0]["task"]] = len(rows)
    assert all(row["reward_model"]["style"] == "rule" for row in rows)
    assert all(row["entry_point"] for row in decoded if "tests" in row)
  assert sizes == {"countdown": 256, "gsm8k": 1319, "humaneval": 164,
                   "math": 500, "mbpp": 500, "sudoku": 500}
