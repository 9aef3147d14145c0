"""The presets of block-diffusion models are valid and of published shapes."""

import importlib

import pytest

from dlrl import validate
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


@pytest.mark.parametrize("preset", [
  "sdar_4b", "sdar_9b_math", "sdar_4b_poems", "sdar_4b_math_2gpu"])
def test_other_presets_are_refused_with_those_that_exist(preset):
  with pytest.raises(ValueError, match=r"unknown preset .*'sdar_1b7_code'"):
    sdar.base(preset)
