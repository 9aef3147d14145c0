"""Adapters in PEFT's format, under the names of every family."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dlrl import config
from dlrl import strict
from dlrl.models import families
from dlrl.models import lora
from dlrl.models import peft
from dlrl.models import transformer

LORA = config.LoraConfig(rank=3, alpha=6.0)
LLADA = {
  "model_type": "llada", "embedding_size": 24, "d_model": 16, "n_layers": 2,
  "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 20, "rope_theta": 100.0,
  "rms_norm_eps": 1e-5, "weight_tying": False, "mask_token_id": 2}
QWEN = {
  "model_type": "Dream", "hidden_size": 16, "intermediate_size": 20,
  "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1,
  "rms_norm_eps": 1e-6, "rope_theta": 100.0, "tie_word_embeddings": False,
  "vocab_size": 24, "mask_token_id": 2}
# The modules of a layer's matrices, written out from the published models.
MODULES = {
  "llada": ("model.transformer.blocks.{}.", {
    "attention/q": "q_proj", "attention/k": "k_proj", "attention/v": "v_proj",
    "attention/out": "attn_out", "mlp/gate": "ff_proj", "mlp/up": "up_proj",
    "mlp/down": "ff_out"}),
  "Dream": ("model.layers.{}.", {
    "attention/q": "self_attn.q_proj", "attention/k": "self_attn.k_proj",
    "attention/v": "self_attn.v_proj", "attention/out": "self_attn.o_proj",
    "mlp/gate": "mlp.gate_proj", "mlp/up": "mlp.up_proj",
    "mlp/down": "mlp.down_proj"}),
}


def written(tmp_path, hf, cfg=LORA):
  """Saves an adapter; (adapter, tensors by name, adapter_config.json)."""
  source = tmp_path / "source"
  source.mkdir()
  (source / "config.json").write_text(json.dumps(hf))
  architecture, _ = families.read_config(source)
  model = transformer.build(architecture, 2, cfg)
  rng = np.random.default_rng(0)
  adapter = lora.shapes(networks.shapes_of(model), cfg)
  adapter = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), adapter)
  peft.save(adapter, cfg, source, tmp_path / "out")
  tensors = safetensors_numpy.load_file(
    tmp_path / "out" / "adapter_model.safetensors")
  return adapter, tensors, json.loads(
    (tmp_path / "out" / "adapter_config.json").read_text())


@pytest.mark.parametrize("hf", [LLADA, QWEN], ids=lambda hf: hf["model_type"])
def test_every_layer_has_its_matrices_under_the_names_that_peft_looks_for(
    hf, tmp_path):
  adapter, tensors, _ = written(tmp_path, hf)
  stem, modules = MODULES[hf["model_type"]]
  wanted = {}
  for path, module in modules.items():
    block, name = path.split("/")
    parts = adapter["layers"][block][name]
    for layer in range(2):
      full = f"base_model.model.{stem.format(layer)}{module}"
      wanted[f"{full}.lora_A.weight"] = np.asarray(parts["a"][layer]).T
      wanted[f"{full}.lora_B.weight"] = np.asarray(parts["b"][layer]).T
  assert tensors.keys() == wanted.keys()
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, wanted[name])
    # A is [rank, in] and B is [out, rank].
    assert tensor.shape["lora_A" not in name] == 3


MIXTURE = QWEN | {
  "model_type": "sdar_moe", "num_experts": 3, "num_experts_per_tok": 2,
  "moe_intermediate_size": 4, "norm_topk_prob": True}
LLADA2 = MIXTURE | {
  "model_type": "llada2_moe", "rotary_dim": 4, "n_group": 1, "topk_group": 1,
  "first_k_dense_replace": 1, "num_shared_experts": 1,
  "routed_scaling_factor": 1.0}


def test_every_expert_has_an_adapter_of_its_own(tmp_path):
  adapter, tensors, _ = written(tmp_path, MIXTURE)
  a = np.asarray(adapter["layers"]["mlp"]["experts"]["down"]["a"])
  stem = "base_model.model.model.layers.1.mlp.experts"
  found = [name for name in tensors if name.startswith(stem)]
  assert len(found) == 3 * 3 * 2
  for expert in range(3):
    np.testing.assert_array_equal(
      tensors[f"{stem}.{expert}.down_proj.lora_A.weight"], a[1, expert].T)


def test_layers_count_from_the_first_dense_one(tmp_path):
  shared = dataclasses.replace(LORA, targets="layers/mlp/shared/up")
  adapter, tensors, _ = written(tmp_path, LLADA2, shared)
  name = ("base_model.model.model.layers.1.mlp.shared_experts.up_proj."
          "lora_B.weight")
  assert len(tensors) == 2
  np.testing.assert_array_equal(tensors[name], np.asarray(
    adapter["layers"]["mlp"]["shared"]["up"]["b"][0]).T)


def test_matrices_that_are_one_there_are_refused(tmp_path):
  with pytest.raises(strict.ConfigError, match=(
      r"lora\.targets = 'layers/attention/q': matches .*layers/attention/q, "
      r"which is a part of .*query_key_value.*; export the sum, without")):
    written(tmp_path, LLADA2, dataclasses.replace(
      LORA, targets="layers/attention/q"))
  assert not (tmp_path / "out").exists()


def test_the_config_gives_peft_its_factor_and_whole_names(tmp_path):
  some = config.LoraConfig(rank=3, alpha=6.0, targets="layers/mlp/down")
  _, tensors, cfg = written(tmp_path, LLADA, some)
  assert cfg["peft_type"] == "LORA"
  assert cfg["lora_alpha"] / cfg["r"] == some.scale == 2
  assert not (cfg["use_rslora"] or cfg["use_dora"] or cfg["fan_in_fan_out"])
  assert cfg["bias"] == "none"
  assert cfg["base_model_name_or_path"] == str(tmp_path / "source")
  # PEFT adapts modules whose name is a target or ends in a dot and a target.
  # LLaDA's head, model.transformer.ff_out, must not be among them.
  targets = cfg["target_modules"]
  assert targets == [f"model.transformer.blocks.{i}.ff_out" for i in (0, 1)]
  assert {f"base_model.model.{t}.lora_{x}.weight"
          for t in targets for x in "AB"} == tensors.keys()


def test_what_exists_is_not_overwritten(tmp_path):
  written(tmp_path, LLADA)
  with pytest.raises(FileExistsError):
    peft.save({}, LORA, tmp_path / "source", tmp_path / "out")
  assert not (tmp_path / "out.partial").exists()
