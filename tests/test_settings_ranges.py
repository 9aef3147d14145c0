"""Numbers that no setting may have, and batches smaller than a part of one."""

import dataclasses
import math
import operator

import ml_collections
import numpy as np
import pytest
import terminals
from updates import LEARN
from updates import B
from updates import assert_same
from updates import make_batch
from updates import run

from configs import bgpo
from dlrl import config
from dlrl import strict
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

FLOATS = [s for s in validate.settings() if "float" in s.type]


def changed(**values) -> ml_collections.ConfigDict:
  cfg = config.default()
  with cfg.unlocked():
    for name, value in values.items():
      section, _, key = name.replace("__", ".").rpartition(".")
      (operator.attrgetter(section)(cfg) if section else cfg)[key] = value
  return cfg


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("setting", FLOATS, ids=lambda s: s.name)
def test_every_number_is_finite(setting, value):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(changed(**{
      setting.name.replace(".", "__"):
      (1.0, value) if "tuple" in setting.type else value}))
  found = getattr(error.value, "errors", [error.value])
  assert setting.name in {e.field for e in found}


# Zero is often "off"; what does not go with that may be another setting.
@pytest.mark.parametrize("value", [-1, 0])
@pytest.mark.parametrize("preset", ["smoke", "blocks", "countdown"])
@pytest.mark.parametrize(
  "setting", [s for s in validate.settings() if s.type in ("int", "float")],
  ids=lambda s: s.name)
def test_zero_and_negative_numbers_are_refused_in_words_or_taken(
    setting, preset, value):
  cfg = bgpo.get_config(preset)
  with cfg.unlocked():
    cfg.update_from_flattened_dict({
      setting.name: float(value) if setting.type == "float" else value})
  try:
    validate.from_dict(cfg)
  except strict.ConfigError as error:
    found = getattr(error, "errors", [error])
    assert value == 0 or setting.name in {e.field for e in found}


@pytest.mark.parametrize(("name", "value"), [
  ("b1", 1.0), ("b1", -0.1), ("b2", 1.0), ("b2", 1.5), ("weight_decay", -1.0),
  ("learning_rate", 0.0), ("learning_rate", -1e-3), ("clip_norm", 0.0)])
@pytest.mark.parametrize("part", ["learn", "sft"])
def test_an_optimizer_s_numbers_are_in_range(part, name, value):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(changed(**{f"{part}__optimizer__{name}": value}))
  assert error.value.field == f"{part}.optimizer.{name}"


def test_the_limits_of_a_range_are_documented():
  found = {s.name: s.allowed for s in validate.settings()}
  assert found["learn.optimizer.b1"] == "must be at least 0 and below 1"
  validate.from_dict(changed(
    learn__optimizer__b1=0.0, learn__optimizer__b2=0.9999))


@pytest.mark.parametrize(("section", "values"), [
  ("loss_args", {"beta": math.nan}), ("loss_args", {"mix": math.inf}),
  ("process_args", {"least": -math.inf})])
def test_arguments_are_finite(section, values):
  with pytest.raises(strict.ConfigError, match=r"finite") as error:
    validate.from_dict(changed(**{
      "learn__loss": "spg", "learn__score_norm": "none",
      "learn__forward_process": "truncated", f"learn__{section}": values}))
  assert error.value.field == f"learn.{section}.{next(iter(values))}"


def test_a_batch_smaller_than_a_micro_batch_is_taken_at_once():
  batch = make_batch()
  want, metrics, _ = run(batch, dataclasses.replace(LEARN, micro_batch=B))
  got, others, _ = run(batch, dataclasses.replace(LEARN, micro_batch=10 * B))
  assert_same(got, want)
  np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-6)


def test_a_smaller_batch_is_said_at_the_start(capsys):
  values = bgpo.get_config("smoke")  # 32 completions
  values.learn.micro_batch = 100
  setup = setup_lib.make(validate.from_dict(values))
  train_state.for_rl(setup)
  assert ("learn.micro_batch = 100: an update has 32 completions, which are "
          "taken at once") in terminals.unbroken(
            capsys.readouterr().out)
  values.learn.micro_batch = 24  # smaller, and no divisor
  with pytest.raises(strict.ConfigError, match="must divide the 32"):
    validate.from_dict(values)
