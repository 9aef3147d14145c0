"""Small objects of buckets, their local copies, and faults of the network."""

import pathlib
import types

import pytest

from dlrl import strict
from dlrl.buckets import mirror
from dlrl.buckets import objects
from dlrl.storage import output_paths


@pytest.fixture(autouse=True)
def patience(monkeypatch):
  """Gives up after a tenth of a second."""
  monkeypatch.setattr(objects, "_RETRIES", {
    "max_retries": 5, "initial_delay": "10ms", "max_delay": "20ms"})


def once(*faults, method="POST", name="run/a"):
  """Those faults, one for each request of this kind, then none."""
  left = list(faults)

  def fault(m, n):
    return left.pop(0) if left and (m, n) == (method, name) else None

  return fault


def refuse(text):
  return strict.FlagError("workdir", "URL", text)


def fresh(bucket, path="run"):
  """A local copy, as of a process of its own."""
  mirror._MIRRORS.clear()
  return mirror.local(f"{bucket}/{path}", refuse)


@pytest.mark.parametrize("url, says", [
  ("gs://bucket", ""), ("gs://bucket/a b", "must be gs://BUCKET/PATH"),
  ("gs://bucket/run-1.2_x=y,z@3:~+/", ""), ("/local/run", ""),
  ("gs://bucket/a//b", "must be"), ("gs://bucket/../b", "must be"),
  ("gs://bucket/a/.", "must be"), ("gs://bucket/a#b", "must be"),
  ("gs://bucket/a?b", "must be"), ("gs://bucket/a*", "must be"),
  ("gs://b", "must be"), ("gs://", "must be"), ("gs:///run", "must be"),
  ("gs://Bucket/run", "must be"), ("gs://bucket/é", "must be"),
  ("gs://bucket/run\n", "must be"), ("gs://bucket/...", "must be"),
  ("s3://bucket/run", "because Orbax"), ("hf://a/b", "because Orbax")])
def test_urls_that_name_a_directory_of_a_bucket(url, says):
  found = objects.problem(url)
  assert says in found
  assert bool(found) == bool(says)


@pytest.mark.parametrize("fault", [503, 429, 0.3, "cut", "lost"])
def test_a_fault_that_passes_is_not_noticed(fault, gcs, bucket):
  gcs.fault = once(fault, fault)
  first = objects.put(f"{bucket}/run", "a", b"1", objects.absent())
  gcs.fault = once(fault)
  second = objects.put(f"{bucket}/run", "a", b"2", first)
  gcs.fault = once(fault, method="GET")
  assert objects.get(f"{bucket}/run", "a") == (b"2", second)
  assert objects.get(f"{bucket}/run", "a", second) == (None, second)
  assert objects.get(f"{bucket}/run", "b") == (None, objects.absent())


def test_a_torn_upload_leaves_the_object_that_was_there(gcs, bucket):
  first = objects.put(f"{bucket}/run", "a", b"whole", objects.absent())
  gcs.fault = lambda method, name: "cut" if method == "POST" else None
  with pytest.raises(objects.BucketError, match="cannot be used"):
    objects.put(f"{bucket}/run", "a", b"more", first)
  assert gcs.files(bucket) == {"run/a": b"whole"}


def test_of_two_writers_the_second_learns_of_the_first(gcs, bucket):
  url = f"{bucket}/run"
  there = objects.put(url, "a", b"1", objects.absent())
  with pytest.raises(objects.ChangedError):
    objects.put(url, "a", b"2", objects.absent())
  objects.put(url, "a", b"3", there)
  with pytest.raises(objects.ChangedError, match="run/a was changed by"):
    objects.put(url, "a", b"4", there)
  assert gcs.files(bucket) == {"run/a": b"3"}


@pytest.mark.parametrize("name", ["gs://no-such-bucket/run", "status 401",
                                  "status 403"])
def test_a_bucket_that_cannot_be_used_is_named_in_one_line(name, gcs, bucket):
  if name.startswith("status"):
    status, name = int(name[-3:]), f"{bucket}/run"
    gcs.fault = lambda method, path: status
  with pytest.raises(strict.FlagError) as error:
    output_paths.path("workdir", name)
  assert str(error.value).startswith(f"--workdir={name}: ")
  assert ("no such bucket" if "no-such" in name else
          "gcloud auth application-default login") in str(error.value)
  assert "\n" not in str(error.value)


def test_a_bucket_that_cannot_be_reached_is_named_in_one_line(
    bucket, monkeypatch):
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
  with pytest.raises(objects.BucketError) as error:
    output_paths.path("workdir", f"{bucket}/run")
  assert str(error.value).startswith(f"{bucket}/run cannot be used (")
  assert "Could not connect" in str(error.value)
  assert "\n" not in str(error.value)


def test_without_the_package_its_name_is_told(bucket, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(strict.FlagError, match="pip install gcsfs"):
    output_paths.path("workdir", f"{bucket}/run")


def test_a_copy_has_the_small_files_and_shows_the_folders(gcs, bucket):
  for name in ("run/config.json", "run/warm_start/ab/metrics.jsonl", "run/lock",
               "run/checkpoints/4/state/d/x", "run/compiled/y", "other/z"):
    gcs.put(bucket[5:], name, name.encode())
  root = output_paths.path("workdir", f"{bucket}/run/")
  assert root is output_paths.path("workdir", f"{bucket}/run")
  found = {str(p.relative_to(root)): p.read_bytes()
           for p in root.rglob("*") if p.is_file()}
  assert found == {name: f"run/{name}".encode() for name in (
    "config.json", "warm_start/ab/metrics.jsonl")}
  assert (root / "checkpoints" / "4").is_dir()
  assert (root / "compiled").is_dir()
  assert mirror.remote(root / "checkpoints") == f"{bucket}/run/checkpoints"
  assert mirror.remote(root) == f"{bucket}/run"
  assert mirror.remote("/elsewhere") == "/elsewhere"
  assert mirror.shown(f"{root}/x: no") == f"{bucket}/run/x: no"


def test_names_cannot_lead_out_of_a_copy(gcs, bucket):
  for name in ("run/../out", "run//etc/out", "run/warm_start/../../out",
               "run/warm_start/../out", "run/.", "run/a\0b", "run/a\nb"):
    gcs.put(bucket[5:], name, b"x")
  root = fresh(bucket)
  assert list(root.rglob("*")) == []
  assert not (root.parent / "out").exists()
  assert not pathlib.Path("/etc/out").exists()


def test_what_has_changed_is_written_and_nothing_else(gcs, bucket):
  root = fresh(bucket)
  (root / "tensorboard").mkdir()
  (root / "a").write_bytes(b"1")
  (root / "tensorboard" / "b").write_bytes(b"2")
  mirror.push(root / "a")
  mirror.push(root / "none")
  mirror.push(root / "tensorboard")
  assert gcs.files(f"{bucket}/run") == {"a": b"1", "tensorboard/b": b"2"}
  before = len(gcs.log)
  mirror.push(root)
  assert len(gcs.log) == before
  (root / "a").write_bytes(b"11")
  mirror.push(root)
  assert gcs.log[before:] == [("POST", "run/a")]
  assert gcs.files(f"{bucket}/run")["a"] == b"11"


def test_a_copy_that_is_out_of_date_cannot_be_written(gcs, bucket):
  old = fresh(bucket)
  (old / "a").write_bytes(b"1")
  mirror.push(old / "a")
  stale = dict(mirror._MIRRORS)
  new = fresh(bucket)
  with (new / "a").open("ab") as file:
    file.write(b"2")
  mirror.push(new / "a")
  mirror._MIRRORS |= stale
  (old / "a").write_bytes(b"13")
  with pytest.raises(objects.ChangedError):
    mirror.push(old / "a")
  (old / "new").write_bytes(b"1")
  gcs.put(bucket[5:], "run/new", b"2")
  with pytest.raises(objects.ChangedError):
    mirror.push(old / "new")
  assert gcs.files(f"{bucket}/run") == {"a": b"12", "new": b"2"}


def test_a_copy_is_brought_up_to_date(gcs, bucket):
  for name in "abc":
    gcs.put(bucket[5:], f"run/{name}", b"1")
  root = fresh(bucket)
  gcs.put(bucket[5:], "run/a", b"2")
  gcs.put(bucket[5:], "run/d", b"3")
  del gcs.objects[bucket[5:], "run/b"]
  mirror.pull(root, refuse, seen=1e9)
  assert {p.name: (p.read_bytes(), p.stat().st_mtime)
          for p in root.iterdir()} == {
    "a": (b"2", 1e9), "c": (b"1", 1e9), "d": (b"3", 1e9)}
  before = len(gcs.log)
  mirror.push(root)
  assert len(gcs.log) == before  # its files are those of the bucket


def test_local_paths_ask_no_server(gcs, bucket, tmp_path):
  (tmp_path / "a").write_bytes(b"1")
  mirror.push(tmp_path)
  assert output_paths.path("workdir", tmp_path) == tmp_path
  assert gcs.log[-1:] != [("POST", "a")]
  assert gcs.files(bucket) == types.MappingProxyType({})
