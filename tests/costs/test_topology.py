"""Names of accelerators; what the compiler says to them is in test_tpu_aot."""

import importlib.util
import re

import pytest

from dlrl import strict
from dlrl.costs import chips
from dlrl.costs import gpu_targets
from dlrl.costs import topology


@pytest.mark.parametrize("name, want", [
  ("v5e-1", (1, "v5e:1x1")),
  ("v5e-8", (1, "v5e:2x4")),
  ("v5e-64", (1, "v5e:8x8")),
  ("v6e-256", (1, "v6e:16x16")),
  ("v5p-8", (1, "v5:2x2x1")),  # cores: two per chip
  ("v5p-32", (1, "v5:2x2x4")),
  ("v5p-64", (1, "v5:2x4x4")),
  ("v5p-4096", (1, "v5:8x16x16")),
  ("7x-16", (1, "tpu7x:2x2x2")),
  ("tpu7x-128", (1, "tpu7x:4x4x4")),
  ("2xv5e-16", (2, "v5e:4x4")),
  ("4xv5p:4x4x12", (4, "v5:4x4x12")),
])
def test_names_are_those_of_the_cloud(name, want):
  assert topology.parse(name) == want


@pytest.mark.parametrize("name, hint", [
  ("v4-8", "use v5e-64"), ("v5e", "unknown acc"), ("H100", "unknown acc"),
  ("v5e-2", "4, 8, 16"), ("v5e-512", "not a valid"), ("v5p-7", "8, 16, 32"),
  ("v5p-4", "not a valid"), ("0xv5e-4", "at least one"),
  ("cpu-0", "unknown acc"), ("h100", "h100-8, h200-8"), ("h100-0", "unknown"),
  ("h100-12", "at most 8, or a multiple"), ("h300-8", "unknown acc"),
])
def test_what_is_no_name_is_an_error_that_says_what_is(name, hint):
  with pytest.raises(strict.FlagError, match=hint) as error:
    topology.devices(name)
  assert str(error.value).startswith(f"--compile_only={name}: ")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None,
                    reason="libtpu is installed")
def test_without_the_compiler_the_error_says_how_to_get_it():
  with pytest.raises(strict.FlagError, match=r"pip install 'jax\[tpu\]'"):
    topology.devices("v5e-4")


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is not None,
                    reason="the plugin for CUDA 12 is installed")
@pytest.mark.parametrize("name", ["h100-1", "h200-8", "b200-16"])
def test_without_the_plugin_the_error_says_how_to_get_it(name):
  with pytest.raises(strict.FlagError, match=r"pip install 'dlrl\[gpu_aot\]'"):
    topology.devices(name)


@pytest.mark.parametrize("name", gpu_targets.TARGETS)
def test_targets_are_described_with_the_figures_of_their_chips(name):
  target = gpu_targets.TARGETS[name]
  text = gpu_targets.description(target)
  found = dict(re.findall(r"^ *(\w+): (\S+)$", text, re.M))
  chip = chips.CHIPS[target.kind]
  assert int(found["device_memory_size"]) == chip.hbm
  assert int(found["memory_bandwidth"]) == chip.bandwidth
  assert f'device_description_str: "{target.kind}"' in text
  # Nominal sizes in GB, of which the driver keeps some.
  nominal = {"a100": 80, "h100": 80, "h200": 141, "b200": 180}[name] * 1e9
  assert 0.99 * nominal < chip.hbm < 1.08 * nominal
  # Two FLOPs per lane and cycle, against the data sheets' fp32 rates.
  fp32 = {"a100": 19.5, "h100": 67, "h200": 67, "b200": 75}[name] * 1e12
  rate = 2 * target.cores * target.lanes * target.clock * 1e9
  assert rate == pytest.approx(fp32, rel=0.01)


def test_only_long_axes_and_whole_cubes_are_rings():
  assert topology.wrap([8, 16, 1]) == (False, True, False)
  assert topology.wrap([2, 4, 4]) == (False, False, False)
  assert topology.wrap([4, 4, 8]) == (True, True, True)
