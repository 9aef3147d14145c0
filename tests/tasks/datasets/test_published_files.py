"""The datasets that are made of the public files."""

import ast
import collections
import json
import subprocess
import sys

import pytest

from dlrl.tasks.coding import data as code_data
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import competition_data
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.mathematics import gsm8k_data
from dlrl.tasks.mathematics import prompts as math_prompts

pytestmark = pytest.mark.shared_data

EVERY = (0, 9)
SPLITS = ("train", "validation", "test")
# Runs programs, with their setup and a test, in a process of its own.
RUN = """
import contextlib, io, json, sys
failed = []
for number, texts in enumerate(json.load(sys.stdin)):
  names = {}
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      for text in texts:
        exec(text, names)
  except BaseException as error:
    failed.append((number, repr(error)))
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
  """A directory with the public files, as users without a network have it."""
  root = tmp_path_factory.mktemp("published_data")
  manual = root / "downloads/manual"
  for name in ("gsm8k", "mbpp", "humaneval"):
    (manual / name).parent.mkdir(parents=True, exist_ok=True)
    (manual / name).symlink_to(shared / "data" / name)
  (manual / "math").mkdir()
  for name, source in (("math500_test.jsonl", "math500_test.jsonl"), (
      "math_test.jsonl", "math_test_minus_math500_4500.jsonl")):
    (manual / "math" / name).symlink_to(shared / "data/math" / source)
  return str(root)


@pytest.mark.slow
def test_gsm8k_has_the_published_rows(real, shared):
  train, validation, test = (
    gsm8k_data.GSM8K.load(real, split, EVERY) for split in SPLITS)
  assert (len(train), len(validation), len(test)) == (6946, 527, 1319)
  rows = {row["index"]: row for row in [*train, *validation]}
  public = [json.loads(line) for line in (
    shared / "data/gsm8k/train.jsonl").read_text().splitlines()]
  assert [{"question": rows[i]["question"], "answer": rows[i]["answer"]}
          for i in range(7473)] == public
  questions = [row["question"] for row in [*train, *validation, *test]]
  assert len(set(questions)) == len(questions)
  golds = [gsm8k_data.parts(row["answer"])[1] for row in rows.values()]
  assert sum("," in gold for gold in golds) == 79
  assert sum(gold.startswith("-") for gold in golds) == 3
  assert not any("<<" in row["solution"] or "####" in row["solution"]
                 for row in rows.values())


def test_math_has_the_published_rows(real, shared):
  train, validation, test = (
    competition_data.MATH_4500.load(real, split, EVERY) for split in SPLITS)
  assert (len(train), len(validation), len(test)) == (4168, 332, 500)
  levels = collections.Counter(
    row["difficulty"] for row in [*train, *validation])
  assert levels == {1: 394, 2: 804, 3: 1026, 4: 1086, 5: 1190}
  assert collections.Counter(row["difficulty"] for row in test) == {
    1: 43, 2: 90, 3: 105, 4: 128, 5: 134}
  public = [json.loads(line) for line in (
    shared / "data/math/math500_test.jsonl").read_text().splitlines()]
  assert [(r["problem"], r["answer"], r["subject"]) for r in test] == [
    (r["problem"], r["answer"], r["subject"]) for r in public]
  problems = [row["problem"] for row in [*train, *validation, *test]]
  assert len(set(problems)) == len(problems)


def test_maths_test_set_has_the_published_rows(real):
  # Its 5,000 problems by level, as MATH's authors count them.
  rows = competition_data.MATH_5000.load(real, "test", EVERY)
  assert collections.Counter(row["difficulty"] for row in rows) == {
    1: 437, 2: 894, 3: 1131, 4: 1214, 5: 1324}
  assert len({row["problem"] for row in rows}) == 5000


@pytest.mark.slow
def test_the_answers_to_all_prompts_are_right_for_the_graders(real):
  for table, dataset, grader, wrong in (
    (math_prompts.GSM8K, gsm8k_data.GSM8K, gsm8k, "-1.5"),
    (math_prompts.MATH, competition_data.MATH_4500, competition, "-77777"),
  ):
    rows = dataset.load(real, "validation", EVERY)
    golds = [row["answer"] for row in rows]
    for style, prompt in table.items():
      written = [prompt.answer(row) for row in rows]
      assert set(grader.correct_reward(
        [""] * len(rows), written, answer=golds)) == {1.0}, style
    wrongs = [f"The answer is {wrong}"] * len(rows)
    assert set(grader.correct_reward(
      [""] * len(rows), wrongs, answer=golds)) == {0.0}


def test_code_has_the_published_rows(real):
  sizes = [
    [len(dataset.load(real, split, EVERY))
     for split in ("train", "validation", "test", "prompt")]
    for dataset in (code_data.MBPP, code_data.MBPP_SANITIZED)]
  assert sizes == [[374, 90, 500, 10], [120, 43, 257, 7]]
  rows = code_data.HUMANEVAL.load(real, "test", EVERY)
  assert [row["index"] for row in rows] == list(range(164))


def test_published_programs_pass_their_tests_and_others_do_not(real):
  rows = [*code_data.HUMANEVAL.load(real, "test", EVERY)]
  for split in ("train", "validation", "prompt"):
    rows += code_data.MBPP.load(real, split, EVERY)
    rows += code_data.MBPP_SANITIZED.load(real, split, EVERY)
  right = [[row["solution"], row["setup"], test]
           for row in rows for test in row["tests"]]
  # A prompt gives away only the signature.
  wrong = [[row["prefix"] or row["signature"].replace("):", "): pass"),
            row["setup"], test] for row in rows for test in row["tests"]]
  done = subprocess.run(
    [sys.executable, "-c", RUN], input=json.dumps(right + wrong), text=True,
    capture_output=True, check=True, timeout=60)
  failed = json.loads(done.stdout)
  assert failed[0][0] >= len(right), failed[0]
  assert len(failed) > 0.98 * len(wrong)


def test_all_signatures_are_python_and_name_the_function(real):
  for dataset in (code_data.MBPP, code_data.MBPP_SANITIZED):
    for split in SPLITS:
      for row in dataset.load(real, split, EVERY):
        ast.parse(row["signature"].replace("):", "): pass"))
        assert f"def {row['entry_point']}(" in row["signature"]
        assert all(row["entry_point"] + "(" in t.replace(" (", "(")
                   for t in row["tests"])
