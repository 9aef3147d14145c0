"""Programs that are compiled once, by real processes."""

import json
import os
import subprocess
import sys

import program_cache
import pytest
import runs

PROGRAM = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from dlrl.runtime import compile_cache
events = []
jax.monitoring.register_event_listener(
  lambda name, **kw: events.append(name.rpartition("/")[2]))
jax.jit(lambda x: x + 1)(1.0).block_until_ready()  # compiles something
compile_cache.keep(pathlib.Path(sys.argv[1]))
x = jnp.linspace(0, 1, 600).reshape(20, 30)
y = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x.T) ** 3))(x)
found = [events.count(name) for name in ("cache_hits", "cache_misses")]
print(json.dumps([*found, float(y)]))
"""


def run(directory, **more):
  env = os.environ | {
    "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"} | more
  if not more:  # a user's environment, without the cache of the tests
    env = {k: v for k, v in env.items() if "_CACHE_" not in k}
  return json.loads(subprocess.run(
    [sys.executable, "-c", PROGRAM, directory], env=env, check=True,
    stdout=subprocess.PIPE).stdout)


@pytest.mark.slow
def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
  found, compiled, value = run(tmp_path / "a")
  assert found == 0 < compiled
  # All of them, though each takes less than a second.
  assert run(tmp_path / "a") == [compiled, 0, value]


@pytest.mark.slow
def test_a_directory_that_was_moved_still_has_its_programs(tmp_path):
  _, compiled, value = run(tmp_path / "a")
  (tmp_path / "a").rename(tmp_path / "b")
  assert run(tmp_path / "b") == [compiled, 0, value]


def test_how_long_a_program_must_compile_can_be_set(tmp_path):
  assert "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" in os.environ
  run(tmp_path / "b", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="1000")
  assert not list((tmp_path / "b").glob("*"))


def test_a_cache_that_jax_has_is_left(tmp_path):
  run(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))
  assert not (tmp_path / "a").exists()
  assert list((tmp_path / "b").iterdir())


def test_the_oldest_programs_of_the_tests_go_first(tmp_path):
  for age, name in enumerate("dacb"):
    (tmp_path / name).write_bytes(bytes(10))
    os.utime(tmp_path / name, (100 - age, 100 - age))
  program_cache.prune(tmp_path, limit=40)
  assert len(list(tmp_path.iterdir())) == 4
  program_cache.prune(tmp_path, limit=25)
  assert {path.name for path in tmp_path.iterdir()} == {"d", "a"}
  program_cache.prune(tmp_path / "absent")
