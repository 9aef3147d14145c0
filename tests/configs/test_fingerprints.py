"""The settings of every preset, as they were when they were last changed."""

import importlib
import json
import pathlib

from dlrl import config
from dlrl import strict

# A changed preset or default changes its line; a run's workdir is only
# continued with the config that it was started with.
STORED = json.loads(
  pathlib.Path(__file__).with_name("fingerprints.json").read_text())


def fingerprint(name):
  stem, _, preset = name.partition(":")
  module = importlib.import_module(f"configs.{stem}")
  values = module.get_config(preset).to_dict()
  return strict.fingerprint(strict.build(config.Config, values))


def test_the_default_settings_have_not_changed():
  assert strict.fingerprint(config.Config()) == STORED["config.Config()"]


def test_the_settings_of_every_preset_have_not_changed():
  names = STORED.keys() - {"config.Config()"}
  assert {n: fingerprint(n) for n in names} == {n: STORED[n] for n in names}
