"""Sets environment variables that JAX reads when it first looks for GPUs."""

import os

_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def take(share: float) -> None:
  """Sets JAX's share of each GPU's memory, unless the user's variables do."""
  if not any(os.environ.get(name) for name in _SHARES):
    os.environ[_SHARES[0]] = str(share)


def deterministic() -> None:
  """Makes XLA and cuDNN add up in the same order in every run.

  XLA then chooses kernels without timing them, sorts scatters, and asks cuDNN
  for the gradient of attention that has no atomic sums.
  """
  os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {_DETERMINISTIC}".strip())
