"""Checkpoints from elsewhere: what is read, and one error about all else."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dlrl import models
from dlrl import strict
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models.published import files as files_lib

QWEN = {
  "model_type": "a2d-qwen3", "hidden_act": "silu", "hidden_size": 8,
  "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 4,
  "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
  "rope_theta": 1e6, "tie_word_embeddings": True, "vocab_size": 17,
  "mask_token_id": 16}
LLADA = {
  "model_type": "llada", "d_model": 8, "n_layers": 2, "n_heads": 2,
  "n_kv_heads": None, "mlp_hidden_size": 12, "vocab_size": 15,
  "embedding_size": 17, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
  "weight_tying": False, "mask_token_id": 16}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tensors_of(**changes):
  """Random tensors of a tiny Qwen3, by the names in published checkpoints."""
  rng = np.random.default_rng(0)
  shapes = {EMBEDDING: (17, 8), "model.norm.weight": (8,)}
  for i in range(2):
    stem = f"model.layers.{i}."
    shapes |= {stem + name: shape for name, shape in {
      "input_layernorm.weight": (8,), "post_attention_layernorm.weight": (8,),
      "mlp.gate_proj.weight": (12, 8), "mlp.up_proj.weight": (12, 8),
      "mlp.down_proj.weight": (8, 12), "self_attn.q_proj.weight": (16, 8),
      "self_attn.k_proj.weight": (8, 8), "self_attn.v_proj.weight": (8, 8),
      "self_attn.o_proj.weight": (8, 16), "self_attn.q_norm.weight": (4,),
      "self_attn.k_norm.weight": (4,)}.items()}
  return {name: rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()} | changes


def write(root, config=QWEN, tensors=None, **changes):
  """Writes a checkpoint whose config has `changes`; ... removes a field."""
  hf = {k: v for k, v in (config | changes).items() if v is not ...}
  (root / "config.json").write_text(json.dumps(hf))
  safetensors_numpy.save_file(
    tensors_of() if tensors is None else tensors, root / files_lib.SINGLE)
  return root


def refused(root, *parts):
  """The one error of `models.load`, which names its argument and `parts`."""
  with pytest.raises(strict.ArgumentError) as error:
    models.load(root)
  text = str(error.value)
  assert text.startswith(f"models.load(directory={str(root)!r}): ")
  for part in parts:
    assert part in text
  return text


@pytest.mark.slow
def test_a_tied_model_may_store_its_head_if_it_is_the_embedding(tmp_path):
  tensors = tensors_of()
  _, want = models.load(write(tmp_path, tensors=tensors), dtype="float32")
  write(tmp_path, tensors=tensors | {HEAD: tensors[EMBEDDING].copy()})
  model, params = models.load(tmp_path, dtype="float32")
  assert "unembed" not in params
  np.testing.assert_array_equal(
    params["embed"]["embedding"], want["embed"]["embedding"])
  np.testing.assert_array_equal(model.unembed(params), tensors[EMBEDDING].T)
  # transformers keeps one of two shared tensors, not always the embedding.
  del tensors[EMBEDDING]
  head = np.asarray(want["embed"]["embedding"])
  write(tmp_path, tensors=tensors | {HEAD: head})
  _, params = models.load(tmp_path, dtype="float32")
  np.testing.assert_array_equal(params["embed"]["embedding"], head)


@pytest.mark.parametrize("change", [
  lambda x: x + np.eye(*x.shape, -16, dtype=x.dtype), lambda x: x[:-1],
  lambda x: x[0]])
def test_a_head_that_differs_from_the_embedding_is_refused(tmp_path, change):
  tensors = tensors_of()
  write(tmp_path, tensors=tensors | {HEAD: change(tensors[EMBEDDING])})
  refused(tmp_path, HEAD, EMBEDDING, "two different tensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", [
  "model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_stored_rotary_frequencies_are_not_parameters(tmp_path, name):
  _, want = models.load(write(tmp_path), dtype="float32")
  write(tmp_path, tensors=tensors_of(**{name: np.ones(2, np.float32)}))
  _, params = models.load(tmp_path, dtype="float32")
  np.testing.assert_array_equal(
    params["layers"]["mlp"]["up"]["kernel"],
    want["layers"]["mlp"]["up"]["kernel"])


@pytest.mark.parametrize("changes", [
  {"rope_theta": ..., "rope_parameters": {"rope_theta": 1000000,
                                          "rope_type": "default"}},
  {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e6}},
  {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6, "type": None}},
  {"rope_theta": 1000000, "rope_parameters": {"rope_theta": 1e6}},
  {"rope_scaling": {"type": "default"}}, {"rope_scaling": None},
  {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1}},
  {"layer_types": ["full_attention"] * 2, "sliding_window": None},
  {"use_sliding_window": None}, {"dtype": "bfloat16"},
  {"partial_rotary_factor": 1.0}, {"quantization_config": None},
  {"head_dim": None, "hidden_size": 16}, {"num_key_value_heads": None}])
def test_ways_of_saying_what_the_network_does(tmp_path, changes):
  write(tmp_path, **changes)
  cfg, _ = families.read_config(tmp_path)
  assert (cfg.rope_theta, cfg.head_dim, cfg.layers) == (1e6, 4, 2)
  assert cfg.kv_heads == (4 if "num_key_value_heads" in changes else 2)


@pytest.mark.parametrize("changes, named", [
  ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
   "1000000.0 and 10000.0"),
  ({"rope_theta": ...}, "no field 'rope_theta'"),
  ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                        "rope_theta": 1e6}}, "rope_parameters is"),
  ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
   "rope_parameters is"),
  ({"rope_parameters": {"rope_type": "default", "type": "linear"}},
   "rope_parameters is"),
  ({"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
   "rope_parameters is"),
  ({"rope_parameters": {"rope_theta": 1e6, "factor": 4.0}},
   "rope_parameters is"),
  ({"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1"),
  ({"rope_parameters": {"rope_theta": "1e6"}}, "rope_theta is '1e6'"),
  ({"rope_parameters": []}, "rope_parameters is []"),
  ({"rope_scaling": {"rope_type": "dynamic"}}, "rope_scaling is"),
  ({"rope_scaling": False}, "rope_scaling is False"),
  ({"layer_types": ["sliding_attention"] * 2}, "layer_types is"),
  ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
  ({"layer_types": ["full_attention"]}, "layer_types is"),
  ({"layer_types": "full_attention"}, "layer_types is"),
  ({"use_sliding_window": True}, "use_sliding_window is True"),
  ({"use_sliding_window": 0}, "use_sliding_window is 0"),
  ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
  ({"quantization_config": {"bits": 4}}, "quantization_config is"),
  ({"head_dim": 3}, "heads of size 3"),
  ({"head_dim": None, "hidden_size": 10}, "must divide hidden_size = 10"),
  ({"num_key_value_heads": 3}, "do not divide the 4"),
  ({"mask_token_id": 17}, "below the vocabulary's 17"),
  ({"mask_token_id": ...}, "no field 'mask_token_id'")])
def test_what_the_network_does_not_do_is_refused(tmp_path, changes, named):
  refused(write(tmp_path, **changes), named)


@pytest.mark.parametrize("changes, named", [
  ({"multi_query_attention": True}, "multi_query_attention is True"),
  ({"clip_qkv": 8.0}, "clip_qkv is 8.0"), ({"alibi": 0}, "alibi is 0"),
  ({"embedding_size": 12}, "at least vocab_size = 15"),
  ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is"),
  ({"n_heads": 3}, "must divide d_model = 8")])
def test_llada_says_it_in_other_words(tmp_path, changes, named):
  write(tmp_path, LLADA)
  assert families.read_config(tmp_path)[0].vocab_size == 17
  refused(write(tmp_path, LLADA, **changes), named)


# Fields of config.json that the network is built from.
COUNTS = ("hidden_size", "intermediate_size", "num_attention_heads",
          "num_hidden_layers", "num_key_value_heads", "vocab_size", "head_dim")
LLADA_COUNTS = ("d_model", "n_layers", "n_heads", "n_kv_heads",
                "mlp_hidden_size", "embedding_size")
NO_NUMBER = ("8", "", True, [8], {}, math.nan, math.inf, -math.inf, "\ud800")
NO_COUNT = (*NO_NUMBER, 0, -1, 10**9, 10**400, -10**400, 2.5)
NO_BOOLEAN = ("no", "true", 0, 1, None, [], math.nan)


@pytest.mark.parametrize("config, field, value", [
  *[(QWEN, name, value) for name in COUNTS for value in NO_COUNT],
  *[(QWEN, name, ...) for name in COUNTS if name != "head_dim"],
  *[(LLADA, name, value) for name in LLADA_COUNTS for value in NO_COUNT],
  *[(QWEN, "mask_token_id", value) for value in (*NO_COUNT, None) if value],
  *[(hf, name, value) for hf in (QWEN, LLADA) for name in (
      "rms_norm_eps", "rope_theta") for value in (
      *NO_NUMBER, ..., None, 0, -1e-6, 10**400)],
  *[(QWEN, "tie_word_embeddings", value) for value in (*NO_BOOLEAN, ...)],
  *[(LLADA, "weight_tying", value) for value in (*NO_BOOLEAN, ...)],
  *[(QWEN, "model_type", value) for value in (
      ..., None, 1, ["llada"], {}, "LLADA", "a\x1b[2Jb")],
], ids=lambda x: None if isinstance(x, dict) else repr(x)[:20])
def test_each_field_is_read_by_type_and_range(tmp_path, config, field, value):
  text = refused(write(tmp_path, config, **{field: value}), field)
  assert len(text) < 1000
  assert text.isprintable()


def test_all_that_is_wrong_with_a_config_is_said_at_once(tmp_path):
  refused(write(tmp_path, num_hidden_layers=10**9, rms_norm_eps=None,
                hidden_act="gelu", rope_scaling={"type": "linear"}),
          "num_hidden_layers is 1000000000", "in 1..1024; ",
          "rms_norm_eps is None", "hidden_act is 'gelu'", "rope_scaling is")


NO_OBJECT = {
  "empty": b"", "space": b" \n", "cut": b'{"a": 1', "text": b'"a"',
  "list": b"[]", "null": b"null", "number": b"1", "words": b"<html>",
  "twice": b'{"vocab_size": 1, "vocab_size": 2}', "comment": b"{} // no",
  "nested": b'{"a":' * 100_000, "digits": b'{"a": ' + b"1" * 10_000 + b"}",
  "latin": b'{"a": "\xe9"}', "zeros": bytes(1000), "nan": b"nan",
  "gzip": b"\x1f\x8b\x08\x00"}


@pytest.mark.parametrize("content", NO_OBJECT.values(), ids=NO_OBJECT)
@pytest.mark.parametrize("name", ["config.json", files_lib.INDEX])
def test_a_file_that_holds_no_object_is_refused(tmp_path, name, content):
  write(tmp_path)
  (tmp_path / name).write_bytes(content)
  refused(tmp_path, str(tmp_path / name))


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
  path = write(tmp_path) / "config.json"
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
  assert families.read_config(tmp_path)[0].width == 8


@pytest.mark.parametrize("make", [
  lambda path: path.mkdir(), lambda path: path.symlink_to(path),
  lambda path: path.symlink_to("gone"), os.mkfifo])
def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path, make):
  path = write(tmp_path) / "config.json"
  path.unlink()
  make(path)
  refused(tmp_path, str(path))



@pytest.mark.parametrize("directory", [
  "~nobody-of-this-name/model", "a\0b", "x" * 5000, "GSAI-ML/LLaDA-8B"])
def test_a_directory_that_cannot_be_is_refused(directory):
  with pytest.raises(strict.ArgumentError) as error:
    models.load(directory)
  assert "name the directory of a downloaded checkpoint" in str(error.value)


@pytest.mark.parametrize("dtype", [
  "int8", "float16", "float64", "bf16", "", None, 1, jnp.int32, "\ud800"],
  ids=ascii)
def test_other_dtypes_are_refused(tmp_path, dtype):
  with pytest.raises(strict.ArgumentError, match=r"^models\.load\(dtype="):
    models.load(write(tmp_path), dtype=dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.dtype("bfloat16")])
def test_a_dtype_may_be_an_object(tmp_path, dtype):
  model, params = models.load(write(tmp_path), dtype=dtype)
  assert model.cfg.param_dtype == "bfloat16"
  assert params["norm"]["scale"].dtype == dtype


def index_of(tensors, **changes):
  return dict.fromkeys(tensors, files_lib.SINGLE) | changes


@pytest.mark.parametrize("weight_map, named", [
  (None, "weight_map"), ([], "weight_map"), ({}, "weight_map"),
  ("model.safetensors", "weight_map"), (1, "weight_map"),
  *[(index_of(tensors_of(), **{EMBEDDING: value}), "weight_map")
    for value in (None, 1, [], {}, True, "\ud800")],
  *[(index_of(tensors_of(), **{EMBEDDING: value}), "not a file beside it")
    for value in ("", ".", "..", "/", "../model.safetensors", "a/b", "a\0b",
                  "/etc/passwd", "./model.safetensors", "model.safetensors\n",
                  "\x1b[2J", "x" * 300, "\u00e9" * 200)],
  (index_of(tensors_of(), more="model.safetensors"), "missing: more"),
  (index_of(tensors_of(), **{EMBEDDING: "other.safetensors"}),
   "is in model.safetensors, not in other.safetensors")])
def test_each_kind_of_wrong_index_is_refused(tmp_path, weight_map, named):
  write(tmp_path)
  safetensors_numpy.save_file(
    {"x": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
  if weight_map and "other" in str(weight_map):
    weight_map["x"] = "other.safetensors"
  (tmp_path / files_lib.INDEX).write_text(
    json.dumps({"metadata": {}, "weight_map": weight_map}))
  refused(tmp_path, named)


def test_a_tensor_in_two_files_is_refused(tmp_path):
  tensors = tensors_of()
  write(tmp_path)
  safetensors_numpy.save_file(
    {EMBEDDING: tensors[EMBEDDING]}, tmp_path / "more.safetensors")
  (tmp_path / files_lib.INDEX).write_text(json.dumps({
    "weight_map": index_of(tensors, **{EMBEDDING: "more.safetensors"})}))
  refused(tmp_path, EMBEDDING, "more.safetensors", "model.safetensors")


def header(text):
  return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("change", [
  lambda data: b"", lambda data: data[:7], lambda data: data[:100],
  lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"<html>",
  lambda data: bytes(len(data)), lambda data: b"\xff" * 8 + data[8:],
  lambda data: header(b"{"), lambda data: header(b"[]"),
  lambda data: header(b'{"a":1}'),
  lambda data: header(
    b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}'),
  lambda data: header(
    b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
], ids=range(13))
def test_damaged_tensors_are_refused(tmp_path, change):
  path = write(tmp_path) / files_lib.SINGLE
  path.write_bytes(change(path.read_bytes()))
  refused(tmp_path, str(path), "damaged or cut short")


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, bool])
def test_numbers_that_need_a_scale_are_no_parameters(tmp_path, dtype):
  tensors = tensors_of()
  write(tmp_path, tensors=tensors | {
    EMBEDDING: tensors[EMBEDDING].astype(dtype)})
  refused(tmp_path, f"misshapen: {EMBEDDING} is of ")


def test_an_export_names_the_dtype_as_its_source_does(tmp_path):
  source = tmp_path / "a"
  source.mkdir()
  _, params = models.load(write(source, dtype="float32"))
  hf_checkpoints.save(params, source, tmp_path / "b")
  hf = json.loads((tmp_path / "b" / "config.json").read_text())
  assert hf == QWEN | {"dtype": "bfloat16"}
