"""Variables that JAX's plugin for GPUs reads."""

import os
import sys

import own_flags
import pytest
import runs
from jaxlib import xla_client

from dlrl import main
from dlrl import strict
from dlrl.runtime import gpu

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
  for name in (*FRACTIONS, "XLA_FLAGS"):
    monkeypatch.setenv(name, "")  # restored, whatever is set
    monkeypatch.delenv(name)


def test_the_pool_is_what_the_setting_says():
  gpu.take(0.9)
  assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.9


@pytest.mark.parametrize("name", FRACTIONS)
def test_a_users_variable_comes_first(monkeypatch, name):
  monkeypatch.setenv(name, "0.5")
  gpu.take(0.9)
  assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.5


@pytest.mark.parametrize("flags", ["", "--xla_dump_to=x"])
def test_flags_of_the_user_stay(monkeypatch, flags):
  monkeypatch.setenv("XLA_FLAGS", flags)
  gpu.deterministic()
  assert os.environ["XLA_FLAGS"].split() == [
    *flags.split(), "--xla_gpu_deterministic_ops=true"]


@pytest.mark.parametrize("flags", [[], ["--deterministic"]])
def test_the_flag_works_before_jax_finds_devices(monkeypatch, flags):
  path = f"{runs.ROOT}/configs/bgpo.py:smoke"
  argv = ["dlrl", f"--config={path}", "--compile_only=v9-4", *flags]
  monkeypatch.setattr(sys, "argv", argv)
  with own_flags.of("train") as parsed:
    parsed(argv)
    with pytest.raises(strict.FlagError, match="unknown accelerator"):
      main.run(path, "unused")
  assert ("xla_gpu_deterministic_ops=true" in os.environ.get(
    "XLA_FLAGS", "")) == bool(flags)
