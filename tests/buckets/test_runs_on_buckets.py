"""Runs, evaluations, exports and models on a bucket, as on a disk."""

import json
import pathlib
import sys
import tempfile

import fake_gcs
import huggingface_hub.constants
import jax
import numpy as np
import own_flags
import pytest
import runs
from checkpoints import abstract
from checkpoints import assert_same
from checkpoints import batches
from checkpoints import words
from main_runs import SHORT
from main_runs import STEPS
from main_runs import killed
from main_runs import start

from dlrl import evaluate
from dlrl import export
from dlrl import models
from dlrl import strict
from dlrl.buckets import mirror
from dlrl.buckets import models as bucket_models
from dlrl.buckets import objects
from dlrl.hub import snapshots
from dlrl.models import families
from dlrl.run import command
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import compile_cache
from dlrl.runtime import profile_window
from dlrl.storage import checkpoint
from dlrl.storage import disk_errors
from dlrl.storage import metrics

BGPO = str(runs.ROOT / "configs" / "bgpo.py")


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def copy(url):
  """What a process on another host reads."""
  fake_gcs.forget()
  return mirror.local(url, AssertionError)


@pytest.fixture(scope="module")
def whole(sudoku_dir, tmp_path_factory):
  """A run on a disk that nobody disturbed."""
  root = tmp_path_factory.mktemp("whole") / "run"
  start(root, sudoku_dir)
  return root


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Where downloaded models are kept."""
  monkeypatch.setattr(
    huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
  return tmp_path / "home"


def test_a_run_goes_on_on_another_host(
    whole, gcs, bucket, sudoku_dir, capsys, tmp_path):
  url = f"{bucket}/run"
  killed(4, url, sudoku_dir)
  between = gcs.files(url)
  assert checkpoint.steps(f"{url}/checkpoints") == [2]
  fake_gcs.forget()
  # Another config is refused, by the name that was typed.
  with pytest.raises(strict.FlagError) as error:
    start(url, sudoku_dir, "", {"seed": 7})
  assert "config.seed: 0 -> 7" in str(error.value)
  assert mirror.shown(str(error.value)).startswith(f"--workdir={url}: ")
  assert {name: data for name, data in gcs.files(url).items()
          if name != "lock"} == {
    name: data for name, data in between.items() if name != "lock"}
  fake_gcs.forget()
  start(url, sudoku_dir)
  root = copy(url)
  assert runs.timeless(root) == runs.timeless(whole)
  assert metrics.samples(root) == metrics.samples(whole)
  jax.tree.map(np.testing.assert_array_equal, runs.params_of(root),
               runs.params_of(whole))
  kept = {name.split("/")[0] for name in gcs.files(url)}
  assert kept == {p.name for p in whole.iterdir()}
  assert not list(root.glob("*.tmp"))
  first, second = (json.loads(line) for line in
                   gcs.files(url)["starts.jsonl"].splitlines())
  assert (first["step"], second["step"]) == (0, 2)
  assert first["start"] < second["last_seen"] <= second["start"]
  assert json.loads(between["lock"])["released"]
  # A third start has nothing to do, and says where it looked.
  fake_gcs.forget()
  capsys.readouterr()
  before = gcs.files(url)
  start(url, sudoku_dir)
  said = capsys.readouterr().out
  assert f"the run in {url} is finished" in said
  assert f"{tempfile.gettempdir()}/dlrl-" not in said
  assert {name: data for name, data in gcs.files(url).items()
          if name != "lock"} == {
    name: data for name, data in before.items() if name != "lock"}


def test_a_directory_of_other_files_is_refused(gcs, bucket, sudoku_dir):
  gcs.put(bucket[5:], "run/photos/1.jpg", b"x")
  with pytest.raises(strict.FlagError, match=r"not of a run \(photos\)"):
    start(f"{bucket}/run", sudoku_dir)
  assert list(gcs.files(bucket)) == ["run/photos/1.jpg"]


def test_a_run_starts_from_one_in_a_bucket(whole, gcs, bucket, sudoku_dir):
  url = f"{bucket}/other"
  gcs.add(url, whole)

  def first(init_from):
    cfg = runs.tiny(sudoku_dir, init_from=init_from)
    return setup_lib.make(cfg).init_params()

  for step in ("@2", ""):
    assert_same(first(f"{url}{step}"), first(f"{whole}{step}"))
  assert words(first(url)) != words(first(f"{url}@2"))
  for name, says in ((f"{url}@9", "available steps: 2, 4"),
                     (f"{bucket}/none", "no checkpoint"),
                     ("gs://absent/run", "no such bucket"),
                     ("s3://bucket/run", "because Orbax")):
    with pytest.raises(strict.ConfigError, match=says) as error:
      first(name)
    assert (error.value.field, error.value.value) == ("init_from", name)
  assert gcs.files(url).keys() == {
    str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}


def test_profiles_and_compiled_programs_are_kept_there(gcs, bucket):
  root = copy(f"{bucket}/run")
  window = profile_window.Window("1", root / "profile")
  with window:
    window.begin(1, None)
    window.begin(2, jax.numpy.zeros(3) + 1)
  assert any(name.startswith("profile/plugins/")
             for name in gcs.files(f"{bucket}/run"))
  cache = jax.config.values["jax_compilation_cache_dir"]
  try:
    jax.config.update("jax_compilation_cache_dir", None)
    compile_cache.keep(root / "compiled")
    assert jax.config.values["jax_compilation_cache_dir"] == (
      f"{bucket}/run/compiled")
  finally:
    jax.config.update("jax_compilation_cache_dir", cache)


def test_an_evaluation_of_a_run_in_a_bucket(
    whole, gcs, bucket, sudoku_dir, monkeypatch, capsys):
  url = f"{bucket}/run"
  gcs.add(url, whole)
  assert saved_params.settings(url).steps == STEPS

  def run(*more):
    fake_gcs.forget()
    argv = ["dlrl", f"--config={BGPO}:smoke", f"--workdir={url}", *(
      f"--config.{k}={v}" for k, v in (runs.TINY | SHORT | {
        "task.data_dir": sudoku_dir, "evaluation.size": 8}).items()), *more]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(
      evaluate.mesh_lib, "split_cpu", lambda *args: None)
    with own_flags.of("evaluate"):
      command.parse(argv)
      evaluate.run()
    return capsys.readouterr().out

  assert f"{url}/evaluation/results.md" in run()
  found = gcs.files(f"{url}/evaluation")
  assert found.keys() == {"completions.jsonl", "lock", "results.json",
                          "results.md", "settings.json"}
  assert len(found["completions.jsonl"].splitlines()) == 8
  origin = json.loads(found["results.json"])["settings"]["parameters"]
  assert origin == {"workdir": url, "step": 4}
  assert json.loads(found["lock"])["released"]
  # It goes on after what is there; not the whole of the last line is.
  name = bucket[5:], "run/evaluation/completions.jsonl"
  half = found["completions.jsonl"].splitlines(keepends=True)[:5]
  gcs.put(*name, b"".join(half)[:-7])
  assert "4 completions of length 16 exist already" in run()
  assert gcs.files(f"{url}/evaluation")["completions.jsonl"] == found[
    "completions.jsonl"]
  # Elsewhere, of another step.
  assert "out/results.md" in run(f"--out={bucket}/out", "--checkpoint=2")
  assert b'"step": 2' in gcs.files(f"{bucket}/out")["settings.json"]
  with pytest.raises(strict.FlagError, match="is not the directory of a run"):
    saved_params.settings(f"{bucket}/none")


def test_a_model_in_a_bucket_is_read_and_exported_there(
    published, gcs, bucket, home, sudoku_dir, tmp_path):
  source, url, out = (f"{bucket}/{name}" for name in ("tiny", "run", "out"))
  gcs.add(source, published)
  cfg = runs.tiny(sudoku_dir, pretrained=source, task__prompt_length=40)
  setup = setup_lib.make(cfg)
  _, want = models.load(published, dtype="float32")
  params = setup.init_params()
  jax.tree.map(np.testing.assert_array_equal, params, want)
  assert not list(home.rglob("*.py"))  # no code
  gcs.put(bucket[5:], "run/config.json",
          json.dumps(strict.to_json(cfg)).encode())
  changed = jax.tree.map(lambda x: x + 1, params)
  with checkpoint.Checkpoints(f"{url}/checkpoints") as saver:
    saver.save(3, {"params": changed}, batches(), {"base": ""})
  fake_gcs.forget()
  export.export(url, f"{out}/")
  assert max(gcs.objects, key=lambda key: gcs.objects[key][1]) == (
    bucket[5:], "out/config.json")  # the rest is there before it
  assert gcs.files(out).keys() == {p.name for p in published.iterdir()}
  assert gcs.files(out)["modeling.py"] == (
    published / "modeling.py").read_bytes()
  fake_gcs.forget()
  _, found = models.load(out, dtype="float32")
  jax.tree.map(np.testing.assert_array_equal, found, changed)
  before = gcs.files(out)
  with pytest.raises(strict.FlagError, match="exists; choose another"):
    export.export(url, out)
  assert gcs.files(out) == before
  export.export(url, str(tmp_path / "local"))
  assert {p.name: p.read_bytes() for p in (tmp_path / "local").iterdir()
          } == before


def fetch(url, patterns=snapshots.DESCRIPTION):
  return bucket_models.fetch(
    url, patterns, lambda text: strict.ConfigError("pretrained", url, text))


def test_a_model_is_downloaded_once_and_again_when_it_changes(
    published, gcs, bucket, home):
  url = f"{bucket}/tiny"
  gcs.add(url, published)
  gcs.put(bucket[5:], "tiny/more/config.json", b"{}")

  def asked():
    found = [name for method, name in gcs.log
             if method == "GET" and name == "tiny/tokenizer.json"]
    gcs.log.clear()
    return len(found)

  root = fetch(f"{url}/")
  assert (root / "config.json").read_bytes() == (
    published / "config.json").read_bytes()
  assert {p.name for p in root.iterdir()} == {
    p.name for p in published.iterdir()} & set(snapshots.DESCRIPTION)
  assert root.is_relative_to(home)
  assert asked()
  fake_gcs.forget()
  assert fetch(url, snapshots.WEIGHTS) == fetch(url) == root
  assert (root / "model.safetensors").exists()
  assert not asked()
  gcs.put(bucket[5:], "tiny/config.json", b"{}")
  assert fetch(url) == root  # a process sees one state
  fake_gcs.forget()
  assert (fetch(url) / "config.json").read_bytes() == b"{}"
  assert not list(home.rglob("*.partial"))


def test_a_model_that_changes_while_it_is_read_is_refused(
    published, gcs, bucket, home):
  url = f"{bucket}/tiny"
  gcs.add(url, published)
  fetch(url, ["config.json"])
  gcs.put(bucket[5:], "tiny/model.safetensors", b"other")
  with pytest.raises(strict.ConfigError, match="has changed while it was read"):
    fetch(url, snapshots.WEIGHTS)
  assert not list(home.rglob("*.safetensors"))
  assert not list(home.rglob("*.partial"))


@pytest.mark.parametrize("url, says", [
  ("gs://absent/tiny", "no such bucket"), ("/none", "there are no files"),
  ("gs://absent/a b", "must be gs://BUCKET/PATH")])
def test_a_model_that_is_not_there_is_named(url, says, bucket, home):
  url = url if "://" in url else bucket + url
  with pytest.raises(strict.ConfigError, match=says) as error:
    families.read_config(url)
  assert str(error.value).startswith(f"config.pretrained = {url!r}: ")


def numbered(step):
  w = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
  return {"params": {"w": jax.numpy.asarray(w)}}


def saved(url):
  """Checkpoints 1 to 3 there, each with another position of the data."""
  data = batches()
  with checkpoint.Checkpoints(f"{url}/checkpoints", keep=9) as saver:
    for step in (1, 2, 3):
      next(data)
      saver.save(step, numbered(step), data, {"at": step})


def test_a_damaged_checkpoint_is_set_aside_in_the_bucket(gcs, bucket, capsys):
  url = f"{bucket}/run"
  saved(url)
  name = max((key for key in gcs.objects if key[0] == bucket[5:]
              and "/3/state/ocdbt" in key[1]),
             key=lambda key: len(gcs.objects[key][0]))
  data = bytearray(gcs.objects[name][0])
  data[len(data) // 2] ^= 1
  gcs.put(*name, bytes(data))
  with checkpoint.Checkpoints(f"{url}/checkpoints", keep=9) as saver:
    state, meta, step = saver.restore_latest(
      abstract(numbered(0)), batches())
    assert (step, meta) == (2, {"at": 2})
    assert_same(state, numbered(2))
    assert "checkpoint 3 is damaged, continuing from 2" in (
      capsys.readouterr().out)
    saver.save(3, numbered(3), batches(), {"at": 3})
  assert checkpoint.steps(f"{url}/checkpoints") == [1, 2, 3]
  assert any(name.startswith("checkpoints/3.damaged/state/")
             for name in gcs.files(url))


@pytest.mark.parametrize("method, file", [
  ("GET", "state/ocdbt.process_0/"), ("POST", "state/d/")])
def test_a_bucket_that_cannot_be_used_damages_nothing(
    method, file, gcs, bucket):
  url = f"{bucket}/run"
  saved(url)
  before = gcs.files(url).keys()
  with checkpoint.Checkpoints(f"{url}/checkpoints", keep=9) as saver:
    gcs.fault = lambda m, name: 403 if (
      m == method and f"checkpoints/{3 + (m == 'POST')}/{file}" in name
      ) else None
    with pytest.raises(
        objects.BucketError if method == "GET" else Exception) as error:
      if method == "GET":
        saver.restore_latest(abstract(numbered(0)), batches())
      else:
        saver.save(4, numbered(4), batches(), {})
        saver.wait()
    gcs.fault = lambda m, name: None
  said = disk_errors.of_bucket(error.value)
  assert said and "\n" not in said
  assert checkpoint.steps(f"{url}/checkpoints") == [1, 2, 3]
  assert before <= gcs.files(url).keys()
  with checkpoint.Checkpoints(f"{url}/checkpoints", keep=9) as saver:
    assert saver.restore_latest(abstract(numbered(0)), batches())[2] == 3


def test_what_a_killed_save_left_is_no_checkpoint(gcs, bucket):
  url = f"{bucket}/run"
  saved(url)
  del gcs.objects[bucket[5:], "run/checkpoints/3/commit_success.txt"]
  assert checkpoint.steps(f"{url}/checkpoints") == [1, 2]
  with checkpoint.Checkpoints(f"{url}/checkpoints", keep=9) as saver:
    assert saver.latest == 2
    saver.save(3, numbered(3), batches(), {"at": 3})
  assert checkpoint.steps(f"{url}/checkpoints") == [1, 2, 3]
  params = checkpoint.load_params(
    f"{url}/checkpoints", abstract(numbered(0))["params"])
  assert_same(params, numbered(3)["params"])


def test_a_checkpoint_that_another_process_makes_is_seen(gcs, bucket):
  saved(f"{bucket}/other")
  url = f"{bucket}/run/checkpoints"
  with checkpoint.Checkpoints(url) as saver:
    saver.save(1, numbered(1), batches(), {})
  assert checkpoint.steps(url) == [1]
  for name, data in gcs.files(f"{bucket}/other/checkpoints/2").items():
    gcs.put(bucket[5:], f"run/checkpoints/2/{name}", data)
  assert checkpoint.steps(url) == [1, 2]
  assert pathlib.Path(checkpoint._path(url, None)).name == "2"
