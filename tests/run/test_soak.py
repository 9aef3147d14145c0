"""What a long run does often leaves nothing behind.

Descriptors, threads, child processes and memory after many repetitions are
those after a few. A leak of one descriptor per repetition fails.
"""

import contextlib
import gc
import os
import pathlib
import threading

import jax
import jax.numpy as jnp
import pytest
import runs
from checkpoints import abstract
from checkpoints import batches

from dlrl import tasks
from dlrl.evaluation import completions_log
from dlrl.evaluation import held_out
from dlrl.run import setup as setup_lib
from dlrl.storage import checkpoint
from dlrl.storage import metrics
from dlrl.tasks.coding import results as code_results

LONG = pytest.mark.long
# Per repetition. TensorStore loses 15 kB whenever Orbax asks it for its
# statistics, which it does twice per save.
BYTES, SLACK = 40_000, 16 << 20


def usage():
  """(descriptors, threads, children, bytes) of this process."""
  gc.collect()
  children = 0
  for path in pathlib.Path("/proc/self/task").iterdir():
    with contextlib.suppress(FileNotFoundError):  # the thread has ended
      children += len(
        (path / "children").read_text(encoding="ascii").split())
  pages = int(pathlib.Path("/proc/self/statm").read_text(
    encoding="ascii").split()[1])
  return (len(os.listdir("/proc/self/fd")), threading.active_count(), children,
          pages * os.sysconf("SC_PAGE_SIZE"))


def assert_flat(times, act, *, first=5):
  """Calls `act(i)` `first` times, then `times` times, and compares."""
  def last(numbers):
    # The least of three: a save at work has a dozen descriptors open.
    for i in numbers[:-3]:
      act(i)
    return [min(found) for found in zip(
      *((act(i), usage())[1] for i in numbers[-3:]), strict=True)]

  before = last(range(first))
  after = last(range(first, first + times))
  # Pools may add a worker; what leaks adds one per repetition.
  for name, a, b in zip(("descriptors", "threads", "children"),
                        before, after, strict=False):
    assert b - a < min(times, 20), f"{name}: {a}, later {b}"
  assert after[3] - before[3] < SLACK + BYTES * times


def state(step):
  return {"params": {"w": jnp.full(3, step)}}


@pytest.mark.slow
@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=LONG)])
def test_saves(times, tmp_path):
  data = batches()
  with (checkpoint.Checkpoints(tmp_path / "checkpoints") as saver,
        metrics.MetricsWriter(tmp_path) as writer):

    def save(step):
      writer.write(step, {"loss": 0.5})
      writer.flush()
      saver.save(step, state(step), data, {"at": step})

    assert_flat(times, save, first=20)


@pytest.mark.slow
@pytest.mark.parametrize("times", [20, pytest.param(200, marks=LONG)])
def test_restarts_and_reading_of_checkpoints(times, tmp_path):
  data, wanted = batches(), abstract(state(0))
  root = tmp_path / "checkpoints"

  def restart(i):
    with (checkpoint.Checkpoints(root) as saver,
          metrics.MetricsWriter(tmp_path) as writer):
      saver.restore_latest(wanted, data)
      writer.truncate_after(i)
      writer.write(i + 1, {"loss": 0.5})
      saver.save(i + 1, state(i), data, {})
    assert checkpoint.steps(root)[-1] == i + 1
    checkpoint.load_params(root, wanted["params"])
    checkpoint.load_meta(root)

  assert_flat(times, restart)


@pytest.mark.slow
@pytest.mark.parametrize("times", [20, pytest.param(1000, marks=LONG)])
def test_evaluations(times, sudoku_dir, tmp_path):
  setup = setup_lib.make(runs.tiny(sudoku_dir))
  with jax.set_mesh(setup.mesh):
    params, evaluate = setup.init_params(), held_out.make(setup)

    def one(i):
      evaluate(params, ends=False)
      with completions_log.CompletionsLog(tmp_path, {"task": "x"}) as log:
        log.append([{"length": 1, "sample": 0, "item": i}])

    assert_flat(times, one, first=2)


GRADED = {
  "math": ("2", r"\boxed{2}", {"answer": ["2"]}),
  "gsm8k": ("2", r"\boxed{2}", {"answer": ["2"]}),
  "mbpp": ("", "", {"tests": [["assert f(1) == 1"]], "entry_point": ["f"]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("times", [10, pytest.param(300, marks=LONG)])
@pytest.mark.parametrize("name", GRADED)
def test_grader_calls(name, times):
  prompt, text, columns = GRADED[name]

  def grade(i):
    completion = text or f"```python\ndef f(x): return x  # {i}\n```"
    found = tasks.TASKS[name].metrics([prompt], [completion], **columns)
    assert found["solved"] == [1.0]

  assert_flat(times, grade)


@pytest.mark.slow
@pytest.mark.parametrize("times", [8, pytest.param(100, marks=LONG)])
def test_sandbox_restarts(times):
  def restart(i):
    code_results.start()
    found = tasks.TASKS["mbpp"].metrics(
      [""], ["```python\ndef f(x): return x\n```"],
      tests=[["assert f(1) == 1"]], entry_point=["f"])
    assert found["solved"] == [1.0]
    code_results.close()

  assert_flat(times, restart, first=2)
