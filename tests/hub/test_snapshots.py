"""Names on the Hub: what is downloaded, and what is said if it cannot be."""

import functools
import json
import pathlib
import subprocess
import sys

import fake_hub
import huggingface_hub
import pyarrow as pa
import pytest
from pyarrow import parquet

from dlrl import strict
from dlrl.hub import snapshots
from dlrl.tasks.user_files import files

CODE = """
import sys
from dlrl.hub import snapshots
print(snapshots.fetch(
  snapshots.model(sys.argv[1]), snapshots.DESCRIPTION + snapshots.WEIGHTS,
  RuntimeError))
"""


@pytest.fixture
def source(tmp_path):
  """Files as models on the Hub have them."""
  root = tmp_path / "source"
  (root / "onnx").mkdir(parents=True)
  for name in (*snapshots.DESCRIPTION, "model-1.safetensors", "modeling.py",
               "pytorch_model.bin", "README.md", "onnx/config.json",
               "onnx/model.safetensors"):
    (root / name).write_text(f"content of {name}")
  return root


def fetch(name, patterns=snapshots.DESCRIPTION):
  return snapshots.fetch(
    snapshots.model(name), patterns,
    functools.partial(strict.ConfigError, "pretrained", name))


def held(root):
  return sorted(str(path.relative_to(root)) for path in root.rglob("*")
                if path.is_file())


def test_only_what_is_asked_for_is_downloaded(hub, source):
  commit = hub.add("org/name", source)
  root = fetch("org/name")
  assert root.name == commit
  assert held(root) == sorted(snapshots.DESCRIPTION)
  assert root == fetch("org/name", snapshots.WEIGHTS)
  assert held(root) == sorted([*snapshots.DESCRIPTION, "model-1.safetensors"])
  assert hub.downloads() == dict.fromkeys(held(root), 1)
  for name in held(root):
    assert (root / name).read_text() == f"content of {name}"


@pytest.mark.parametrize(("text", "name", "revision"), [
  ("GSAI-ML/LLaDA-8B-Instruct", "GSAI-ML/LLaDA-8B-Instruct", ""),
  ("a/b_c.d@v1.0", "a/b_c.d", "v1.0"), ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
  (f"a/b@{'0' * 40}", "a/b", "0" * 40)])
def test_names_with_and_without_revisions(text, name, revision):
  assert snapshots.model(text) == snapshots.Repo(name, revision)
  assert str(snapshots.model(text)) == text


@pytest.mark.parametrize("text", [
  "", "LLaDA-8B", "/a/b", "./a/b", "~/b", "a/b/c", "../b", "a/..", "a/b@",
  "a/b@../../x", "a/b@x..y", "a b/c", "a/b\n", "gs://a/b", "a/b@c@d",
  "a/" + "b" * 97])
def test_what_is_a_path_is_no_name(text):
  assert snapshots.model(text) is None


def test_what_exists_is_a_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert snapshots.model("a/b")
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "b").symlink_to("absent")
  assert snapshots.model("a/b") is None


def test_revisions_are_branches_tags_and_commits(hub, source):
  old = hub.add("org/name", source)
  (source / "config.json").write_text("new")
  new = hub.add("org/name", source, revision="next")
  for revision, commit in (("", old), ("@main", old), ("@next", new),
                           (f"@{new}", new)):
    root = fetch(f"org/name{revision}")
    assert root.name == commit
    assert ((root / "config.json").read_text() == "new") == (commit == new)


def test_a_process_sees_one_commit_of_a_branch(hub, source):
  hub.moving = True
  commit = hub.add("org/name", source)
  assert fetch("org/name").name == commit
  assert hub.refs["models", "org/name"]["main"] != commit
  assert fetch("org/name", snapshots.WEIGHTS).name == commit
  fake_hub.forget()
  assert fetch("org/name").name != commit


def test_without_a_network_the_cache_is_used(hub, source, monkeypatch):
  commit = hub.add("org/name", source)
  fetch("org/name")
  fake_hub.forget()
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  assert fetch("org/name").name == commit
  # Weights were not downloaded: what is there must not pass for all.
  with pytest.raises(strict.ConfigError, match="is not complete in the cache"):
    fetch("org/name", snapshots.WEIGHTS)


def test_who_sends_a_token_reads_what_is_private(hub, source, monkeypatch):
  commit = hub.add("org/name", source)
  hub.private.add("org/name")
  with pytest.raises(strict.ConfigError, match="set HF_TOKEN"):
    fetch("org/name")
  monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
  assert fetch("org/name").name == commit


def gate(hub, monkeypatch):
  hub.gated.add("org/name")


def private(hub, monkeypatch):
  hub.private.add("org/name")


def offline(hub, monkeypatch):
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def unreachable(hub, monkeypatch):
  monkeypatch.setattr(
    huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(("name", "change", "said"), [
  ("org/absent", None, "{url} has no model 'org/absent' that can be read: "
   "correct the name, or set HF_TOKEN to a valid token if it is private"),
  ("org/name", private, "{url} has no model 'org/name' that can be read: "
   "correct the name, or set HF_TOKEN to a valid token if it is private"),
  ("org/name@v9", None, "{url}/org/name has no revision 'v9': name a branch, "
   "a tag or a commit"),
  ("org/name", gate, "{url}/org/name is gated: accept its terms there, and "
   "set HF_TOKEN to a token of your account"),
  ("org/name", offline, "HF_HUB_OFFLINE is set, and it is not complete in the "
   "cache {cache}: unset it to download"),
  ("org/name", unreachable, "http://127.0.0.1:9/org/name cannot be downloaded "
   "([Errno 111] Connection refused), and it is not complete in the cache "
   "{cache}: try again")])
def test_what_cannot_be_read_is_one_line_with_both_possibilities(
    name, change, said, hub, source, monkeypatch):
  hub.add("org/name", source)
  if change:
    change(hub, monkeypatch)
  with pytest.raises(strict.ConfigError) as error:
    fetch(name)
  said = said.format(url=hub.url, cache=huggingface_hub.constants.HF_HUB_CACHE)
  assert str(error.value) == (
    f"config.pretrained = '{name}': there is no such directory, and {said}; or "
    "name the directory of a downloaded checkpoint")


def test_the_processes_of_a_host_download_each_file_once(hub, source, tmp_path):
  commit = hub.add("org/name", source)
  running = [subprocess.Popen(
    [sys.executable, "-c", CODE, "org/name"], text=True,
    env=hub.environment(tmp_path / "home"), stdout=subprocess.PIPE)
    for _ in range(3)]
  places = {process.communicate(timeout=100)[0] for process in running}
  assert [process.returncode for process in running] == [0] * 3
  (place,) = places
  root = pathlib.Path(place.strip())
  assert root.is_relative_to(tmp_path / "home")
  assert root.name == commit
  assert hub.downloads() == dict.fromkeys(held(root), 1)


@pytest.fixture
def rows(hub, tmp_path):
  """A data set with two files of train, one in a folder, and one of test."""
  root = tmp_path / "rows"
  (root / "data" / "more").mkdir(parents=True)
  for name, first in (("data/train-0", 0), ("data/more/train-1", 10)):
    parquet.write_table(
      pa.table({"prompt": [f"{first + i}+1=" for i in range(2)]}),
      root / f"{name}.parquet")
  (root / "test.jsonl").write_text(json.dumps({"prompt": "1+1="}) + "\n")
  (root / "load.py").write_text("raise RuntimeError\n")
  return root


def prompts(patterns):
  found = files.load(patterns, bad_rows="error", field="task.train_files")
  return [row["prompt"] for row in found]


@pytest.mark.parametrize(("file", "want", "downloads"), [
  ("data/train-0.parquet", ["0+1=", "1+1="], ["data/train-0.parquet"]),
  ("data/*.parquet", ["0+1=", "1+1="], ["data/train-0.parquet"]),
  ("data/**/*.parquet", ["10+1=", "11+1=", "0+1=", "1+1="],
   ["data/more/train-1.parquet", "data/train-0.parquet"]),
  ("test.jsonl", ["1+1="], ["test.jsonl"])])
def test_rows_of_a_data_set(file, want, downloads, hub, rows):
  hub.add("org/rows", rows, kind="datasets")
  assert prompts(f"hf://datasets/org/rows/{file}") == want
  assert hub.downloads() == dict.fromkeys(downloads, 1)


def test_rows_are_of_the_revision_and_beside_local_files(hub, rows):
  hub.add("org/rows", rows, kind="datasets")
  local = rows / "test.jsonl"
  local.write_text(json.dumps({"prompt": "2+2="}) + "\n")
  commit = hub.add(
    "org/rows", rows, kind="datasets", revision="refs/convert/parquet")
  at = "hf://datasets/org/rows"
  assert prompts(f"{at}/test.jsonl, {local}") == ["1+1=", "2+2="]
  assert prompts(f"{at}@refs/convert/parquet/test.jsonl") == ["2+2="]
  assert prompts(f"{at}@{commit}/test.jsonl") == ["2+2="]
  local.write_text("")
  assert prompts(f"{at}@{commit}/test.jsonl") == ["2+2="]


@pytest.mark.parametrize(("path", "said"), [
  ("hf://datasets/org/rows/none.jsonl",
   "'hf://datasets/org/rows/none.jsonl' matches no file"),
  ("hf://datasets/org/absent/x.jsonl", "has no dataset 'org/absent'"),
  ("hf://datasets/org/rows@v9/x.jsonl",
   "/datasets/org/rows has no revision 'v9'"),
  ("hf://org/rows/x.jsonl", "does not have the form hf://datasets/ORG/NAME"),
  ("hf://datasets/org/rows", "does not have the form"),
  ("hf://datasets/org/rows/../x.jsonl", "does not have the form"),
  ("hf://datasets/org/rows/load.py", "unknown format")])
def test_a_data_set_that_cannot_be_read_names_the_setting(
    path, said, hub, rows):
  hub.add("org/rows", rows, kind="datasets")
  with pytest.raises(strict.ConfigError) as error:
    prompts(path)
  assert said in str(error.value)
  assert "config.task.train_files" in str(error.value)
