"""Users' own examples: valid files, malformed ones, the documented example."""

import json
import re
import runpy
import types

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
import runs
from hypothesis import strategies as st
from pyarrow import parquet

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.models.char_tokenizer import CharTokenizer
from dlrl.tasks import mixture
from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import files
from dlrl.tasks.user_files import messages
from dlrl.tasks.user_files import rewards as rewards_lib

EVERY = files.DIFFICULTIES
USER = {"role": "user", "content": "1+1="}
SYSTEM = {"role": "system", "content": "Add."}
BEGUN = {"role": "assistant", "content": "It is "}
DOCS = runs.ROOT / "docs" / "tasks.md"


def write(path, *rows):
  """Writes rows as JSON, and strings as they are; returns the path."""
  path.write_text("".join(
    (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
  return str(path)


def load(patterns, bad_rows="error"):
  return files.load(patterns, bad_rows=bad_rows, field="task.train_files")


def test_rows_of_json_lines_keep_their_columns_and_get_an_index(tmp_path):
  path = write(
    tmp_path / "a.jsonl",
    {"prompt": "1+1=", "answer": 2, "why": {"steps": ["1", "1"], "n": 1.5}},
    "", {"prompt": [SYSTEM, USER, BEGUN], "answer": None, "hint": [True]},
    "  \t", {"prompt": "Größer?\u2028"})
  rows = load(path)
  assert list(rows) == [
    {"prompt": "1+1=", "answer": 2, "why": {"steps": ["1", "1"], "n": 1.5},
     "hint": None, "index": 0, "difficulty": 0},
    {"prompt": [SYSTEM, USER, BEGUN], "answer": None, "why": None,
     "hint": [True], "index": 1, "difficulty": 0},
    {"prompt": "Größer?\u2028", "answer": None, "why": None, "hint": None,
     "index": 2, "difficulty": 0}]
  assert rows.columns == ("prompt", "answer", "why", "hint")
  assert (rows.skipped, rows.problem) == (0, "")


def test_rows_have_random_access(tmp_path):
  rows = load(write(tmp_path / "a.jsonl", *(
    {"prompt": f"{i}?" + "x" * i} for i in range(50))))
  for i in np.random.default_rng(0).permutation(50):
    assert rows[i]["prompt"] == f"{i}?" + "x" * i
    assert rows[i]["index"] == i
  assert rows[-1] == rows[49]
  assert [row["index"] for row in rows[10:40:10]] == [10, 20, 30]
  with pytest.raises(IndexError):
    rows[50]


def test_a_file_with_a_byte_order_mark_or_without_a_last_newline_is_read(
    tmp_path):
  (tmp_path / "a.jsonl").write_bytes(
    b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}')
  assert [r["prompt"] for r in load(str(tmp_path / "a.jsonl"))] == ["a", "b"]


@pytest.fixture
def table(tmp_path):
  """A Parquet file of five rows in three row groups."""
  rows = [{"prompt": [USER | {"name": None}], "reward_model":
           {"ground_truth": str(i), "style": "rule"}, "tests": ["a"] * i,
           "weight": None if i == 3 else i / 2} for i in range(5)]
  path = str(tmp_path / "rows.parquet")
  parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
  assert parquet.ParquetFile(path).num_row_groups == 3
  return path


def test_rows_of_parquet_are_python_values_in_any_order(table):
  rows = load(table)
  for i in (4, 0, 3, 1, 2, 4):
    assert rows[i] == {
      "prompt": [USER], "tests": ["a"] * i, "index": i, "difficulty": 0,
      "reward_model": {"ground_truth": str(i), "style": "rule"},
      "weight": None if i == 3 else i / 2}
    assert type(rows[i]["tests"]) is list


def columns_twice(depth):
  """Arrays and names of a table with two columns `x`, `depth` levels deep."""
  if depth == 0:
    return [pa.array([1]), pa.array([2])], ["x", "x"]
  inner = pa.StructArray.from_arrays(*columns_twice(depth - 1))
  return [pa.ListArray.from_arrays([0, 1], inner)], ["outer"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_two_columns_of_one_name_are_an_error(tmp_path, depth):
  arrays, names = columns_twice(depth)
  path = tmp_path / "a.parquet"
  parquet.write_table(pa.Table.from_arrays(
    [pa.array(["a"]), *arrays], ["prompt", *names]), path)
  for bad_rows in ("error", "skip"):
    with pytest.raises(strict.ConfigError, match=r"columns \['x'\] twice"):
      load(str(path), bad_rows)


def test_files_follow_each_other_and_share_their_columns(tmp_path, table):
  one = write(tmp_path / "a1.jsonl", {"prompt": "a", "x": 1})
  two = write(tmp_path / "a2.jsonl", {"prompt": "b", "y": 2})
  assert [row["index"] for row in load(f"{two}, {one}")] == [0, 1]
  rows = load(f"{tmp_path}/a?.jsonl,{table}")
  assert [rows[i]["prompt"] for i in (0, 1)] == ["a", "b"]
  assert rows[6]["reward_model"]["ground_truth"] == "4"
  assert all(set(row) == {*rows.columns, "index", "difficulty"}
             for row in rows)
  assert len(load(f"{tmp_path}/**/*.jsonl")) == 2


@pytest.mark.parametrize(("patterns", "fix"), [
  ("", "no file"), ("{}/none.jsonl", "no file"), ("{}", "no file"),
  ("{}/a.jsonl,{}/*.jsonl", "twice"),
  ("{}/a.csv", "a.csv: unknown format; use .jsonl or .parquet"),
  ("{}/bad.parquet", "cannot be read"), ("{}/empty.jsonl", "no rows")])
def test_paths_without_rows_are_errors(tmp_path, patterns, fix):
  write(tmp_path / "a.jsonl", {"prompt": "a"})
  write(tmp_path / "a.csv", "prompt", "a")
  write(tmp_path / "bad.parquet", "PAR1")
  write(tmp_path / "empty.jsonl")
  with pytest.raises(strict.ConfigError, match=fix) as error:
    load(patterns.replace("{}", str(tmp_path)))
  assert error.value.field == "task.train_files"


def test_an_example_tells_its_file_and_line(tmp_path, table):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'\n{"prompt": "a"}\r\n\n  \n{"prompt": "\xc3\xa9"}\n'
                   + b'{"prompt": "' + b"x" * 3_000_000 + b'"}\n\n'
                   + b'{"prompt": "last"}')
  rows = load(f"{path},{table}")
  assert [rows.where(i) for i in range(4)] == [
    f"{path}:{line}" for line in (2, 5, 6, 8)]
  assert [rows.where(i) for i in (4, 8)] == [f"{table}:1", f"{table}:5"]
  mixed = mixture.MixedExamples({"a": [{}], "b": rows, "c": [{}]}, (1, 1, 1))
  assert [mixture.where(mixed, i) for i in (0, 1, 9)] == [
    "", f"{path}:2", f"{table}:5"]
  assert mixture.where(mixed, len(mixed) - 1) == ""


MALFORMED = [
  ('{"prompt": "a"', "the line is not JSON"),
  ("[" * 100_000, "nested too deeply"),
  ('["prompt"]', "must be a JSON object, got list"),
  ('"prompt"', "must be a JSON object, got str"),
  ('{"prompt": "a", "prompt": "b"}', r"the keys \['prompt'\] twice"),
  ('{"prompt": "a", "x": {"y": 1, "y": 1}}', r"the keys \['y'\] twice"),
  ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "the line is not JSON"),
  ('{"prompt": "\\ud800"}', "not valid Unicode"),
  ({"question": "a"}, r"`prompt` is missing; the row has \['question'\]"),
  ({"prompt": None}, "the prompt must be a string, got NoneType"),
  ({"prompt": 7}, "must be a string, got int"),
  ({"prompt": USER}, "must be a string, got dict"),
  ({"prompt": " \n"}, "is empty"),
  ({"prompt": []}, "no user message"),
  ({"prompt": ["hi"]}, "message 1 must be an object, got str"),
  ({"prompt": [{"role": "user"}]},
   "content of message 1 must be a string, got NoneType"),
  ({"prompt": [{"content": "a"}]}, "has the role None"),
  ({"prompt": [USER, {"role": "tool", "content": "a"}]},
   "message 2 has the role 'tool'"),
  ({"prompt": [{"role": ["user"], "content": "a"}]}, "has the role"),
  ({"prompt": [{"role": "user", "content": ""}]}, "message 1 is empty"),
  ({"prompt": [{"role": "user", "content": [{"type": "text"}]}]},
   "must be a string, got list"),
  ({"prompt": [USER | {"tool_calls": [1]}]}, r"has the keys \['tool_calls'\]"),
  ({"prompt": [SYSTEM]}, "no user message"),
  ({"prompt": [USER, SYSTEM]}, "must be the first"),
  ({"prompt": [USER, USER]}, "two consecutive messages have the role 'user'"),
  ({"prompt": "a", "difficulty": "3"}, "difficulty must be .*, got '3'"),
  ({"prompt": "a", "difficulty": True}, "difficulty must be .*, got True"),
  ({"prompt": "a", "difficulty": -1}, "difficulty must be .*, got -1"),
  ({"prompt": "a", "difficulty": 2**31}, "difficulty must be .*, got 21474836"),
]


@pytest.mark.parametrize(("row", "problem"), MALFORMED)
def test_a_malformed_row_is_an_error_with_its_line(tmp_path, row, problem):
  path = write(tmp_path / "a.jsonl", {"prompt": "a"}, "", row)
  with pytest.raises(strict.ConfigError, match=problem) as error:
    load(path)
  assert error.value.field == "task.train_files"
  assert error.value.value == f"{path}:3"
  assert str(error.value).startswith(f"{path}:3: ")
  assert str(error.value).endswith(
    "--config.task.bad_rows=skip (config.task.train_files)")


def test_malformed_rows_can_be_left_out_and_are_counted(tmp_path):
  path = write(tmp_path / "a.jsonl", *(row for row, _ in MALFORMED),
               {"prompt": "good"})
  rows = load(path, "skip")
  assert [row["prompt"] for row in rows] == ["good"]
  assert rows[0]["index"] == 0
  assert rows.skipped == len(MALFORMED)
  assert rows.problem.startswith(f"{path}:1: the line is not JSON")
  with pytest.raises(
      strict.ConfigError, match=r"no row is valid\. .*:1: the column `prompt`"):
    load(write(tmp_path / "b.jsonl", {"x": 1}, {"y": 1}), "skip")
  with pytest.raises(strict.ConfigError, match="'error', 'skip'"):
    load(path, "ignore")


def test_a_malformed_row_of_parquet_is_an_error_with_its_number(tmp_path):
  path = str(tmp_path / "a.parquet")
  parquet.write_table(
    pa.table({"prompt": ["a", "b", None, "d", " "]}), path, row_group_size=2)
  with pytest.raises(strict.ConfigError) as error:
    load(path)
  assert error.value.value == f"{path}:3"
  rows = load(path, "skip")
  assert [row["prompt"] for row in rows] == ["a", "b", "d"]
  assert [row["index"] for row in rows] == [0, 1, 2]
  assert rows.skipped == 2


@pytest.mark.parametrize("column", ["prompt", "gold"])
def test_bytes_that_are_not_text_are_an_error(tmp_path, column):
  path = tmp_path / "a.parquet"
  other = "gold" if column == "prompt" else "prompt"
  parquet.write_table(pa.table({column: ["ab?d"], other: ["x"]}), path,
                      use_dictionary=False, write_statistics=False,
                      compression="none")
  content = path.read_bytes()
  assert content.count(b"ab?d") == 1
  path.write_bytes(content.replace(b"ab?d", b"ab\xffd"))
  with pytest.raises(strict.ConfigError, match="cannot be read"):
    load(str(path))
  (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a\xff"}\n')
  with pytest.raises(strict.ConfigError, match="the line is not JSON"):
    load(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("column", [
  "index", "task", "prompts", "completions", "dlrl_rewards",
  "dlrl_tokens_per_forward"])
def test_a_column_with_a_reserved_name_is_an_error(tmp_path, column):
  path = write(tmp_path / "a.jsonl", {"prompt": "a"},
               {"prompt": "b", column: 1})
  with pytest.raises(strict.ConfigError, match=f"names .'{column}'.*rename"):
    load(path)


@pytest.mark.slow
@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.lists(st.one_of(
  st.binary(max_size=30), st.text(max_size=30).map(str.encode),
  st.recursive(st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.text(),
    st.sampled_from([USER, SYSTEM, "user", "x"])),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(
      st.sampled_from(["prompt", "role", "content", "difficulty"]), inner)))
  .map(lambda value: json.dumps(value).encode())), max_size=5))
def test_no_bytes_raise_anything_but_an_error_with_a_line(
    tmp_path_factory, content):
  path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
  path.write_bytes(b"\n".join([*content, b'{"prompt": "good"}']))
  rows = load(str(path), "skip")
  assert rows[-1]["prompt"] == "good"
  assert len(rows) + rows.skipped == sum(
    bool(line.strip()) for line in path.read_bytes().split(b"\n"))
  assert all(messages.checked(row["prompt"]) == row["prompt"] for row in rows)


def test_a_task_selects_rows_that_have_a_difficulty(tmp_path):
  train = write(tmp_path / "a.jsonl", *(
    {"prompt": str(d), "difficulty": d} for d in (3, None, 5, 4, 6)))
  task = files.task(files.Files(train=train, test=train), {})
  rows = task.load("", "train", (4, 5))
  assert [(row["prompt"], row["difficulty"], row["index"]) for row in rows] == [
    ("None", 0, 1), ("5", 5, 2), ("4", 4, 3)]
  assert len(task.load("", "test", EVERY)) == 5
  with pytest.raises(strict.ConfigError) as error:
    task.load("", "validation", EVERY)
  assert error.value.field == "task.validation_files"
  only = write(tmp_path / "b.jsonl", {"prompt": "a", "difficulty": 3})
  with pytest.raises(strict.ConfigError, match="from 3 to 3") as error:
    files.Files(train=only)("", "train", (4, 5), field="rollout.difficulty")
  assert error.value.field == "rollout.difficulty"


def test_a_task_asks_the_prompt_and_measures_the_rewards(tmp_path):
  def length(prompts, completions, **columns):
    return [len(text) / 2 for text in completions]

  def known(prompts, completions, *, answer, **columns):
    return [None if a is None else float(a == c)
            for a, c in zip(answer, completions, strict=True)]

  path = write(tmp_path / "a.jsonl", {"prompt": [USER], "solution": "2"},
               {"prompt": "b"})
  task = files.task(files.Files(train=path), {"length": length, "known": known})
  first, second = task.load("", "train", EVERY)
  assert task.prompts["bare"].question(first) == [USER]
  assert task.prompts["bare"].answer(first) == "2"
  with pytest.raises(strict.ConfigError, match="solution"):
    task.prompts["bare"].answer(second)
  scores = task.metrics(["a"] * 4, ["ab", "ab", "a", "ab"],
                        answer=["ab", "xy", "a", None])
  assert scores["solved"] == [1, 0, 0, None]
  assert scores["length"] == [1, 1, 0.5, 1]
  assert scores["known"] == [1, 0, 1, None]


def test_solved_is_not_known_where_a_reward_is_not():
  rewards = {"a": lambda prompts, completions, **columns: [0, 1, None, 0],
             "b": lambda prompts, completions, **columns: [None, 1, 1, 0]}
  scores = files.metrics(rewards)(["?"] * 4, [""] * 4)
  # Of what fails by one reward, the other is not known as often as of the rest.
  assert scores["solved"] == [None, 1, None, 0]


def test_the_speed_of_decoding_does_not_decide_whether_it_is_solved(tmp_path):
  path = write(tmp_path / "a.jsonl", {"prompt": "1+1="})
  names = ("many_rewards:length", "tokens_per_forward")
  task = tasks.find(config.TaskConfig(
    name="files", train_files=path, validation_files=path, test_files=path),
    names)
  done = (["?"] * 2, ["", ""])
  known = [{"length": 1.0, "tokens_per_forward": 0.5},
           {"length": 0.5, "tokens_per_forward": 2.0}]
  assert task.metrics(*done, dlrl_rewards=known) == {
    "length": [1, 0.5], "solved": [1, 0]}
  assert list(rewards_lib.find(task.rewards, names)) == [
    "length", "tokens_per_forward"]
  alone = tasks.find(config.TaskConfig(
    name="files", train_files=path, validation_files=path, test_files=path),
    names[1:])
  assert alone.metrics(*done, dlrl_rewards=known) == {"solved": [None, None]}


def test_rewards_that_are_known_are_not_computed_again():
  def called(prompts, completions, **columns):
    raise AssertionError

  column = {"dlrl_rewards": [{"a": 0.5}, {"a": None}]}
  assert files.metrics({"a": called})(["?"] * 2, ["", ""], **column) == {
    "a": [0.5, None], "solved": [0, None]}


def test_the_checksum_depends_on_the_content_of_the_files(tmp_path):
  path = write(tmp_path / "a.jsonl", {"prompt": "a"})
  copy = write(tmp_path / "b.jsonl", {"prompt": "a"})
  one = files.checksum(files.Files(train=path))
  assert one == files.checksum(files.Files(train=copy))
  assert one != files.checksum(files.Files(test=path))
  write(tmp_path / "a.jsonl", {"prompt": "b"})
  assert one != files.checksum(files.Files(train=path))


def test_the_documented_example_is_read_and_graded(tmp_path):
  """In docs/tasks.md, a file's name stands before the block of its content."""
  blocks = re.findall(r"`([\w.]+)`:\n\n```\w*\n(.*?)```", DOCS.read_text(),
                      re.DOTALL)
  assert {name for name, _ in blocks} >= {
    "train.jsonl", "validation.jsonl", "my_rewards.py"}
  for name, content in blocks:
    (tmp_path / name).write_text(content)
  # Not imported: other pages have a module of that name.
  rewards = types.SimpleNamespace(
    **runpy.run_path(str(tmp_path / "my_rewards.py")))
  task = files.task(files.Files(
    train=str(tmp_path / "train.jsonl"),
    validation=str(tmp_path / "validation.jsonl")),
    {"correct": rewards.correct})
  for split in ("train", "validation"):
    rows = task.load("", split, EVERY)
    prompts = [task.prompts["bare"].question(row) for row in rows]
    columns = task_lib.columns(rows)
    right = [task.prompts["bare"].answer(row) for row in rows]
    assert rewards.correct(prompts, right, **columns) == [1.0] * len(rows)
    wrong = [text + "0" for text in right]
    assert task.metrics(prompts, wrong, **columns)["solved"] == [0] * len(rows)
    assert CharTokenizer().encode("".join([*prompts, *right]))
  row = {"data_source": "a", "reward_model": {"ground_truth": "2"},
         "extra_info": None}
  assert rewards.verl(["1+1="], ["2"], **task_lib.columns([row])) == [1.0]
