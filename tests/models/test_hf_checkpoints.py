"""Loading and saving of published checkpoints."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dlrl import config
from dlrl import models
from dlrl import strict
from dlrl.diffusion import model_input
from dlrl.diffusion import token_logps
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import transformer
from dlrl.models.published import files as files_lib
from dlrl.models.published import tensors as tensors_lib
from dlrl.runtime import mesh as mesh_lib

GOLDEN = ("llada_tiny", "dream_tiny", "qwen3_a2d_tiny")
golden = pytest.mark.parametrize("name", GOLDEN)
QWEN = {
  "model_type": "a2d-qwen3", "hidden_act": "silu", "hidden_size": 8,
  "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 4,
  "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
  "rope_theta": 1e6, "tie_word_embeddings": False, "vocab_size": 17,
  "mask_token_id": 16}


def read(shared, name):
  model, params = models.load(shared / "golden" / name, dtype="float32")
  return model, params, np.load(shared / "golden" / name / "golden.npz")


def assert_close(got, want):
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def shifted(model, logits):
  """Moves Dream's raw logits to the columns of the tokens they predict."""
  if not model.cfg.shifted:
    return logits
  return np.concatenate([logits[:, :1], logits[:, :-1]], 1)


@pytest.mark.shared_data
@golden
def test_golden_logits(shared, name):
  model, params, data = read(shared, name)
  logits = jax.jit(model.logits)(params, data["input_ids"])
  assert logits.dtype == jnp.float32
  want = shifted(model, data["logits"])
  assert_close(logits, want)
  if model.cfg.shifted:
    assert_close(logits, data["logits_shifted"])
  ids, p = jnp.asarray(data["input_ids"]), 13  # the canvas follows the prompt
  row = model_input.assemble(ids[:, p:], ids[:, :p], jnp.full(3, p))
  hidden = jax.jit(model.hidden)(params, *row)
  assert_close(hidden @ model.unembed(params),
               np.concatenate([want[:, p:], want[:, :p]], 1))


@pytest.mark.shared_data
@golden
def test_golden_logits_of_padded_rows(shared, name):
  model, params, data = read(shared, name)
  ids, live, want = (data[k] for k in (
    "input_ids_padded", "attention_mask", "logits_padded"))
  # Padding moves from the left to the end; RoPE depends on differences only.
  order = np.argsort(1 - live, axis=1, kind="stable")
  logits = jax.jit(model.logits)(
    params, np.take_along_axis(ids, order, 1), live.sum(1))
  for row in range(3):
    n, first = live[row].sum(), live[row].argmax()
    there = want[row, first:first + n]
    assert_close(logits[row, :n], shifted(model, there[None])[0])


@pytest.mark.shared_data
@golden
def test_golden_rows_of_different_prompts_with_the_canvas_first(shared, name):
  model, params, data = read(shared, name)
  ids, live, want = (data[k] for k in (
    "input_ids_padded", "attention_mask", "logits_padded"))
  t = 11  # the last live tokens of each row are its canvas
  sizes = live.sum(1) - t
  prompt, canvas = np.zeros((3, 40 - t), int), np.zeros((3, t), int)
  for row in range(3):
    real = ids[row][live[row] == 1]
    prompt[row, :sizes[row]], canvas[row] = real[:-t], real[-t:]
  hidden = jax.jit(model.hidden)(params, *model_input.assemble(
    jnp.asarray(canvas), jnp.asarray(prompt), jnp.asarray(sizes)))
  logits = hidden[:, :t] @ model.unembed(params)
  for row in range(3):
    there = want[row][live[row] == 1]
    assert_close(logits[row], shifted(model, there[None])[0, -t:])


@pytest.mark.shared_data
@golden
def test_golden_gradients_under_the_published_names(shared, name):
  model, params, data = read(shared, name)
  ids = jnp.asarray(data["input_ids"][:1])
  positions = jnp.arange(ids.shape[1])[None]

  def total(params):
    hidden = model.hidden(params, ids, positions, jnp.array([ids.shape[1]]))
    return jnp.sum(token_logps.token_logps(
      hidden, model.unembed(params), jnp.asarray(data["target_ids"][:1]),
      jnp.asarray(data["is_mask"][:1]), chunk=16).logps)

  value, grads = jax.jit(jax.value_and_grad(total))(params)
  np.testing.assert_allclose(value, data["grad_sum_logp"], rtol=1e-5)
  _, hf = families.read_config(shared / "golden" / name)
  family = families.FAMILIES[hf["model_type"]]
  checked = 0
  for path, leaf in jax.tree.leaves_with_path(grads):
    path = networks.path_of(path)
    layers = leaf if tensors_lib.stacked(path) else leaf[None]
    for i, grad in enumerate(layers):
      want = data.get("grad." + family.names[path].format(i))
      if want is not None:
        grad = grad.T if tensors_lib.transposed(path) else grad
        np.testing.assert_allclose(
          grad, want, rtol=0, atol=1e-4 * np.abs(want).max())
        checked += 1
  assert checked == sum(key.startswith("grad.") for key in data.files) > 5


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", (*GOLDEN, "sdar_tiny"))
def test_a_round_trip_is_exact(shared, name, tmp_path):
  source = shared / "golden" / name
  for dtype, shard in (("float32", 10**9), ("float32", 50_000)):
    out = tmp_path / f"{dtype}-{shard}"
    model, params = models.load(source, dtype=dtype)
    hf_checkpoints.save(params, source, out, shard_bytes=shard)
    files = sorted(out.glob("*.safetensors"))
    assert (len(files) > 3) == (shard < 10**9)
    written = {}
    for file in files:
      part = safetensors_numpy.load_file(file)
      assert not written.keys() & part.keys()
      written |= part
    want = safetensors_numpy.load_file(source / "model.safetensors")
    assert written.keys() == want.keys()
    for key, array in want.items():
      np.testing.assert_array_equal(written[key], array)
      assert written[key].dtype == array.dtype
    again, params_again = models.load(out, dtype=dtype)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, params_again, params)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "parameters"), [
  ("LLaDA-8B-Instruct", 8_015_581_184),
  ("Dream-v0-Instruct-7B", 7_615_616_512)])
def test_every_published_tensor_has_one_place(shared, name, parameters):
  root = shared / "hf" / name
  cfg, hf = families.read_config(root)
  model = transformer.build(cfg, hf["mask_token_id"])
  shapes = networks.shapes_of(model)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters
  index = json.loads((root / files_lib.INDEX).read_text())
  assert index["metadata"]["total_size"] == 2 * parameters
  ours = tensors_lib.published(
    families.FAMILIES[hf["model_type"]].names,
    {networks.path_of(path): leaf.shape
     for path, leaf in jax.tree.leaves_with_path(shapes)})
  assert ours.keys() == index["weight_map"].keys()
  flat = [networks.path_of(p) for p, _ in jax.tree.leaves_with_path(shapes)]
  stacked = sum(map(tensors_lib.stacked, flat))
  assert len(ours) == stacked * cfg.layers + len(flat) - stacked  # all distinct


def directory(path, **changes):
  """Writes a random checkpoint, for tests without the reference data."""
  path.mkdir()
  hf = QWEN | changes
  (path / "config.json").write_text(json.dumps(hf))
  (path / "tokenizer.json").write_text("{}")
  cfg, _ = families.read_config(path)
  model = transformer.build(cfg, hf["mask_token_id"])
  params = networks.random_params(model)
  shapes = {networks.path_of(path): leaf.shape
            for path, leaf in jax.tree.leaves_with_path(params)}
  wanted = tensors_lib.published(
    families.FAMILIES[hf["model_type"]].names, shapes)
  rng = np.random.default_rng(0)
  tensors = {name: rng.normal(size=shape).astype(np.float32)
             for name, shape in wanted.items()}
  safetensors_numpy.save_file(tensors, path / files_lib.SINGLE)
  return tensors


def test_matrices_are_turned_and_layers_stacked(tmp_path):
  tensors = directory(tmp_path / "a")
  model, params = models.load(tmp_path / "a", dtype="float32")
  assert model.cfg == config.ModelConfig(
    vocab_size=17, width=8, layers=3, heads=4, kv_heads=2, head_dim=4,
    mlp_width=12, rope_theta=1e6, norm_eps=1e-6, qk_norm=True)
  assert model.mask_id == 16
  layers = params["layers"]
  for i in range(3):
    stem = f"model.layers.{i}."
    np.testing.assert_array_equal(
      layers["mlp"]["down"]["kernel"][i],
      tensors[stem + "mlp.down_proj.weight"].T)
    np.testing.assert_array_equal(
      layers["attention"]["k_norm"]["scale"][i],
      tensors[stem + "self_attn.k_norm.weight"])
  np.testing.assert_array_equal(
    params["embed"]["embedding"], tensors["model.embed_tokens.weight"])
  np.testing.assert_array_equal(
    params["unembed"]["kernel"], tensors["lm_head.weight"].T)


def test_a_mesh_gets_its_shards_and_the_same_numbers(tmp_path):
  directory(tmp_path / "a", vocab_size=16, mask_token_id=15)
  _, want = models.load(tmp_path / "a", dtype="float32")
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  _, params = models.load(tmp_path / "a", dtype="float32", mesh=mesh)
  jax.tree.map(np.testing.assert_array_equal, params, want)
  kernel = params["layers"]["mlp"]["up"]["kernel"]
  assert {s.data.shape for s in kernel.addressable_shards} == {(3, 2, 6)}


def test_bfloat16_parameters_are_rounded_once(tmp_path):
  directory(tmp_path / "a")
  _, exact = models.load(tmp_path / "a", dtype="float32")
  model, params = models.load(tmp_path / "a")
  assert model.cfg.compute_dtype == "bfloat16"
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(
    a, b.astype(jnp.bfloat16)), params, exact)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_other_files_are_kept_and_nothing_is_overwritten(tmp_path):
  directory(tmp_path / "a")
  _, params = models.load(tmp_path / "a")
  hf_checkpoints.save(params, tmp_path / "a", tmp_path / "b")
  assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
  hf = json.loads((tmp_path / "b" / "config.json").read_text())
  assert hf == QWEN | {"torch_dtype": "bfloat16"}
  assert not list(tmp_path.glob("*.partial"))
  with pytest.raises(FileExistsError, match="choose another name"):
    hf_checkpoints.save(params, tmp_path / "a", tmp_path / "b")
  with pytest.raises(ValueError, match="do not fit"):
    hf_checkpoints.save(
      params | {"more": jnp.zeros(2)}, tmp_path / "a", tmp_path / "c")


def test_tensors_that_do_not_fit_are_listed(tmp_path):
  tensors = directory(tmp_path / "a")
  file = tmp_path / "a" / files_lib.SINGLE
  bad = dict(tensors)
  bad["lm_head.wait"] = bad.pop("lm_head.weight")
  name = "model.layers.1.self_attn.q_proj.weight"
  bad[name] = bad[name][:-1]
  safetensors_numpy.save_file(bad, file)
  with pytest.raises(ValueError, match="does not fit") as error:
    models.load(tmp_path / "a")
  for line in ("missing: lm_head.weight", "unknown: lm_head.wait",
               f"misshapen: {name} is [15, 8], expected [16, 8]"):
    assert line in str(error.value)
  file.write_bytes(file.read_bytes()[:-7])
  with pytest.raises(ValueError, match="damaged or cut short"):
    models.load(tmp_path / "a")
  file.unlink()
  with pytest.raises(FileNotFoundError):
    models.load(tmp_path / "a")


def test_an_index_is_believed_only_as_far_as_it_is_right(tmp_path):
  tensors = directory(tmp_path / "a")
  _, params = models.load(tmp_path / "a", dtype="float32")
  hf_checkpoints.save(
    params, tmp_path / "a", tmp_path / "b", shard_bytes=2000)
  path = tmp_path / "b" / files_lib.INDEX
  index = json.loads(path.read_text())
  assert index["metadata"]["total_size"] == sum(
    x.nbytes for x in tensors.values())
  placed = index["weight_map"]
  del placed["model.norm.weight"]
  path.write_text(json.dumps(index))
  with pytest.raises(ValueError, match="differ"):
    models.load(tmp_path / "b")
  placed["model.norm.weight"] = "../a/model.safetensors"
  path.write_text(json.dumps(index))
  with pytest.raises(ValueError, match="not a file beside it"):
    models.load(tmp_path / "b")


@pytest.mark.parametrize(("changes", "message"), [
  ({"model_type": "llama"}, "'llama' in its config.json; supported: llada"),
  ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
  ({"rope_scaling": {"type": "yarn"}}, "rope_scaling is"),
  ({"attention_bias": True}, "attention_bias is True"),
])
def test_what_the_network_does_not_stand_for_is_refused(
    changes, message, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(QWEN | changes))
  with pytest.raises(strict.ConfigError, match=message):
    models.load(tmp_path)


def test_a_config_with_a_missing_field_or_none_at_all_is_refused(tmp_path):
  with pytest.raises(strict.ArgumentError, match=(
      r"^models.load\(directory='.*'\): cannot read .*config.json")):
    models.load(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(
    {k: v for k, v in QWEN.items() if k != "hidden_size"}))
  with pytest.raises(strict.ConfigError, match="no field 'hidden_size'"):
    models.load(tmp_path)


LARGE = QWEN | {
  "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16,
  "num_key_value_heads": 16, "head_dim": 128, "num_hidden_layers": 22,
  "model_type": "a2d-qwen2", "torch_dtype": "bfloat16"}
MIXTURE = {
  "model_type": "sdar_moe", "head_dim": 128, "hidden_act": "silu",
  "hidden_size": 2048, "intermediate_size": 8192, "moe_intermediate_size": 512,
  "norm_topk_prob": True, "num_attention_heads": 16, "num_experts": 64,
  "num_experts_per_tok": 8, "num_hidden_layers": 7, "num_key_value_heads": 4,
  "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
  "vocab_size": 1024, "mask_token_id": 1023, "torch_dtype": "bfloat16"}
PASS = """
import re, sys
import jax
from dlrl import models
from dlrl.models import hf_checkpoints

def peak():
  # Not getrusage, whose maximum includes the parent before exec.
  status = open("/proc/self/status").read()
  return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

model, params = models.load(sys.argv[1], dtype="bfloat16")
jax.block_until_ready(params)
held = sum(x.nbytes for x in jax.tree.leaves(params))
layer = sum(x.nbytes // x.shape[0] for x in jax.tree.leaves(params["layers"]))
loaded = peak()
open("/proc/self/clear_refs", "w").write("5")  # the peak is that from now on
hf_checkpoints.save(params, sys.argv[1], sys.argv[2])
print(held, layer, loaded, peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize("hf", [LARGE, MIXTURE], ids=["MLP", "experts"])
def test_three_gigabytes_pass_through_little_host_memory(tmp_path, hf):
  """On CPUs the arrays are in host memory, so their size is subtracted."""
  root = tmp_path / "a"
  root.mkdir()
  (root / "config.json").write_text(json.dumps(hf))
  cfg, _ = families.read_config(root, dtype="bfloat16")
  model = transformer.build(cfg, hf["mask_token_id"])
  shapes = hf_checkpoints._shapes(networks.shapes_of(model))
  tensors, end = {}, 0
  for name, shape in tensors_lib.published(
    families.FAMILIES[hf["model_type"]].names, shapes).items():
    begin, end = end, end + 2 * int(np.prod(shape))
    tensors[name] = {
      "dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
  assert end > 2.9e9
  header = json.dumps(tensors).encode()
  with open(root / "model.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    file.truncate(8 + len(header) + end)  # zeros that take no disk
  try:
    done = subprocess.run(
      [sys.executable, "-c", PASS, str(root), str(tmp_path / "b")],
      capture_output=True, text=True, check=False, timeout=300)
    size = (tmp_path / "b" / files_lib.SINGLE).stat().st_size
  finally:
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
  assert done.returncode == 0, done.stderr
  held, layer, loaded, saved = map(int, done.stdout.splitlines()[-1].split())
  assert held == end < size
  assert loaded - held < layer + 2**30
  assert saved - held < layer + 2**30
