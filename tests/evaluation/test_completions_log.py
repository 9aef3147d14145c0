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


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(strict.ConfigError, match="not empty"):
    completions_log.CompletionsLog(tmp_path, SETTINGS)
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
