"""A start imports only modules that every run needs."""

import subprocess
import sys

import pytest
import runs

# For other devices, other data, evaluations or the ends of runs. Each takes a
# twentieth of the time in which JAX is imported, or more.
HEAVY = ("jax.experimental.pallas", "matplotlib", "pyarrow", "scipy.special",
         "tensorflow", "tensorflow_datasets", "torch", "transformers", "wandb")
PROGRAM = "import sys, dlrl.main; print(*sys.modules, sep='\\n')"


@pytest.mark.slow
def test_a_start_does_not_import_what_it_may_not_need():
  found = subprocess.run(
    [sys.executable, "-c", PROGRAM], cwd=runs.ROOT, check=True, text=True,
    stdout=subprocess.PIPE).stdout.splitlines()
  assert "jax" in found
  assert not set(HEAVY) & set(found)
