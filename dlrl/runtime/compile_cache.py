"""Compiled programs are kept with a run, so that it is soon back after a stop.

A program that was chosen by trying several, as XLA does on GPUs, is then also
the same one after it.
"""

import pathlib

import jax


def keep(directory: pathlib.Path) -> None:
  """Keeps them in `directory`, unless JAX has been told of another."""
  if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", str(directory))
