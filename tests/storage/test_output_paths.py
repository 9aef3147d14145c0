"""Paths for results are checked before there are any."""

import os

import pytest

from dlrl import strict
from dlrl.storage import output_paths


def test_what_can_be_written_is_taken_and_not_created(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "old").touch()
  for value in ("new", "~/new", "old", tmp_path / "new"):
    assert output_paths.file("html", value).parent == tmp_path
  for value in ("a", "a/b/c", "~/a", "."):
    assert tmp_path in (*output_paths.directory("out", value).parents,
                        output_paths.directory("out", value))
  assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("check, value", [
  (output_paths.file, "."), (output_paths.file, "no/file"),
  (output_paths.file, "file/below"), (output_paths.directory, "file"),
  (output_paths.directory, "file/below"), (output_paths.directory, "dangling"),
  *((check, value) for check in (output_paths.file, output_paths.directory)
    for value in ("", "a\0b", "x" * 300, "s3://bucket/x", "gs://Bucket/x",
                  "~nobody-here/x")), (output_paths.file, "gs://bucket/x")])
def test_what_cannot_be_written_names_the_flag(
    check, value, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").touch()
  (tmp_path / "dangling").symlink_to("nowhere")
  with pytest.raises(strict.FlagError) as error:
    check("flag", value)
  assert error.value.field == "flag"
  assert str(error.value).startswith(f"--flag={value}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path):
  tmp_path.chmod(0o500)
  for check in (output_paths.file, output_paths.directory):
    with pytest.raises(strict.FlagError, match="Permission denied"):
      check("flag", tmp_path / "x")
