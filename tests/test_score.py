import json
import subprocess
import sys

import pytest

from dlrl import score

PUZZLE = "Solve the following Sudoku puzzle: 1234341200000000\n"
ROWS = {
  "countdown": [
    ("", "<answer>\\boxed{30+100-93}</answer><|eot_id|>", [[30, 100, 93], 37]),
    ("", "\\boxed{30+100-93 = 37}<|eot_id|>", [[30, 100, 93], 37]),
    ("", "30+100-93<|eot_id|><|endoftext|>", [[30, 100, 93], 37]),
    ("", "30+100-93", [[30, 100, 93], 1])],
  "sudoku": [
    (PUZZLE, "<answer>1234341221434321</answer>", "1234341221434321"),
    (PUZZLE, "<answer>1234341243212143</answer>", "1234341221434321"),
    (PUZZLE, "1111", "1234341221434321")],
  "gsm8k": [
    ("?", "<answer>18</answer><|endoftext|>", 18.0),
    ("?", "\\boxed{1,000}", "= 1000\n#### 1,000"),
    ("?", "\\boxed{-3}", None), ("?", "18", 18)],
  "math500": [
    ("?", "\\boxed{0.25}<|eot_id|>", "\\frac{1}{4}"),
    ("?", "\\boxed{1 + x}", "x+1"), ("?", "3", "3"), ("?", "\\boxed{2}", "3")],
}


def write(path, rows):
  path.write_text("".join(json.dumps(dict(zip(
    ("question", "generation", "ground_truth"), row, strict=True))) + "\n"
    for row in rows))
  return str(path)


@pytest.mark.parametrize("task, scorer, expected", [
  ("countdown", "sound",
   {"score": 50.0, "points": 2, "out_of": 4, "format": 75.0}),
  ("countdown", "legacy_d1", {"score": 50.0, "points": 2, "out_of": 4}),
  ("sudoku", "sound", {"score": 66.67, "points": 2, "out_of": 3, "cells": 33.33,
                       "format": 66.67}),
  ("sudoku", "legacy_d1", {"score": 33.33, "points": 8, "out_of": 24}),
  ("gsm8k", "sound", {"score": 50.0, "points": 2, "out_of": 4, "format": 75.0}),
  ("gsm8k", "legacy_d1", {"score": 25.0, "points": 1, "out_of": 4}),
  ("gsm8k", "legacy_spg", {"score": 50.0, "points": 2, "out_of": 4}),
  ("math500", "sound",
   {"score": 50.0, "points": 2, "out_of": 4, "format": 75.0}),
  ("math500", "legacy_d1", {"score": 25.0, "points": 1, "out_of": 4}),
])
def test_scores_of_a_few_rows(tmp_path, task, scorer, expected):
  path = write(tmp_path / "rows.jsonl", ROWS[task])
  assert score.score(task, scorer, [path]) == {
    "task": task, "scorer": scorer, "n": len(ROWS[task]), **expected}


def test_files_count_together_and_empty_lines_not_at_all(tmp_path):
  one = write(tmp_path / "1.jsonl", ROWS["gsm8k"][:1])
  two = write(tmp_path / "2.jsonl", ROWS["gsm8k"][1:])
  (tmp_path / "3.jsonl").write_text("\n \n")
  result = score.score("gsm8k", "sound", [one, two, tmp_path / "3.jsonl"])
  assert (result["n"], result["score"]) == (4, 50.0)


def test_generations_that_no_grader_judged_are_no_failures(
    tmp_path, monkeypatch):
  path = write(tmp_path / "1.jsonl", ROWS["gsm8k"])
  monkeypatch.setattr(score, "sound", lambda *args: {
    "solved": [1.0, None, 0.0, None], "format": [1.0, None, 1.0, 1.0]})
  result = score.score("gsm8k", "sound", [path])
  assert result.items() >= {"n": 4, "score": 50.0, "points": 1, "out_of": 2,
                            "format": 100.0, "unknown": 2}.items()


@pytest.mark.shared_data
@pytest.mark.parametrize("task, points, more", [
  ("countdown", 46, {"format": 28.12}),
  ("sudoku", 0, {"cells": 0.49, "format": 1.56}),
  ("gsm8k", 866, {"format": 96.99}), ("math500", 177, {"format": 98.2})])
def test_sound_scores_of_real_outputs(shared, task, points, more):
  path = shared / "data/llada_outputs" / f"{task}_len256_steps128.jsonl"
  result = score.score(task, "sound", [path])
  assert result["points"] == points
  assert result.items() >= more.items()


@pytest.mark.parametrize("task, line, message", [
  ("gsm8k", "{", "Expecting property name"),
  ("gsm8k", "[]", "must be a JSON object, got list"),
  ("gsm8k", b"\xff", "invalid start byte"),
  ("gsm8k", b"[" * 100_000, "is nested too deeply"),
  ("math500", ("?", "", ["x"] * 9999), r"\['x', 'x', .{0,30}\.\.\.\]: must be"),
  ("gsm8k", {"question": "?", "ground_truth": 1}, "generation = None"),
  ("gsm8k", {"question": 1, "generation": "", "ground_truth": 1},
   "question = 1: must be a string"),
  ("gsm8k", {"question": "?", "generation": ""}, "has no ground_truth"),
  ("gsm8k", ("?", "", "many"), "must be a number or null"),
  ("gsm8k", ("?", "", True), "must be a number or null"),
  ("math500", ("?", "", 3), "must be a LaTeX string"),
  ("countdown", ("?", "", [[1, 2], "3"]), "all integers"),
  ("countdown", ("?", "", [1, 2, 3]), "all integers"),
  ("sudoku", (PUZZLE, "", "1234"), "16 digits from 1 to 4"),
  ("sudoku", ("1234", "", "1234341221434321"), "no puzzle of 16 digits"),
])
def test_a_bad_row_is_an_error_with_file_and_line(
    tmp_path, task, line, message):
  path = tmp_path / "rows.jsonl"
  write(path, ROWS[task][:1])
  if isinstance(line, tuple):
    line = dict(zip(("question", "generation", "ground_truth"), line,
                    strict=True))
  if not isinstance(line, bytes):
    line = (line if isinstance(line, str) else json.dumps(line)).encode()
  path.write_bytes(path.read_bytes() + line + b"\n")
  with pytest.raises(ValueError, match=message) as error:
    score.score(task, "sound", [path])
  assert str(error.value).startswith(f"{path}:2: ")


@pytest.mark.slow
def test_the_program_prints_one_json_object(tmp_path):
  path = write(tmp_path / "rows.jsonl", ROWS["countdown"])
  command = [sys.executable, "-m", "dlrl.score", "--task=countdown"]
  done = subprocess.run([*command, "--scorer=legacy_d1", path], check=True,
                        capture_output=True, text=True)
  assert json.loads(done.stdout)["score"] == 50.0
  empty = tmp_path / "empty.jsonl"
  empty.touch()
  done = subprocess.run([*command, str(empty)], capture_output=True, text=True)
  assert done.returncode == 2
  assert done.stderr.endswith(f"dlrl: no generations in {empty}\n")
