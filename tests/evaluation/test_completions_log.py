import os

import pytest

from dlrl import strict
from dlrl.evaluation import completions_log

SETTINGS = {"task": "sudoku", "sampler": {"steps": 8}}


def write(path, *records):
  with completions_log.CompletionsLog(path, SETTINGS) as log:
    log.append(records)


def test_records_come_back_in_order(tmp_path):
  write(tmp_path / "out", {"a": 1}, {"a": 2})
  write(tmp_path / "out", {"a": 3})
  with completions_log.CompletionsLog(tmp_path / "out", SETTINGS) as log:
    assert log.records == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_line_cut_off_by_a_kill_is_dropped_and_written_over(tmp_path):
  write(tmp_path, {"text": "whole"})
  with open(tmp_path / "completions.jsonl", "a") as file:
    file.write('{"text": "cut o')
  write(tmp_path, {"text": "next"})
  with completions_log.CompletionsLog(tmp_path, SETTINGS) as log:
    assert log.records == [{"text": "whole"}, {"text": "next"}]


def test_any_text_is_one_line(tmp_path):
  texts = [{"text": "a\nb\r\x0b\x0c\x1c\x85\u2028\u2029\ud800\x00"}]
  write(tmp_path, *texts)
  with completions_log.CompletionsLog(tmp_path, SETTINGS) as log:
    assert log.records == texts


def test_other_settings_are_refused_with_what_differs(tmp_path):
  write(tmp_path, {"a": 1})
  other = {"task": "sudoku", "sampler": {"steps": 16}}
  with pytest.raises(strict.ConfigError, match=r"sampler\.steps: 8 -> 16"):
    completions_log.CompletionsLog(tmp_path, other)


def test_a_second_evaluation_waits_its_turn(tmp_path):
  with (completions_log.CompletionsLog(tmp_path, SETTINGS),
        pytest.raises(strict.FlagError, match=rf"pid {os.getpid()}\)") as e):
    completions_log.CompletionsLog(tmp_path, SETTINGS)
  assert e.value.field == "out"
  write(tmp_path, {"a": 1})
  with pytest.raises(strict.FlagError, match="other settings"):
    completions_log.CompletionsLog(tmp_path, {})
  write(tmp_path, {"a": 2})  # the refused one keeps no lock


def test_of_a_completion_written_twice_the_first_counts(tmp_path):
  rows = [{"length": n, "sample": s, "item": i, "text": f"{n} {s} {i}"}
          for n in (8, 16) for s in range(2) for i in range(3)]
  write(tmp_path, *rows, *({**r, "text": "again"} for r in rows[::-1]))
  with completions_log.CompletionsLog(tmp_path, SETTINGS) as log:
    assert log.records == rows


@pytest.mark.parametrize("name, text, match", [
  ("completions.jsonl", '{"a": 1}\n{"a"\n', r"completions.jsonl:2 is not"),
  ("completions.jsonl", "\xff\n", r"completions.jsonl:1 is not"),
  ("completions.jsonl", "3\n", r"completions.jsonl:1 is not"),
  ("completions.jsonl", "[" * 10**5 + "\n", r"completions.jsonl:1 is not"),
  ("settings.json", "[" * 10**5, "not of an evaluation"),
  ("settings.json", "port = 80", "not of an evaluation"),
  ("settings.json", "[1]", "not of an evaluation")])
def test_a_damaged_file_is_named(tmp_path, name, text, match):
  write(tmp_path, {"a": 1})
  (tmp_path / name).write_text(text, encoding="latin-1")
  with pytest.raises(strict.FlagError, match=match):
    completions_log.CompletionsLog(tmp_path, SETTINGS)


def test_a_start_killed_early_can_begin_again(tmp_path):
  (tmp_path / "lock").write_text("1\n")
  (tmp_path / "settings.json.0123456789abcdef.tmp").write_text('{"ta')
  write(tmp_path, {"a": 1})


@pytest.mark.parametrize("check", [
  completions_log.check,
  lambda path: completions_log.CompletionsLog(path, SETTINGS)])
def test_a_path_that_cannot_be_written_is_one_line(check, tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "dangling").symlink_to("nowhere")
  for path in (tmp_path / "file", tmp_path / "file" / "x", "a\0b",
               tmp_path / "dangling", "x" * 300, "s3://bucket/out"):
    with pytest.raises(strict.FlagError) as error:
      check(path)
    assert error.value.field == "out"
    assert "\n" not in str(error.value)


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(strict.ConfigError, match="not empty"):
    completions_log.CompletionsLog(tmp_path, SETTINGS)
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
