"""Rows in verl's format: the columns that dlrl's rewards read."""

import pytest

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
                   "import x\ndef f():\n  pass\ndef g():\n"}),
}


@pytest.mark.parametrize("source", VERL)
def test_rows_of_verl_get_the_columns_of_dlrls_tasks(source):
  gold, extra, columns = VERL[source]
  content = "Complete this:\nimport x\ndef f():\n  pass\ndef g():\n"
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
