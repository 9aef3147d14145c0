"""What is published beside trained weights, and what is not."""

import json
import os

import published_model
import pytest
from safetensors import numpy as safetensors_numpy

from dlrl import models
from dlrl.models import hf_checkpoints
from dlrl.runtime import published_files


def exported(source, out):
  _, params = models.load(source, dtype="float32")
  hf_checkpoints.save(params, source, out)
  return sorted(p.name for p in out.iterdir())


WEIGHTS = [
  "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json",
  "model.safetensors.index.json.bak", "consolidated.00.pth", "model.gguf",
  "flax_model.msgpack", "tf_model.h5", "rust_model.ot", "model.onnx",
  "training_args.bin", "adapter_config.json", "adapter_model.bin",
  "optimizer.pt", "unknown.weights"]
TEXTS = ["NOTICE", "LICENSE", "README.md", "generation_config.json",
         "chat_template.jinja", "merges.txt", "tokenizer.model",
         "qwen.tiktoken", "configuration_x.py"]


def test_texts_are_copied_and_no_weights_of_the_source(tmp_path, capsys):
  source = published_model.write(tmp_path)
  for name in WEIGHTS[1:] + TEXTS:
    (source / name).write_bytes(b"x" * 10)
  (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
  (source / "assets").mkdir()
  (source / ".env").write_text("KEY=1")
  found = exported(source, tmp_path / "out")
  assert found == sorted([
    "config.json", "modeling.py", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", *TEXTS])
  said = capsys.readouterr().out
  assert all(name in said for name in [*WEIGHTS[1:], ".env"])


def test_links_to_elsewhere_are_not_published(tmp_path, capsys):
  secrets = tmp_path / "home"
  secrets.mkdir()
  (secrets / "id_rsa").write_text("PRIVATE")
  source = published_model.write(tmp_path)
  (source / "NOTICE").symlink_to(secrets / "id_rsa")
  (source / "more.md").symlink_to("../home/id_rsa")
  (source / "chain.py").symlink_to("NOTICE")
  (source / "dangling.py").symlink_to("nowhere")
  (source / "folder.txt").symlink_to(secrets)
  (source / "inside.py").symlink_to("modeling.py")
  found = exported(source, tmp_path / "out")
  assert found == ["config.json", "inside.py", "model.safetensors",
                   "modeling.py", "tokenizer.json", "tokenizer_config.json"]
  assert not (tmp_path / "out" / "inside.py").is_symlink()
  for path in (tmp_path / "out").iterdir():
    assert b"PRIVATE" not in path.read_bytes()
  assert "NOTICE" in capsys.readouterr().out


def test_a_snapshot_in_hugging_faces_cache_is_copied(tmp_path):
  model = published_model.write(tmp_path)
  root = tmp_path / "models--a--b"
  (root / "blobs").mkdir(parents=True)
  snapshot = root / "snapshots" / "0123abcd"
  snapshot.mkdir(parents=True)
  for number, file in enumerate(sorted(model.iterdir())):
    file.rename(root / "blobs" / str(number))
    (snapshot / file.name).symlink_to(f"../../blobs/{number}")
  (root / "blobs" / "key").symlink_to(tmp_path / "secret")
  (tmp_path / "secret").write_text("PRIVATE")
  (snapshot / "NOTICE").symlink_to("../../blobs/key")
  found = exported(snapshot, tmp_path / "out")
  assert "tokenizer.json" in found
  assert "NOTICE" not in found
  assert not any(p.is_symlink() for p in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("make", [
  lambda path: path.mkdir(), lambda path: path.touch(),
  lambda path: path.symlink_to("nowhere")])
def test_what_exists_is_not_replaced(make, tmp_path):
  make(tmp_path / "out")
  with (pytest.raises(FileExistsError),
        published_files.directory(tmp_path / "out")):
    pass


def test_what_is_beside_is_left_alone_and_failure_leaves_nothing(tmp_path):
  (tmp_path / "out.partial").mkdir()
  (tmp_path / "out.partial" / "thesis.tex").touch()
  with (pytest.raises(RuntimeError),
        published_files.directory(tmp_path / "out") as partial):
    (partial / "x").touch()
    raise RuntimeError
  assert os.listdir(tmp_path) == ["out.partial"]
  with published_files.directory(tmp_path / "out") as partial:
    (partial / "x").touch()
  assert sorted(os.listdir(tmp_path)) == ["out", "out.partial"]
  assert os.listdir(tmp_path / "out.partial") == ["thesis.tex"]
  (tmp_path / "plain").mkdir()
  assert ((tmp_path / "out").stat().st_mode
          == (tmp_path / "plain").stat().st_mode)


def test_the_weights_are_those_saved_and_complete(tmp_path):
  source = published_model.write(tmp_path)
  exported(source, tmp_path / "out")
  assert json.loads((tmp_path / "out" / "config.json").read_text()) == (
    published_model.QWEN | {"torch_dtype": "float32"})
  before, after = (safetensors_numpy.load_file(path / "model.safetensors")
                   for path in (source, tmp_path / "out"))
  assert before.keys() == after.keys()
