"""SDAR's checkpoints: what is read, kept, known, and refused."""

import dataclasses
import json
import shutil

import jax
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl import models
from dlrl import strict
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import hf_tokenizer
from dlrl.models import transformer
from dlrl.models.published import tensors as tensors_lib
from dlrl.runtime import mesh as mesh_lib


def write(root, published, **changes):
  """Copies a tiny checkpoint of Qwen3 as one of SDAR; ... removes a field."""
  shutil.copytree(published, root)
  hf = json.loads((root / "config.json").read_text()) | {
    "model_type": "sdar", "block_size": 4} | changes
  (root / "config.json").write_text(json.dumps(
    {k: v for k, v in hf.items() if v is not ...}))
  return root


def refused(root, *parts, **options):
  with pytest.raises(strict.ArgumentError) as error:
    models.load(root, **options)
  assert str(error.value).startswith("models.load(")
  for part in parts:
    assert part in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_checkpoint_of_qwen3_with_blocks_is_read_and_exported(
    published, tmp_path):
  root = write(tmp_path / "sdar", published)
  (root / "generation_config.json").write_text('{"eos_token_id": [37, 39]}')
  model, params = models.load(root, dtype="float32")
  same, want = models.load(published, dtype="float32")
  assert model.cfg == dataclasses.replace(same.cfg, block_length=4)
  assert model.mask_id == 41
  jax.tree.map(np.testing.assert_array_equal, params, want)
  hf_checkpoints.save(params, root, tmp_path / "out")
  again, params_again = models.load(tmp_path / "out", dtype="float32")
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, params_again, params)
  assert json.loads((tmp_path / "out" / "config.json").read_text()) == (
    json.loads((root / "config.json").read_text()))
  assert hf_tokenizer.load(tmp_path / "out").ends == {37, 39}


@pytest.mark.slow
def test_a_mesh_gets_its_shards(published, tmp_path):
  root = write(tmp_path / "sdar", published)
  _, want = models.load(root, dtype="float32")
  mesh = mesh_lib.make(config.MeshConfig(2, 4, 1))
  _, params = models.load(root, dtype="float32", mesh=mesh)
  jax.tree.map(np.testing.assert_array_equal, params, want)
  kernel = params["layers"]["mlp"]["up"]["kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {(1, 4, 16)}


@pytest.mark.slow
def test_what_a_config_leaves_out_is_known_or_given(published, tmp_path):
  root = write(tmp_path / "a", published, block_size=..., mask_token_id=...)
  refused(root, "no field 'mask_token_id', and 151669 is usual", "48")
  model, _ = models.load(root, mask_id=np.int64(40))
  assert (model.mask_id, model.cfg.block_length) == (40, 4)
  model, _ = models.load(root, mask_id=40, block_length=np.int32(8))
  assert model.cfg.block_length == 8  # without a warning: nothing contradicts
  root = write(
    tmp_path / "b", published, block_size=None, mask_token_id=None,
    vocab_size=151936)
  cfg, hf = families.read_config(root)
  assert (cfg.block_length, hf["mask_token_id"]) == (4, 151669)
  # Other families have no usual id, and may be given one as well.
  root = tmp_path / "qwen"
  write(root, published, model_type="a2d-qwen3", block_size=...,
        mask_token_id=...)
  refused(root, "no field 'mask_token_id'")
  assert models.load(root, mask_id=3)[0].mask_id == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_a_block_length_other_than_the_checkpoints_warns(published, tmp_path):
  root = write(tmp_path / "sdar", published)
  assert models.load(root, block_length=4)[0].cfg.block_length == 4
  with pytest.warns(UserWarning) as found:
    model, _ = models.load(root, block_length=8)
  assert model.cfg.block_length == 8
  assert len(found) == 1
  text = str(found[0].message)
  assert "block_length is 8, but" in text and "blocks of 4" in text
  assert found[0].filename == __file__
  assert models.load(root, mask_id=7)[0].mask_id == 7


@pytest.mark.parametrize(("options", "match"), [
  ({"block_length": 0}, "block_length=0): must be an integer of at least 1"),
  ({"block_length": -4}, "block_length=-4)"),
  ({"block_length": 4.0}, "block_length=4.0)"),
  ({"block_length": True}, "block_length=True)"),
  ({"block_length": "4"}, "block_length='4')"),
  ({"block_length": 2**40}, "block_length=1099511627776)"),
  ({"block_length": 2**20}, "block_size is 1048576"),
  ({"mask_id": -1}, "mask_id=-1): must be an integer of at least 0"),
  ({"mask_id": 1.5}, "mask_id=1.5)"),
  ({"mask_id": 48}, "mask_id is 48; must be below the vocabulary's 48")])
def test_arguments_that_make_no_sense_are_refused(
    published, tmp_path, options, match):
  refused(write(tmp_path / "sdar", published), match, **options)


def test_full_attention_has_no_block_length(published):
  refused(published, "block_length is 4", "'a2d-qwen3' have no blocks",
          block_length=4)


@pytest.mark.parametrize(("changes", "match"), [
  ({"block_size": 0}, "block_size is 0"),
  ({"block_size": 2.5}, "block_size is 2.5"),
  ({"block_size": True}, "block_size is True"),
  ({"block_size": [4]}, "block_size is [4]"),
  ({"attention_bias": True}, "attention_bias is True"),
  ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
  ({"use_sliding_window": True}, "use_sliding_window is True"),
  ({"num_experts": 128}, "num_experts is 128"),
  ({"model_type": "sdar_x"}, "supported: llada, Dream, a2d-qwen2, a2d-qwen3"),
  ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is")])
def test_what_is_not_implemented_is_refused(
    published, tmp_path, changes, match):
  refused(write(tmp_path / "sdar", published, **changes), match)


def ends(root, listed):
  (root / "generation_config.json").write_text(
    json.dumps({"eos_token_id": listed}))
  return hf_tokenizer.load(root).ends


def test_all_listed_ends_end_an_answer(published, tmp_path):
  root = write(tmp_path / "sdar", published)
  assert hf_tokenizer.load(root).ends == {37}
  assert ends(root, None) == ends(root, []) == ends(root, 37) == {37}
  assert ends(root, 39) == {37, 39}
  assert ends(root, [40, 37, 39]) == {37, 39, 40}
  assert ends(root, [41]) == {37}  # the mask token ends nothing
  assert hf_tokenizer.load(root).decode([1, 2, 37, 3]) == (
    hf_tokenizer.load(root).decode([1, 2]))


@pytest.mark.parametrize("listed", [
  "37", 37.0, True, -1, 99, 2**64, [37, None], [[37]], {"a": 37}, [37, 99]])
def test_ends_that_are_no_tokens_are_refused(published, tmp_path, listed):
  root = write(tmp_path / "sdar", published)
  with pytest.raises(strict.ArgumentError, match=(
      r"eos_token_id is .* in its generation_config.json; must be the id")):
    ends(root, listed)


@pytest.mark.shared_data
@pytest.mark.parametrize(("changes", "size"), [
  # Number of bytes in bf16 in the published indices of 4B and 8B.
  ({"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "intermediate_size": 9728}, 8_822_848_512),
  ({"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
    "intermediate_size": 12288}, 16_381_470_720)])
def test_published_configs_have_the_published_sizes(
    shared, tmp_path, changes, size):
  hf = json.loads((shared / "hf/SDAR-1dot7B-Chat/config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(hf | changes))
  cfg, hf = families.read_config(tmp_path)
  assert (cfg.block_length, hf["mask_token_id"]) == (4, 151669)
  shapes = networks.shapes_of(transformer.build(cfg, hf["mask_token_id"]))
  tensors = tensors_lib.published(
    families.FAMILIES["sdar"].names, {
    networks.path_of(path): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(shapes)})
  assert len(tensors) == 399
  assert 2 * sum(map(np.prod, tensors.values())) == size


@pytest.mark.shared_data
def test_the_published_tokenizer_has_two_ends_and_qwens_template(shared):
  tokenizer = hf_tokenizer.load(shared / "hf/SDAR-1dot7B-Chat")
  assert tokenizer.ends == {151643, 151645}
  assert (tokenizer.mask_id, tokenizer.pad_id) == (151669, 151643)
  ids = tokenizer.prompt("What is 2 + 3?")
  assert tokenizer.decode_all(ids) == (
    "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n")
  with pytest.raises(ValueError, match="contains the mask token"):
    tokenizer.encode("a <|MASK|> b")
