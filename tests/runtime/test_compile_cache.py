"""Programs that are compiled once, by real processes."""

import json
import os
import subprocess
import sys

import program_cache
import runs

PROGRAM = """
import json, pathlib, sys
import jax, jax.numpy as jnp
from dlrl.runtime import compile_cache
hits = []
jax.monitoring.register_event_listener(
  lambda name, **kw: hits.append(name) if name.endswith("/cache_hits") else 0)
jax.jit(lambda x: x + 1)(1.0).block_until_ready()  # compiles something
compile_cache.keep(pathlib.Path(sys.argv[1]))
x = jnp.linspace(0, 1, 600).reshape(20, 30)
y = jax.jit(lambda x: jnp.sum(jnp.sin(x @ x.T) ** 3))(x)
print(json.dumps([len(hits), float(y)]))
"""


def run(directory, **more):
  env = os.environ | {
    "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"} | more
  if not more:  # a user's environment, without the cache of the tests
    del env["JAX_COMPILATION_CACHE_DIR"]
  return json.loads(subprocess.run(
    [sys.executable, "-c", PROGRAM, directory], env=env, check=True,
    stdout=subprocess.PIPE).stdout)


def test_a_second_process_finds_the_programs_of_the_first(tmp_path):
  (first, value), (second, again) = run(tmp_path / "a"), run(tmp_path / "a")
  assert first == 0 < second
  assert value == again


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
