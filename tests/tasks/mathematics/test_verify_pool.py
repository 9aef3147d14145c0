import concurrent.futures
import os
import pathlib
import resource
import signal
import time

import pytest

from dlrl.sandbox import seccomp
from dlrl.tasks.mathematics import verify_pool

# math-verify reads a relation as a set if it is the gold, but not if it is the
# answer.
RELATION = ("1 < x < 2", "(1,2)")


@pytest.fixture(scope="module")
def pool():
  # As in a trainer: this process has used more memory than a worker may keep.
  assert b"1" * (verify_pool.WorkerLimits().memory // 2)
  pool = verify_pool.VerifyPool(verify_pool.WorkerLimits(
    cpu_seconds=0.4, wall_seconds=60, processes=1))
  yield pool
  pool.close()


def process(pool):
  """The only worker process of the pool."""
  [worker] = pool._workers
  return worker._running.popen


@pytest.mark.slow
def test_verdicts_come_in_order_and_the_gold_is_first(pool):
  assert pool.verify([
    ("x+1", "1+x"), ("x+1", "x"), RELATION, RELATION[::-1]]) == [
      True, False, True, False]
  assert pool.verify([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("answer", [
  "9^{9^{9^{9^{9}}}}", "(10^9)!", "\\sum_{k=1}^{10^9} k^{k}"])
def test_an_endless_comparison_is_ended_by_its_cpu_time(pool, answer):
  before = pool.unresolved
  start = time.monotonic()
  assert pool.verify([("\\pi", answer), ("x+1", "1+x")]) == [False, True]
  assert time.monotonic() - start < 30
  assert pool.unresolved == before + 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", [
  "", "\\", "\\frac{", "{" * 200, "}" * 200, "(" * 400, "1/0", "\\boxed{",
  "\ud800", "\x00", "\n", "$", "$$", "\\text{", "=" * 400, "1" * 400,
  "__import__('os').system('true')", "\\begin{matrix}", "9**9**9**9"])
def test_text_that_is_not_latex_is_wrong(pool, answer):
  assert pool.verify([("\\pi", answer)]) == [False]


@pytest.mark.slow
def test_memory_and_files_are_limited(pool):
  pool.verify([("x+1", "1+x")])
  child = process(pool).pid
  assert resource.prlimit(child, resource.RLIMIT_AS) == (2**30, 2**30)
  assert resource.prlimit(child, resource.RLIMIT_FSIZE) == (0, 0)


@pytest.mark.slow
def test_the_process_has_no_environment_and_no_files(pool, monkeypatch):
  monkeypatch.setenv("SECRET", "1")
  fresh = verify_pool.VerifyPool(verify_pool.WorkerLimits(processes=1))
  assert fresh.verify([("x+1", "1+x")]) == [True]
  folder = pathlib.Path("/proc", str(process(fresh).pid))
  assert b"SECRET" not in (folder / "environ").read_bytes()
  assert (folder / "cwd").resolve() == pathlib.Path("/")
  status = (folder / "status").read_text()
  fresh.close()
  assert "NoNewPrivs:\t1\n" in status or not seccomp.supported()
  assert "Seccomp:\t2\n" in status or not seccomp.supported()


@pytest.mark.parametrize("question, verdict", [
  (True, True), (False, False),
  ({"all": [("x+1", "1+x"), ("2x", "x+x")]}, True),
  ({"all": [("x+1", "1+x"), ("2x", "x")]}, False),
  ({"match": [[("x", "y"), ("x+1", "1+x")], [("y", "y"), False]]}, True),
  ({"match": [[("x", "y"), ("x", "x")], [False, ("y", "y")]]}, False),
])
def test_a_question_of_several_parts_is_one_request(pool, question, verdict):
  assert pool.verify([question]) == [verdict]


def test_a_question_of_many_endless_parts_has_the_time_of_one(pool):
  start = time.monotonic()
  endless = ("\\pi", "9^{9^{9^{9^{9}}}}")
  assert pool.verify([{"match": [[endless] * 9] * 9}]) == [False]
  assert time.monotonic() - start < 30


@pytest.mark.slow
def test_a_comparison_is_repeated_if_something_else_ends_its_process(pool):
  assert pool.verify([("x+1", "1+x")]) == [True]
  before = pool.unresolved
  os.kill(process(pool).pid, signal.SIGKILL)
  assert pool.verify([("x+1", "1+x")]) == [True]
  assert pool.unresolved == before


@pytest.mark.slow
def test_a_process_is_kept_while_half_of_its_memory_is_left(pool):
  assert pool.verify([("x+1", "1+x")]) == [True]
  first = process(pool)
  assert pool.verify([("x+1", "1+x"), ("x+1", "x")]) == [True, False]
  assert process(pool) is first
  memory = verify_pool.WorkerLimits().memory
  resource.prlimit(first.pid, resource.RLIMIT_AS, (memory // 2, memory))
  assert pool.verify([("x+1", "1+x")]) == [True]
  assert first.wait(timeout=60) == 0
  before = pool.unresolved
  assert pool.verify([("x+1", "1+x")]) == [True]
  assert process(pool) is not first
  assert pool.unresolved == before


@pytest.mark.slow
def test_the_clock_ends_a_stopped_process_and_closing_ends_all():
  pool = verify_pool.VerifyPool(
    verify_pool.WorkerLimits(wall_seconds=1, processes=1))
  assert pool.verify([("x+1", "1+x")]) == [True]
  stopped = process(pool)
  stopped.send_signal(signal.SIGSTOP)
  assert pool.verify([("x+1", "1+x")]) == [False]
  assert pool.unresolved == 1
  assert stopped.returncode == -signal.SIGKILL
  assert pool.verify([("x+1", "1+x")]) == [True]
  last = process(pool)
  assert last.poll() is None
  pool.close()
  assert last.returncode is not None


@pytest.mark.slow
def test_several_processes_work_at_once_for_several_threads():
  pool = verify_pool.VerifyPool(verify_pool.WorkerLimits(processes=2))
  pairs = [("x+1", "1+x"), ("x+1", "x")] * 5
  with concurrent.futures.ThreadPoolExecutor(3) as threads:
    verdicts = list(threads.map(pool.verify, [pairs] * 3))
  pool.close()
  assert verdicts == [[True, False] * 5] * 3


def test_a_process_that_does_not_start_is_an_error_not_a_verdict():
  pool = verify_pool.VerifyPool(
    verify_pool.WorkerLimits(memory=2**24, processes=1))
  with pytest.raises(RuntimeError, match="does not start"):
    pool.verify([("x+1", "1+x")])
  pool.close()
