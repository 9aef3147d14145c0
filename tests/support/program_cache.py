"""Compiled programs, kept between runs of the tests.

Most of the suite's time would be XLA compiling the same programs again. A
program is found by a hash of its code and of the compiler's options, so that a
change of either compiles anew; `pytest --cold` compiles everything. JAX keeps
no program that calls back to Python (`jax.debug.callback`): tests that watch a
program from inside compile it in every run, and should share it.

With JAX 0.10, XLA's old generator of loops compiles the programs, in half the
time. Newer versions lack it, so the tests on the newest JAX try the generator
that users have.

Tried and dropped: no LLVM optimisation in all tests. Whole training runs take
as long as before, since they also compute, and loading 3 GB takes four times as
long. Small programs gain a third; see the fixture `unoptimized`.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys

import jax
import jaxlib

# A directory for the programs of every version of JAX and every machine.
VARIABLE = "DLRL_TEST_CACHE"
OLD_LOOPS = "--xla_cpu_use_fusion_emitters=false"
LIMIT = 2**30  # bytes; a run of the whole suite needs about a tenth


def kept() -> pathlib.Path:
  """The directory of this JAX on this kind of machine."""
  base = os.environ.get(VARIABLE) or pathlib.Path(
    os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache",
    "dlrl-tests")
  return pathlib.Path(
    base, f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}-"
    f"python-{sys.version_info[0]}.{sys.version_info[1]}-{_machine()}")


def _machine() -> str:
  """Machine code for one processor may not run on another."""
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text()
  except OSError:
    text = platform.processor()
  flags = next((s for s in text.splitlines() if s.startswith("flags")), text)
  return (f"{platform.system()}-{platform.machine()}-"
          f"{hashlib.sha256(flags.encode()).hexdigest()[:8]}".lower())


def prune(directory: pathlib.Path, limit: int = LIMIT) -> None:
  """Deletes the oldest programs until at most `limit` bytes remain."""
  files = []
  for path in directory.glob("*"):
    with contextlib.suppress(FileNotFoundError):  # another run prunes, too
      stat = path.stat()
      files.append((stat.st_mtime_ns, stat.st_size, path))
  excess = sum(size for _, size, _ in files) - limit
  for _, size, path in sorted(files):
    if excess <= 0:
      return
    path.unlink(missing_ok=True)
    excess -= size


def use(directory: pathlib.Path) -> None:
  """Makes this process and its children compile fast and keep programs."""
  directory.mkdir(parents=True, exist_ok=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
  if jax.__version_info__ < (0, 11):  # XLA reads this when it first compiles
    os.environ["XLA_FLAGS"] = OLD_LOOPS
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  # As runs have it, so that a program has one key in all tests.
  os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
  jax.config.update("jax_compilation_cache_dir", str(directory))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
