"""Published datasets, made of made-up files."""

import dataclasses
import gzip
import hashlib
import http.server
import json
import os
import threading

import pytest

from dlrl import strict
from dlrl.tasks import registry
from dlrl.tasks.coding import data as code_data
from dlrl.tasks.countdown import published_data as countdown_published
from dlrl.tasks.mathematics import competition_data
from dlrl.tasks.mathematics import gsm8k_data
from dlrl.tasks.sudoku import published_data as sudoku_published

EVERY = (0, 9)
SPLITS = ("train", "validation", "test")
NOWHERE = "http://127.0.0.1:9/"  # nobody listens to that port


def lines(rows):
  return "\n".join(json.dumps(row) for row in rows).encode() + b"\n"


QUESTIONS = [
  {"question": f"What is {i} times 1,000?",
   "answer": f"It is {i}*1000=<<{i}*1000={i}000>>{i},000.\nSo say it.\n"
             f"#### {i},000"} for i in range(60)]
SOLVED = r"Half of \boxed{1} is $\boxed{\frac{1}{2^{\text{a}}}}$."
# Of "Find 0." to "Find 59." these are for validation.
HELD_OUT = {"Find 13.", "Find 42.", "Find 59."}
PROBLEMS = [
  {"problem": f"Find {i}.", "level": f"Level {i % 5 + 1}", "type": "Algebra",
   "solution": SOLVED, "idx": i} for i in range(60)]
TESTED = [{"problem": "Find 7.", "level": 4, "subject": "Geometry",
           "answer": "7", "solution": r"\boxed{7}", "unique_id": "x"}]
TRAIN_12000 = [
  {"problem": f"Find {i}.", "level": level, "subject": "Algebra",
   "answer": f"{i}", "solution": f"\\boxed{{{i}}}"}
  for i, level in ((8, 3), (9, "Level ?"), (13, 5))]
TREE = """class Node:\r
  def __init__(self, data, left=None):\r
    self.data = data\r
def helper(x):\r
  return x.data\r
def depth(tree, *more):\r
  return helper(tree)\r
"""
PROGRAMS = [
  {"text": f"Double {i}.", "task_id": i, "test_setup_code": "",
   "code": "def twice(n):\r\n  return 2 * n", "test_list": [
     f"assert twice({i}) == {2 * i}", "assert twice(0) == 0 "],
   "challenge_test_list": []} for i in (1, 10, 11, 510, 511, 600, 601, 974)]
PROGRAMS[2] |= {"text": "How deep?", "code": TREE,
                "test_setup_code": "root = Node(3)\r\n",
                "test_list": ["assert depth(root) == 3"]}
SANITIZED = [
  {"source_file": "x", "task_id": i, "prompt": "Take the root.",
   "code": "def root(n):\n  return math.sqrt(n)",
   "test_imports": ["import math", "import re"],
   "test_list": ["assert root(4) == 2"]} for i in (3, 12, 599, 974)]
HUMAN = [{
  "task_id": "HumanEval/4", "prompt": "import math\n\ndef add(a, b):\n",
  "entry_point": "add", "canonical_solution": "    return a + b\n",
  "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}]

CONTENTS = {
  (gsm8k_data, "GSM8K"): {
    "train": lines(QUESTIONS), "test": lines(QUESTIONS[:3])},
  (competition_data, "MATH"): {
    "train": lines([*TRAIN_12000, *TESTED]), "test": lines(TESTED)},
  (competition_data, "MATH_4500"): {
    "train": lines(PROBLEMS), "test": lines(TESTED)},
  (competition_data, "MATH_500"): {"test": lines(TESTED)},
  (competition_data, "MATH_5000"): {
    "rest": lines(PROBLEMS), "test": lines(TESTED)},
  (code_data, "MBPP"): {"all": lines(PROGRAMS)},
  (code_data, "MBPP_SANITIZED"): {"all": json.dumps(SANITIZED).encode()},
  (code_data, "HUMANEVAL"): {"test": gzip.compress(lines(HUMAN))},
}
DATASETS = [getattr(module, name) for module, name in CONTENTS]


def sha256(content):
  return hashlib.sha256(content).hexdigest()


@pytest.fixture
def made_up(tmp_path, monkeypatch):
  """Puts made-up files where users would put the public ones."""
  for (module, name), contents in CONTENTS.items():
    dataset = getattr(module, name)
    for key, content in contents.items():
      path = tmp_path / "downloads/manual" / dataset.files[key].name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    monkeypatch.setattr(module, name, dataclasses.replace(
      dataset, sha256=dict.fromkeys(dataset.sha256, ""),
      files={key: dataclasses.replace(dataset.files[key], url=NOWHERE + key,
                                      sha256=(sha256(content),))
             for key, content in contents.items()}))
  return str(tmp_path)


def by_index(*parts):
  return {row["index"]: row for part in parts for row in part}


def test_gsm8k_is_cut_into_rows_that_keep_the_public_text(made_up):
  train, validation, test = (
    gsm8k_data.GSM8K.load(made_up, split, EVERY)
    for split in SPLITS)
  rows = by_index(train, validation)
  assert len(rows) == len(train) + len(validation) == 60
  assert len(validation) in range(1, 12)
  assert [row["index"] for row in train] == sorted(
    row["index"] for row in train)
  for index, row in rows.items():
    assert {k: row[k] for k in ("question", "answer")} == QUESTIONS[index]
  assert rows[7] == {
    **QUESTIONS[7], "difficulty": 1, "index": 7, "solution":
      "It is 7*1000=7,000.\nSo say it.\nThe answer is \\boxed{7,000}."}
  assert [row["index"] for row in test] == [0, 1, 2]


def test_math_takes_the_last_box_the_level_and_what_is_not_tested(made_up):
  train, validation = (competition_data.MATH_4500.load(made_up, split, EVERY)
                       for split in ("train", "validation"))
  rows = by_index(train, validation)
  assert sorted(rows) == list(range(59))  # without "Find 7."
  assert {row["problem"] for row in validation} == HELD_OUT
  assert {"Find 7.", *HELD_OUT}.isdisjoint(row["problem"] for row in train)
  assert rows[8] == {
    "problem": "Find 9.", "answer": r"\frac{1}{2^{\text{a}}}",
    "solution": SOLVED, "subject": "Algebra", "difficulty": 5, "index": 8}
  assert {row["difficulty"] for row in competition_data.MATH_4500.load(
    made_up, "train", (2, 3))} == {2, 3}
  assert [*competition_data.MATH.load(made_up, "test", (4, 4))] == [{
    "problem": "Find 7.", "answer": "7", "solution": r"\boxed{7}",
    "subject": "Geometry", "difficulty": 4, "index": 0}]


def test_maths_whole_test_is_what_math500_leaves_and_then_math500(made_up):
  rows = competition_data.MATH_5000.load(made_up, "test", EVERY)
  assert [row["problem"] for row in rows] == [
    f"Find {i}." for i in range(60) if i != 7] + ["Find 7."]
  assert [row["index"] for row in rows] == list(range(60))
  assert [*competition_data.MATH_500.load(made_up, "test", EVERY)] == [
    rows[-1] | {"index": 0}]
  # Of the one that both files have, MATH500's answer is taken.
  assert rows[-1]["answer"] == "7"
  with pytest.raises(strict.ConfigError, match="no train rows, only test"):
    competition_data.MATH_5000.load(made_up, "train", EVERY)


def test_the_two_sizes_of_math_are_different_datasets_cut_alike(made_up):
  small = competition_data.MATH_4500.load(made_up, "train", EVERY)
  whole = competition_data.MATH.load(made_up, "train", EVERY)
  assert [row["difficulty"] for row in whole] == [3, 0]
  assert competition_data.MATH.name != competition_data.MATH_4500.name
  assert os.path.isdir(f"{made_up}/math") and os.path.isdir(
    f"{made_up}/math4500")
  assert {"Find 8.", "Find 9."} == {row["problem"] for row in whole} < {
    row["problem"] for row in small}
  (held_out,) = competition_data.MATH.load(made_up, "validation", EVERY)
  assert (held_out["problem"], held_out["index"]) == ("Find 13.", 2)


def test_mbpp_is_split_by_number_and_shows_what_tests_need(made_up):
  indices = {split: [row["index"] for row in code_data.MBPP.load(
    made_up, split, EVERY)] for split in ("prompt", "test", "validation",
                                          "train")}
  assert indices == {"prompt": [1, 10], "test": [11, 510],
                     "validation": [511, 600], "train": [601, 974]}
  tree, twice = code_data.MBPP.load(made_up, "test", EVERY)
  assert twice == {
    "text": "Double 510.", "signature": "def twice(n):", "prefix": "",
    "tests": ["assert twice(510) == 1020", "assert twice(0) == 0 "],
    "setup": "", "entry_point": "twice", "index": 510, "difficulty": 1,
    "solution": "def twice(n):\n  return 2 * n"}
  assert tree["signature"] == (
    "class Node:\n  def __init__(self, data, left=None):\n"
    "def depth(tree, *more):")
  assert tree["entry_point"] == "depth"
  assert tree["setup"] == "root = Node(3)\n"
  assert "\r" not in tree["solution"]


def test_sanitized_mbpp_and_humaneval_have_the_same_columns(made_up):
  (root,) = code_data.MBPP_SANITIZED.load(made_up, "test", EVERY)
  (add,) = code_data.HUMANEVAL.load(made_up, "test", EVERY)
  assert root.keys() == add.keys()
  assert (root["index"], root["setup"]) == (12, "import math\nimport re")
  assert add["tests"] == [HUMAN[0]["test"] + "\n\ncheck(add)\n"]
  assert add["solution"] == HUMAN[0]["prompt"] + "    return a + b\n"
  assert (add["prefix"], add["entry_point"], add["index"]) == (
    HUMAN[0]["prompt"], "add", 4)


def test_what_a_dataset_lacks_is_an_error(made_up):
  with pytest.raises(strict.ConfigError, match="no train rows, only test"):
    code_data.HUMANEVAL.load(made_up, "train", EVERY)
  with pytest.raises(strict.ConfigError, match=r"overlaps 0\.\.5") as error:
    competition_data.MATH_4500.load(
      made_up, "train", (8, 12), field="sft.difficulty")
  assert error.value.field == "sft.difficulty"


def test_preparing_is_silent_and_leaves_only_the_data(made_up, capfd):
  code_data.HUMANEVAL.load(made_up, "test", EVERY)
  assert capfd.readouterr() == ("", "")
  assert sorted(os.listdir(made_up)) == ["downloads", "humaneval"]
  assert os.listdir(f"{made_up}/downloads") == ["manual"]
  assert os.listdir(f"{made_up}/humaneval") == ["1.0.0"]


def test_another_file_than_the_public_one_is_an_error(made_up):
  path = f"{made_up}/downloads/manual/mbpp/mbpp.jsonl"
  with open(path, "ab") as file:
    file.write(b"\n")
  with pytest.raises(strict.ConfigError, match="SHA-256") as error:
    code_data.MBPP.load(made_up, "test", EVERY)
  assert error.value.value == path
  assert sha256(lines(PROGRAMS)) in error.value.fix
  assert os.listdir(f"{made_up}/mbpp") == []


def test_any_known_form_of_a_file_is_accepted(made_up):
  dataset = code_data.MBPP_SANITIZED
  pretty = json.dumps(SANITIZED, indent=4).encode()
  file = dataset.files["all"]
  either = dataclasses.replace(dataset, files={
    "all": dataclasses.replace(file, sha256=(*file.sha256, sha256(pretty)))})
  with open(f"{made_up}/downloads/manual/{file.name}", "wb") as out:
    out.write(pretty)
  assert either.load(made_up, "test", EVERY)


def test_rows_are_checked_when_they_are_made_and_when_they_are_read(made_up):
  dataset = code_data.HUMANEVAL
  rows = dataset.load(made_up, "test", EVERY)
  right, wrong = (dataclasses.replace(dataset, sha256={"test": digest})
                  for digest in (dataset.digest(rows), "0" * 64))
  assert [*right.load(made_up, "test", EVERY)] == [*rows]
  with pytest.raises(strict.ConfigError, match="delete this directory"):
    wrong.load(made_up, "test", EVERY)
  os.rename(f"{made_up}/humaneval", f"{made_up}/old")
  with pytest.raises(RuntimeError, match="generator changed"):
    wrong.load(made_up, "test", EVERY)


@pytest.fixture
def served(made_up):
  """Moves the files to a server; gives the requests it answered."""
  folder = f"{made_up}/downloads/manual"
  asked = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=f"{made_up}/served")

    def log_message(self, _, *args):
      asked.append(args[0])

  os.rename(folder, f"{made_up}/served")
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  yield f"http://127.0.0.1:{server.server_port}/", asked
  server.shutdown()
  thread.join()
  server.server_close()


def from_server(dataset, url):
  return dataclasses.replace(dataset, files={
    key: dataclasses.replace(file, url=url + file.name)
    for key, file in dataset.files.items()})


def test_files_that_are_not_there_are_downloaded_once(
    made_up, served, capfd):
  url, asked = served
  dataset = from_server(gsm8k_data.GSM8K, url)
  rows = dataset.load(made_up, "test", EVERY)
  assert [row["question"] for row in rows] == [
    row["question"] for row in QUESTIONS[:3]]
  assert sorted(asked) == ["GET /gsm8k/test.jsonl HTTP/1.1",
                           "GET /gsm8k/train.jsonl HTTP/1.1"]
  assert [*dataset.load(made_up, "test", EVERY)] == [*rows]
  assert len(asked) == 2
  assert os.listdir(f"{made_up}/gsm8k") == ["1.0.0"]
  assert capfd.readouterr() == ("", "")


def test_a_download_of_something_else_is_an_error(made_up, served):
  url, _ = served
  dataset = from_server(code_data.MBPP, url)
  with open(f"{made_up}/served/mbpp/mbpp.jsonl", "ab") as file:
    file.write(b"\n")
  with pytest.raises(strict.ConfigError, match="SHA-256"):
    dataset.load(made_up, "test", EVERY)
  assert os.listdir(f"{made_up}/mbpp") == []


def test_without_a_network_the_error_says_where_to_put_the_file(
    made_up, served):
  with pytest.raises(strict.ConfigError, match="put the file here") as error:
    code_data.HUMANEVAL.load(made_up, "test", EVERY)
  assert error.value.field == "task.data_dir"
  assert error.value.value == (
    f"{made_up}/downloads/manual/humaneval/HumanEval.jsonl.gz")


def test_no_two_tasks_have_one_identity():
  checksums = [task.checksum for task in registry.TASKS.values()]
  assert len(set(checksums)) == len(checksums)
  # Also where no row is known: the files are.
  unknown = [dataclasses.replace(dataset, sha256={"test": ""})
             for dataset in DATASETS]
  assert len({dataset.checksum for dataset in unknown}) == len(unknown)
  for dataset in (sudoku_published.SUDOKU_D1, sudoku_published.SUDOKU_SPG,
                  countdown_published.COUNTDOWN_D1):
    assert all(len(digest) == 64 for digest in dataset.sha256.values())


def test_every_file_and_split_has_its_checksum_but_one_that_says_so():
  unknown = {(dataset.name, split) for dataset in DATASETS
             for split, digest in dataset.sha256.items() if not digest}
  assert unknown == {("math", "train"), ("math", "validation")}
  assert len({dataset.checksum for dataset in DATASETS}) == len(DATASETS)
  for dataset in DATASETS:
    for file in dataset.files.values():
      assert file.url.startswith("https://")
      assert all(len(digest) == 64 for digest in file.sha256)
