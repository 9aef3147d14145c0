"""Caches compiled programs in the workdir, so that restarts skip compilation.

On GPUs, where XLA chooses among kernels by timing them, a restart also keeps
the choice.
"""

import os
import pathlib

import jax

from dlrl.buckets import mirror

# By default JAX compiles again what takes less than a second, and a start has
# dozens of such programs.
_LEAST_TIME = "jax_persistent_cache_min_compile_time_secs"
# Only GPUs have these, but their paths would be part of each program's key, and
# a workdir that was moved would be compiled for again.
_OTHER_CACHES = "jax_persistent_cache_enable_xla_caches"


def keep(directory: pathlib.Path) -> None:
  """Makes `directory` JAX's compilation cache, unless it has one already.

  If `directory` is in the local copy of a bucket, the cache is in the bucket.
  Programs are cached however fast they compile, unless JAX's own variable says
  from how many seconds on.
  """
  if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", mirror.remote(directory))
  if _LEAST_TIME.upper() not in os.environ:
    jax.config.update(_LEAST_TIME, 0)
  if jax.default_backend() != "gpu":
    jax.config.update(_OTHER_CACHES, "none")
