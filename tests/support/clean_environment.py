"""Importing this forgets what the caller's environment tells libraries.

Settings of JAX, a job of SLURM around the tests, or `make test PYTHON=...`
would reach the tests and their child processes. It has to be the first import
of conftest.py, since JAX reads the environment when it is imported. What says
where packages, devices and kept programs are stays.
"""

import os
from collections.abc import MutableMapping

PREFIXES = ("HF_", "JAX_", "XLA_", "LIBTPU_", "TPU_", "MEGASCALE_", "SLURM_",
            "OMPI_", "PYTHON")
NAMES = {"DLRL_PAUSE"}
KEPT = {"JAX_PLATFORMS", "PYTHONPATH", "PYTHONHOME"}


def clean(environment: MutableMapping[str, str]) -> None:
  """Removes the variables that could change a test."""
  for name in list(environment):
    if name not in KEPT and (name in NAMES or name.startswith(PREFIXES)):
      del environment[name]


# Workers inherit what the first process set after it had cleaned up.
if "PYTEST_XDIST_WORKER" not in os.environ:
  clean(os.environ)
  # What looks like the name of a model is never asked for on the real Hub.
  os.environ["HF_HUB_OFFLINE"] = "1"
