"""Names of accelerators; what the compiler says to them is in test_tpu_aot."""

import importlib.util

import pytest

from dlrl import strict
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
  ("cpu-0", "unknown acc"),
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


def test_only_long_axes_and_whole_cubes_are_rings():
  assert topology.wrap([8, 16, 1]) == (False, True, False)
  assert topology.wrap([2, 4, 4]) == (False, False, False)
  assert topology.wrap([4, 4, 8]) == (True, True, True)
