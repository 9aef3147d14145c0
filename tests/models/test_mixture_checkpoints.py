"""Checkpoints of mixtures of experts: what is read, written and refused."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from mixtures import BIAS
from mixtures import LLADA2
from mixtures import LLADA_MOE
from mixtures import SDAR
from mixtures import published_tensors
from mixtures import write
from safetensors import numpy as safetensors_numpy

from dlrl import config
from dlrl import models
from dlrl import strict
from dlrl.models import hf_checkpoints
from dlrl.models.published import files as files_lib
from dlrl.runtime import mesh as mesh_lib


def refused(root, *parts):
  with pytest.raises(strict.ArgumentError) as error:
    models.load(root)
  text = str(error.value)
  assert text.startswith(f"models.load(directory={str(root)!r}): ")
  for part in parts:
    assert part in text
  return text


def same(got, want):
  assert got.dtype == want.dtype and got.shape == want.shape
  assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


KINDS = {"sdar": SDAR, "llada2": LLADA2, "llada moe": LLADA_MOE}
kinds = pytest.mark.parametrize("hf", KINDS.values(), ids=KINDS)


@pytest.mark.slow
@kinds
def test_experts_are_stacked_and_turned(tmp_path, hf):
  tensors = write(tmp_path / "a", hf, parts=3)
  model, params = models.load(tmp_path / "a")
  dense = model.cfg.experts.dense_layers
  assert dense == (hf is LLADA2)
  mlp = params["layers"]["mlp"]
  for i in range(hf["num_hidden_layers"] - dense):
    stem = f"model.layers.{i + dense}.mlp."
    same(mlp["router"]["kernel"][i], tensors[f"{stem}gate.weight"].T)
    for name in ("gate", "up", "down"):
      for e in range(8):
        same(mlp["experts"][name]["kernel"][i, e],
             tensors[f"{stem}experts.{e}.{name}_proj.weight"].T)


@pytest.mark.slow
def test_llada2s_fused_rows_dense_layer_and_shared_expert(tmp_path):
  tensors = write(tmp_path / "a")
  model, params = models.load(tmp_path / "a")
  assert model.cfg == config.ModelConfig(
    vocab_size=20, width=8, layers=3, heads=4, kv_heads=2, head_dim=4,
    mlp_width=12, rope_theta=6e5, rotary_dim=2, norm_eps=1e-6, qk_norm=True,
    block_length=32, param_dtype="bfloat16", compute_dtype="bfloat16",
    experts=config.ExpertsConfig(
      8, 3, 6, shared_width=6, dense_layers=1, router="sigmoid", scale=2.5,
      groups=4, groups_per_token=2))
  for i in range(3):
    stack, at = (("dense_layers", 0) if i == 0 else ("layers", i - 1))
    attention = params[stack]["attention"]
    fused = tensors[f"model.layers.{i}.attention.query_key_value.weight"]
    for name, first, end in (("q", 0, 16), ("k", 16, 24), ("v", 24, 32)):
      same(attention[name]["kernel"][at], fused[first:end].T)
    same(attention["k_norm"]["scale"][at],
         tensors[f"model.layers.{i}.attention.key_layernorm.weight"])
  same(params["dense_layers"]["mlp"]["down"]["kernel"][0],
       tensors["model.layers.0.mlp.down_proj.weight"].T)
  shared = params["layers"]["mlp"]["shared"]
  same(shared["up"]["kernel"][1],
       tensors["model.layers.2.mlp.shared_experts.up_proj.weight"].T)
  bias = params["layers"]["mlp"]["router"]["bias"]
  same(bias[1], tensors[BIAS.format(2)].astype(np.float32))


ROUND_TRIPS = {
  "sdar": (SDAR, jnp.bfloat16), "llada2 of 2.0": (LLADA2, jnp.bfloat16),
  "llada2 of 2.1": (LLADA2, np.float32), "llada moe": (LLADA_MOE, None)}


@pytest.mark.slow
@pytest.mark.parametrize(("hf", "bias"), ROUND_TRIPS.values(), ids=ROUND_TRIPS)
@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_an_export_is_what_was_read_to_the_bit(
    tmp_path, hf, bias, shard_bytes):
  tensors = write(tmp_path / "a", hf, bias, parts=2)
  _, params = models.load(tmp_path / "a")
  hf_checkpoints.save(
    params, tmp_path / "a", tmp_path / "b", shard_bytes=shard_bytes)
  written = {}
  paths = sorted((tmp_path / "b").glob("*.safetensors"))
  assert (len(paths) > 3) == (shard_bytes == 2000)
  for path in paths:
    part = safetensors_numpy.load_file(path)
    assert not written.keys() & part.keys()
    written |= part
    # The library's own writer makes the same file of these tensors.
    assert path.read_bytes() == safetensors_numpy.save(
      part, metadata={"format": "pt"})
  assert written.keys() == tensors.keys()
  for name, want in tensors.items():
    same(written[name], want)
  if len(paths) > 1:
    index = json.loads((tmp_path / "b" / files_lib.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(
      x.nbytes for x in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
  # And what its family implies.
  blocks = {"sdar_moe": {"block_size": 4}, "llada2_moe": {"block_size": 32}}
  assert json.loads((tmp_path / "b" / "config.json").read_text()) == (
    hf | blocks.get(hf["model_type"], {}))


@pytest.mark.slow
def test_a_bias_of_fp32_stays_as_exact_as_it_is(tmp_path):
  tensors = write(tmp_path / "a", bias=np.float32)
  _, params = models.load(tmp_path / "a")
  same(params["layers"]["mlp"]["router"]["bias"][0], tensors[BIAS.format(1)])


@pytest.mark.slow
@kinds
def test_each_device_gets_its_experts_and_the_same_numbers(tmp_path, hf):
  tensors = write(tmp_path / "a", hf, np.float32)
  _, want = models.load(tmp_path / "a")
  mesh = mesh_lib.make(config.MeshConfig(
    data=1, expert=2, fsdp=2, tensor=2))
  _, params = models.load(tmp_path / "a", mesh=mesh)
  jax.tree.map(same, params, want)
  kernel = params["layers"]["mlp"]["experts"]["up"]["kernel"]
  dense = hf["num_hidden_layers"] - 2
  seen = set()
  for shard in kernel.addressable_shards:
    _, some, ins, outs = shard.index
    seen.add(some.start)
    assert shard.data.shape == (2, 4, 4, 3)
    for i in range(2):
      for e in range(4):
        name = (f"model.layers.{i + dense}.mlp.experts."
                f"{some.start + e}.up_proj.weight")
        same(shard.data[i, e], tensors[name].T[ins, outs])
  assert seen == {0, 4}
  hf_checkpoints.save(params, tmp_path / "a", tmp_path / "b")
  written = safetensors_numpy.load_file(tmp_path / "b" / files_lib.SINGLE)
  for name, array in tensors.items():
    same(written[name], array)


def test_a_file_is_opened_for_a_layers_experts_and_not_for_each(
    tmp_path, monkeypatch):
  write(tmp_path / "a", SDAR)
  opened, real = [], safetensors.safe_open

  def opens(*args):
    opened.append(args)
    return real(*args)

  monkeypatch.setattr(safetensors, "safe_open", opens)
  _, params = models.load(tmp_path / "a")
  layers = sum(len(x) for x in jax.tree.leaves(params["layers"]))
  assert len(opened) <= layers + 3 + 2


EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
FUSED = "model.layers.2.attention.query_key_value.weight"


@pytest.mark.parametrize(("change", "line"), [
  (lambda x: x.pop(EXPERT), f"missing: {EXPERT}"),
  (lambda x: x.update({EXPERT: x[EXPERT][1:]}),
   f"misshapen: {EXPERT} is [5, 8], expected [6, 8]"),
  (lambda x: x.update({EXPERT: x[EXPERT].astype(np.int8)}),
   f"misshapen: {EXPERT} is of I8"),
  (lambda x: x.update({FUSED: x[FUSED][8:]}),
   f"misshapen: {FUSED} is [24, 8], expected [32, 8]"),
  (lambda x: x.update({EXPERT.replace(".3.", ".8."): x[EXPERT]}),
   "unknown: model.layers.1.mlp.experts.8.up_proj.weight"),
  (lambda x: x.update({EXPERT.replace(".1.", ".0."): x[EXPERT]}),
   "unknown: model.layers.0.mlp.experts.3.up_proj.weight"),
  (lambda x: x.pop(BIAS.format(2)), f"missing: {BIAS.format(2)}")])
def test_experts_that_do_not_fit_are_named(tmp_path, change, line):
  write(tmp_path / "a", change=change)
  assert len(refused(tmp_path / "a", f"  {line}").splitlines()) == 2


def test_all_experts_missing_are_a_short_list(tmp_path):
  def change(tensors):
    for name in [name for name in tensors if ".experts." in name]:
      del tensors[name]

  write(tmp_path / "a", change=change)
  assert len(refused(
    tmp_path / "a", "missing: and 28 more").splitlines()) == 22


@pytest.mark.parametrize(("hf", "changes", "named"), [
  (LLADA2, {"topk_group": 5}, "topk_group is 5 in its config.json; must be "
   "at most n_group = 4"),
  (LLADA2, {"n_group": 3}, "n_group is 3 in its config.json; must divide "
   "num_experts = 8"),
  (LLADA2, {"n_group": 8, "topk_group": 4}, "num_experts_per_tok is 3"),
  (LLADA2, {"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
  (LLADA2, {"num_experts_per_tok": 9}, "at most num_experts = 8"),
  (LLADA2, {"first_k_dense_replace": 3}, "first_k_dense_replace is 3 in its "
   "config.json; must be below num_hidden_layers = 3"),
  (LLADA2, {"first_k_dense_replace": -1}, "first_k_dense_replace is -1"),
  (LLADA2, {"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25 in "
   "its config.json, and rotary_dim 2 of head_dim = 4"),
  (LLADA2, {"rotary_dim": 6}, "rotary_dim is 6"),
  (LLADA2, {"rotary_dim": 1}, "rotary_dim is 1"),
  (LLADA2, {"rotary_dim": ...}, "no field 'rotary_dim'"),
  (LLADA2, {"score_function": "softmax"}, "score_function is 'softmax'"),
  (LLADA2, {"router_dtype": "bf16"}, "router_dtype is 'bf16'"),
  (LLADA2, {"routed_scaling_factor": 0}, "routed_scaling_factor is 0"),
  (LLADA2, {"moe_router_enable_expert_bias": False},
   "moe_router_enable_expert_bias is False"),
  (LLADA2, {"num_shared_experts": 1.5}, "num_shared_experts is 1.5"),
  (LLADA2, {"use_qkv_bias": True}, "use_qkv_bias is True"),
  (LLADA2, {"using_split_qkv_in_self_attention": True},
   "using_split_qkv_in_self_attention is True"),
  (LLADA2, {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
  (LLADA2, {"num_experts": 0}, "num_experts is 0"),
  (LLADA2, {"moe_intermediate_size": 10**9}, "moe_intermediate_size is 10"),
  (SDAR, {"mlp_only_layers": [0]}, "mlp_only_layers is [0]"),
  (SDAR, {"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
  (SDAR, {"num_experts": None}, "num_experts is None"),
  (SDAR, {"num_experts_per_tok": 9}, "num_experts_per_tok is 9"),
  (SDAR, {"moe_intermediate_size": ...}, "no field 'moe_intermediate_size'"),
  (SDAR, {"block_size": -4}, "block_size is -4"),
  (SDAR, {"mask_token_id": ...}, "151669 is usual"),
  (LLADA_MOE, {"norm_topk_prob": True}, "norm_topk_prob is True"),
  (LLADA_MOE, {"moe_layer_freq": [0, 1]}, "moe_layer_freq is [0, 1]"),
  (LLADA_MOE, {"router_num_group": 4}, "router_num_group is 4"),
  (LLADA_MOE, {"routed_scaling_factor": 2.5}, "routed_scaling_factor is 2.5"),
  (LLADA_MOE, {"shared_expert_intermediate_size": 6},
   "shared_expert_intermediate_size is 6"),
  (LLADA_MOE, {"qk_layernorm": False}, "qk_layernorm is False"),
  (LLADA_MOE, {"expert_intermediate_size": None},
   "expert_intermediate_size is None"),
  (LLADA_MOE, {"architectures": ["LLaDAModelLM"]}, "no field 'n_heads'")])
def test_configs_of_mixtures_that_make_no_sense(tmp_path, hf, changes, named):
  write(tmp_path / "a", hf, **changes)
  text = refused(tmp_path / "a", named)
  assert "\n" not in text and len(text) < 1000


@pytest.mark.shared_data
def test_every_tensor_of_llada2_mini_has_one_place(shared):
  root = shared / "hf/LLaDA2.0-mini"
  ours = published_tensors(root)
  index = json.loads((root / files_lib.INDEX).read_text())
  assert len(ours) == 14_813
  assert ours.keys() == index["weight_map"].keys()
  size = 2 * sum(map(math.prod, ours.values()))
  assert size == index["metadata"]["total_size"] == 32_511_286_784
  # 2.1 has the bias in fp32.
  bias = [shape for name, shape in ours.items() if name.endswith("_bias")]
  assert size + 2 * sum(map(math.prod, bias)) == 32_511_296_512


@pytest.mark.shared_data
def test_sdar_30b_a3b_has_the_published_size(shared, tmp_path):
  hf = json.loads((shared / "golden/sdar_moe_tiny/config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(hf | {
    "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "vocab_size": 151_936}))
  ours = published_tensors(tmp_path)
  assert len(ours) == 18_867
  assert 2 * sum(map(math.prod, ours.values())) == 61_064_245_248
