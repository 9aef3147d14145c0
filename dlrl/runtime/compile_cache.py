"""Caches compiled programs in the workdir, so that restarts skip compilation.

On GPUs, where XLA chooses among kernels by timing them, a restart also keeps
the choice.
"""

import pathlib

import jax

from dlrl.buckets import mirror


def keep(directory: pathlib.Path) -> None:
  """Makes `directory` JAX's compilation cache, unless it has one already.

  If `directory` is in the local copy of a bucket, the cache is in the bucket.
  """
  if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", mirror.remote(directory))
