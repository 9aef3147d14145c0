"""The presets of block-diffusion models are valid and of published shapes."""

import importlib

import jax
import networks
import pytest

from configs import bgpo
from dlrl import validate
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.presets import llada2
from dlrl.presets import sdar

METHODS = ("bgpo", "cj_grpo", "ebpo", "trace_rl")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", sdar.SHAPES)
def test_presets_are_valid(method, size):
  get_config = importlib.import_module(f"configs.{method}").get_config
  for task in sdar.TASKS:
    for end in ("", sdar.ONE_GPU):
      cfg = validate.from_dict(get_config(f"sdar_{size}_{task}{end}"))
      assert cfg.learn.forward_process.startswith("block_")
      assert cfg.learn.tokens == "until_eos"
      assert bool(cfg.lora.rank) == bool(end)


@pytest.mark.parametrize("method", METHODS)
def test_presets_of_the_mixture_are_valid(method):
  get_config = importlib.import_module(f"configs.{method}").get_config
  for task in sdar.TASKS:
    whole, alone = (validate.from_dict(get_config(f"sdar_30b_{task}{end}"))
                    for end in ("", sdar.ONE_GPU))
    for cfg, mesh in (whole, (8, -1, 1)), (alone, (1, 1, 1)):
      transformer.build(cfg.model, 0)
      assert (cfg.mesh.expert, cfg.mesh.fsdp, cfg.mesh.tensor) == mesh
    assert (whole.lora.rank, whole.lora.quantize) == (0, "none")
    # 61 GB in bf16 and two sets of adapters of experts would not fit.
    assert alone.lora.quantize == "nf4"
    assert {name.split("/")[1] for name in lora.names(alone.lora)
            } == {"attention"}


@pytest.mark.parametrize("method", ["bgpo", "ebpo"])
@pytest.mark.parametrize("preset", llada2.PRESETS)
def test_presets_of_llada2_are_valid(method, preset):
  get_config = importlib.import_module(f"configs.{method}").get_config
  cfg = validate.from_dict(get_config(preset))
  assert cfg.learn.forward_process == {
    "bgpo": "block_balanced", "ebpo": "block_stratified"}[method]
  assert cfg.rollout.sampler.block_length == cfg.model.block_length == 32
  assert cfg.rollout.sampler.threshold == cfg.eval.sampler.threshold == 0.95
  alone = preset.endswith("_1gpu")
  assert alone == ("layers/mlp/experts/up" not in lora.names(cfg.lora))
  assert (cfg.mesh.expert, bool(cfg.lora.rank)) == ((1, True) if alone
                                                    else (8, False))


def sizes(preset):
  """Parameters of a preset's model, all and those that compute a token."""
  model = transformer.build(validate.from_dict(
    bgpo.get_config(preset)).model, 0)
  flat = {networks.path_of(path): leaf.size for path, leaf in
          jax.tree.leaves_with_path(networks.shapes_of(model))}
  experts = sum(n for path, n in flat.items() if "/experts/" in path)
  used = model.cfg.experts.per_token / model.cfg.experts.number
  return sum(flat.values()), sum(flat.values()) - experts * (1 - used)


def test_mixtures_are_of_published_sizes():
  # 32,511,286,784 and 61,064,245,248 bytes of bf16.
  assert sizes("llada2_mini_math")[0] == 32_511_286_784 // 2
  assert sizes("sdar_30b_math")[0] == 61_064_245_248 // 2
  assert 1.4e9 < sizes("llada2_mini_math")[1] < 1.5e9
  assert 3.3e9 < sizes("sdar_30b_math")[1] < 3.4e9


@pytest.mark.parametrize("preset", [
  "sdar_4b", "sdar_9b_math", "sdar_4b_poems", "sdar_4b_math_2gpu"])
def test_other_presets_are_refused_with_those_that_exist(preset):
  with pytest.raises(ValueError, match=r"unknown preset .*'sdar_1b7_code'"):
    sdar.base(preset)
