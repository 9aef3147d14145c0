import clean_environment  # noqa: F401  (before JAX is imported)

# isort: split
import gc
import os
import pathlib
import shutil
import tempfile

import jax
import program_cache
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Traced programs are millions of objects that live to the end.
gc.set_threshold(100_000, 50, 100)


# Files that take longest, longest first: xdist hands out whole files in this
# order, and whoever began one of them last would end alone.
LONGEST = (
  "test_kills_on_buckets.py", "test_runs_on_buckets.py", "test_main.py",
  "test_train.py", "test_processes.py", "test_block_update.py",
  "test_block_run.py", "test_evaluate_command.py", "test_soak.py",
  "test_files_run.py", "test_inside_programs.py", "test_objectives.py",
  "test_update_tokens.py", "test_launch.py", "test_chat.py", "test_lora.py",
  "test_hf_checkpoints.py", "test_evaluate.py", "test_long_completions.py",
  "test_verify_pool.py", "test_start_errors.py", "test_update.py",
)


def pytest_addoption(parser):
  parser.addoption("--cold", action="store_true", help=(
    "compile everything instead of keeping programs between runs, in "
    f"${program_cache.VARIABLE} or ~/.cache/dlrl-tests"))


def pytest_configure(config):
  # Worker processes inherit the environment of the process that starts them.
  if hasattr(config, "workerinput"):
    program_cache.use(pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    return
  if config.getoption("--cold"):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="dlrl-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
  else:
    directory = program_cache.kept()
    program_cache.prune(directory)
  program_cache.use(directory)


def pytest_collection_modifyitems(config, items):
  if "long" not in config.getoption("markexpr"):
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]
  places = {name: i for i, name in enumerate(LONGEST)}
  items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


def of_session(tmp_path_factory) -> pathlib.Path:
  """A directory that all of the session's worker processes share."""
  base = tmp_path_factory.getbasetemp()
  return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="module")
def few_programs_in_memory():
  """Keeps a worker far below Linux's limit of 65,530 mappings per process.

  Each compiled program has about six. Beyond the limit, loading the next one
  aborts the process.
  """
  yield
  if mappings() > 30_000:
    jax.clear_caches()
    gc.collect()


def mappings() -> int:
  """Memory mappings of this process; 0 where there is no such list."""
  try:
    return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
  except OSError:
    return 0


@pytest.fixture
def unoptimized():
  """Small programs compile in two thirds of the time: LLVM does less.

  XLA's own passes run as ever, so that orders of operations and buffers are
  those of optimised programs.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def sudoku_dir(tmp_path_factory) -> str:
  """A TFDS directory for the session; the first to load prepares it."""
  return str(of_session(tmp_path_factory) / "tensorflow_datasets")


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> pathlib.Path:
  """Directory of a tiny checkpoint: characters as tokens, random weights."""
  # Here, because the configuration of JAX above comes first.
  import published_model
  return published_model.write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Reference data beside the repository, which most checkouts lack."""
  path = pathlib.Path(__file__).parents[2] / "shared"
  if not path.is_dir():
    pytest.skip(f"no reference data at {path}")
  return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """A Hub of the tests' own; its commits and files are in `fake_hub`."""
  import fake_hub
  with fake_hub.used(tmp_path / "hub", monkeypatch) as made:
    yield made


@pytest.fixture(scope="session")
def gcs():
  """A Google Cloud Storage of the tests' own, see `fake_gcs`."""
  pytest.importorskip("gcsfs")
  import fake_gcs
  return fake_gcs.FakeGcs()


@pytest.fixture
def bucket(gcs, monkeypatch):
  """`gs://` and the name of an empty bucket there."""
  import fake_gcs
  with fake_gcs.used(gcs, f"tests-{len(gcs.buckets)}", monkeypatch) as url:
    yield url
