"""Files of a run that are damaged: one line that names them."""

import functools
import json
import os
import types

import pytest

from dlrl import config
from dlrl import strict
from dlrl.run import saved_params
from dlrl.run import start_params
from dlrl.run import summary
from dlrl.runtime import goodput
from dlrl.storage import disk_errors
from dlrl.storage import metrics
from dlrl.storage import workdir

DAMAGE = {
  "empty": b"", "torn": b'{"a": ', "null": b"null", "list": b"[1]",
  "number": b"3", "binary": b"\xff\xfe\n",
  "utf-16": '{"a": 1}'.encode("utf-16"), "deep": b"[" * 100_000}
damaged = pytest.mark.parametrize(
  "data", DAMAGE.values(), ids=list(DAMAGE))


@damaged
def test_a_config_that_is_damaged(data, tmp_path):
  (tmp_path / "config.json").write_bytes(data)
  with pytest.raises(strict.FlagError, match=r"config.json is not of a run"):
    workdir.claim(tmp_path, {})
  with pytest.raises(strict.FlagError, match="is not the directory of a run"):
    saved_params.settings(str(tmp_path))
  cfg = types.SimpleNamespace(init_from=str(tmp_path))
  with pytest.raises(strict.ConfigError, match=r"init_from.*config.json is"):
    start_params.params(cfg, None, None)


@pytest.mark.parametrize("values", [
  {"task": 3}, {"lora": None}, {"learn": {"loss_args": [1]}}, {"steps": "x"},
  {"model": []}, {"seed": 1e400}])
def test_settings_of_other_types_are_not_of_a_run(values, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(values))
  with pytest.raises(strict.FlagError, match="is not the directory of a run"):
    saved_params.settings(str(tmp_path))


@pytest.mark.parametrize("values", [{"lora": 3}, {"lora": None}, {"lora": [1]}])
def test_settings_of_another_version_are_not_adapters(values, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(values))
  cfg = types.SimpleNamespace(init_from=str(tmp_path))
  with pytest.raises(strict.ConfigError, match=r"config.init_from.*checkpoint"):
    start_params.params(cfg, None, None)


@pytest.mark.parametrize("path", [
  "~no_such_user/run", "a" * 300, "run\udcff", "run\0", "", "s3://bucket/run"])
def test_a_path_that_cannot_be_is_one_line(path):
  for read in (functools.partial(workdir.claim, cfg_json={}),
               saved_params.settings):
    with pytest.raises(strict.FlagError, match="--workdir="):
      read(path)


def test_another_run_in_the_home_of_nobody():
  cfg = types.SimpleNamespace(init_from="~no_such_user/run")
  with pytest.raises(strict.ConfigError, match=r"init_from.*home directory"):
    start_params.params(cfg, None, None)


def test_a_file_that_cannot_be_replaced_is_named(tmp_path):
  (tmp_path / "summary.json").mkdir()
  with pytest.raises(OSError, match="directory") as error:
    workdir.write_json(tmp_path / "summary.json", {})
  assert disk_errors.explain(error.value, tmp_path).startswith(
    f"{tmp_path / 'summary.json'}: Is a directory. ")


def test_a_config_that_is_a_directory(tmp_path):
  (tmp_path / "config.json").mkdir()
  with pytest.raises(strict.FlagError, match=r"config.json is not of a run"):
    workdir.claim(tmp_path, {})


@pytest.mark.parametrize("data", [
  *DAMAGE.values(), b"{}", b'{"before": 1, "after": {}, "task": {}}',
  b'{"before": {"solved": "x"}, "after": {}, "task": {}, "n_eval": 1}'])
def test_a_summary_that_is_damaged_says_how_to_write_it_again(data, tmp_path):
  (tmp_path / "summary.json").write_bytes(data)
  with pytest.raises(strict.FlagError, match=r"summary.json is not.*delete it"):
    summary.read(tmp_path)


def test_a_summary_that_is_there_is_read(tmp_path):
  assert summary.read(tmp_path) is None
  written = {
    "before": {"solved": 0.5}, "after": {}, "n_eval": 1, "wall_seconds": 1.0,
    "phase_seconds": {"update": 1.0}, "task": {
      "name": "a", "version": "1", "prompt": "p", "data_sha256": "0"}}
  workdir.write_json(tmp_path / "summary.json", written)
  assert summary.read(tmp_path) == written


@pytest.mark.parametrize("line", [
  b"3", b"{}", b"[]", b'{"step": "1"}', b'{"step": true}', b"\xff", b"{",
  b"[" * 100_000])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_line_of_a_log_that_is_damaged_is_named(name, line, tmp_path):
  (tmp_path / name).write_bytes(b'{"step": 1}\n' + line + b"\n")
  with (pytest.raises(strict.FlagError, match=f"{name}:2 is not JSON with a "),
        metrics.MetricsWriter(tmp_path) as writer):
    writer.truncate_after(1)


def test_a_finished_run_without_rows_is_one_line(tmp_path):
  with pytest.raises(strict.FlagError, match=r"metrics.jsonl lacks the rows"):
    summary.write(config.Config(), tmp_path, {})


@pytest.mark.parametrize("line", [
  b"x", b"3", b"{}", b'{"start": "x", "last_seen": null}', b"\xff", b'{"start'])
def test_what_is_no_part_of_the_results_does_not_lose_them(
    line, tmp_path, capsys):
  goodput.start(tmp_path)
  with open(tmp_path / "starts.jsonl", "ab") as file:
    file.write(line + b"\n")
  goodput.start(tmp_path)
  assert summary.goodput_of(tmp_path, {}) == {}
  assert "goodput is not known, because starts.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.jsonl", "starts.jsonl"])
def test_what_is_no_file_is_named(name, tmp_path):
  (tmp_path / name).mkdir()
  begin = {
    "metrics.jsonl": metrics.MetricsWriter, "starts.jsonl": goodput.start}
  with pytest.raises(IsADirectoryError) as error:
    begin[name](tmp_path)
  assert disk_errors.explain(error.value, tmp_path).startswith(
    f"{tmp_path / name}: Is a directory. Make it a")
  (tmp_path / name).rmdir()
  os.mkfifo(tmp_path / name)
  with pytest.raises(OSError, match=r"no regular file|No such dev") as other:
    begin[name](tmp_path)
  assert ". Make it a readable and writable file or directory, as it was" in (
    disk_errors.explain(other.value, tmp_path))
