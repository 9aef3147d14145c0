"""Jobs of several processes: real ones, on this machine, joined by gloo."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from checkpoints import batches
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import parent_process
from dlrl.runtime import processes
from dlrl.storage import checkpoint
from dlrl.storage import metrics

TESTS = runs.ROOT / "tests" / "support"
TIMEOUT = 10  # seconds after which a process counts as dead


@pytest.fixture(scope="module")
def environment():
  # In the background, interrupts are ignored, and children inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return os.environ | {
    "PYTHONPATH": f"{runs.ROOT}:{TESTS}", "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") +
                 " --xla_backend_optimization_level=0"
                 " --xla_llvm_disable_expensive_passes=true"}


class Jobs:
  """Runs of one config by any number of processes."""

  def __init__(self, environment, data_dir, directory, devices, axes,
               rewards='("paused_rewards:units",)'):
    self._environment, self._data_dir = environment, data_dir
    self.directory = directory
    self._flags = [f"--config.mesh.cpu_devices={devices}", *axes,
                   f"--config.rollout.rewards={rewards}"]

  def start(self, name, processes, environments=()):
    """One process each; what they print goes to files."""
    port, found = runs.free_port(), []
    for i in range(processes):
      joins = [f"--coordinator=localhost:{port}", f"--process_id={i}",
               f"--num_processes={processes}", f"--peer_timeout={TIMEOUT}"]
      more = environments[i] if environments else {}
      with self.log(name, i).open("w") as log:
        found.append(subprocess.Popen(
          [*self._command(name), *self._flags,
           *(joins if processes > 1 else ())],
          cwd=runs.ROOT, stdout=log, stderr=log,
          env=self._environment | more | {
            "REWARDS_LOG": str(self.asked(name, i))}))
    return found

  def _command(self, name):
    command = runs.command(self.directory / name, self._data_dir)
    # Given twice, it would be both.
    return [a for a in command if not a.startswith("--config.rollout.rewards")]

  def log(self, name, i):
    return self.directory / f"{name}.log{i}"

  def asked(self, name, i):
    """The file with the numbers of completions that rewards were asked of."""
    return self.directory / f"{name}.asked{i}"


def children(pid):
  found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  return [int(child) for child in found]


def gone(pid):
  try:
    return "\nState:\tZ" in pathlib.Path(f"/proc/{pid}/status").read_text()
  except FileNotFoundError:
    return True


def close(a, b, tolerance):
  """Metrics agree, to a share of each; what is not a number, exactly."""
  return a.keys() == b.keys() and all(
    a[key] == b[key] or abs(a[key] - b[key]) <= tolerance * abs(b[key])
    for key in a)


@pytest.fixture(scope="module", params=[
  pytest.param((2, ["--config.mesh.data=-1"], 0.0, 0.0), id="2",
               marks=pytest.mark.slow),
  # Four numbers are not added in the same order by gloo and in one process.
  pytest.param((4, ["--config.mesh.fsdp=2"], 1e-4, 1e-3), id="4",
               marks=pytest.mark.slow)])
def story(request, environment, sudoku_dir, tmp_path_factory):
  """A run of one process, and one of several that is killed and continued."""
  count, axes, *tolerances = request.param
  directory = tmp_path_factory.mktemp("jobs")
  jobs = Jobs(environment, sudoku_dir, directory, count, axes)
  whole, = jobs.start("whole", 1)
  assert whole.wait() == 0, jobs.log("whole", 0).read_text()

  # The last process stops in the reward of step 5, and is killed there.
  several = jobs.start(
    "several", count, [{}] * (count - 1) + [{"PAUSE_AT": "5"}])
  workdir = directory / "several"
  asked = jobs.asked("several", count - 1)
  while not (asked.exists() and len(asked.read_text().split()) == 5
             and checkpoint.steps(workdir / "checkpoints")[-1:] == [4]):
    assert all(process.poll() is None for process in several), (
      jobs.log("several", 0).read_text())
    time.sleep(0.1)
  victim, began = several.pop(), time.monotonic()
  child, = children(victim.pid)
  victim.kill()
  codes = [victim.wait()] + [process.wait() for process in several]
  seconds = time.monotonic() - began
  rows = runs.timeless(workdir)

  again, = jobs.start("several", 1)
  assert again.wait() == 0, jobs.log("several", 0).read_text()
  return dict(count=count, tolerances=tolerances, jobs=jobs, codes=codes,
              seconds=seconds, rows=rows, child=child)


def test_several_processes_compute_what_one_does(story):
  want = runs.timeless(story["jobs"].directory / "whole")
  assert [row["step"] for row in story["rows"]] == [0, 1, 2, 3, 4]
  for row, other in zip(story["rows"], want, strict=False):
    assert close(row, other, story["tolerances"][0]), (row, other)


def test_rewards_are_computed_where_the_rows_live(story):
  jobs, count = story["jobs"], story["count"]
  whole = jobs.asked("whole", 0).read_text().split()
  assert whole == ["16"] * 6
  for i in range(count):
    # Process 0 has gone on alone after the fourth step.
    asked = jobs.asked("several", i).read_text().split()
    assert asked[:4] == [str(16 // count)] * 4


def test_the_others_end_soon_after_one_is_killed_and_say_why(story):
  jobs, (killed, *others) = story["jobs"], story["codes"]
  assert killed == -signal.SIGKILL
  assert others == [parent_process.LOST] * (story["count"] - 1)
  assert story["seconds"] < 2 * TIMEOUT + 5
  for i in range(1, story["count"] - 1):
    assert jobs.log("several", i).read_text().endswith(
      f"{parent_process.MESSAGE}\n")
  assert gone(story["child"])


def test_another_number_of_processes_goes_on_from_the_checkpoint(story):
  whole, several = (
    story["jobs"].directory / name for name in ("whole", "several"))
  text = story["jobs"].log("several", 0).read_text()
  assert "continuing after step 4" in text
  assert (several / "summary.json").exists()
  of_rows, of_params = story["tolerances"]
  for row, other in zip(
      runs.timeless(several), runs.timeless(whole), strict=True):
    assert close(row, other, of_rows), (row, other)
  assert metrics.samples(several) == metrics.samples(whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=of_params),
    *(runs.params_of(root) for root in (several, whole)))


@pytest.mark.slow
def test_groups_are_replaced_and_speeds_rewarded_as_in_one_process(
    environment, sudoku_dir, tmp_path):
  jobs = Jobs(environment, sudoku_dir, tmp_path, 2, [
    "--config.mesh.data=-1", "--config.steps=2", "--config.sft.steps=0",
    "--config.eval.every=9", "--config.rollout.resample=2",
    "--config.rollout.reward_weights=(1.0,0.0)",
    "--config.rollout.normalize=each"],
    '("flat_rewards:flat_if_odd","tokens_per_forward")')
  for count in (1, 2):
    for process in jobs.start(str(count), count):
      assert process.wait() == 0, jobs.log(str(count), 0).read_text()
  one, two = (runs.timeless(tmp_path / name) for name in "12")
  assert sum(row.get("rollout/resampled", 0) for row in one) > 0
  assert one == two
  jax.tree.map(np.testing.assert_array_equal,
               *(runs.params_of(tmp_path / name) for name in "12"))


def together(environment, jobs):
  """What processes print that run `joined.py` at once, and exit codes."""
  found = [subprocess.Popen(
    [sys.executable, TESTS / "joined.py", json.dumps(job | {"timeout": 10})],
    env=environment | more, text=True, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE) for job, more in jobs]
  texts = [process.communicate() for process in found]
  return texts, [process.returncode for process in found]


def in_slurm(i, port):
  # Two tasks of one step on one node, whose name is the coordinator's.
  return {"detect": True}, {
    "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
    "SLURM_STEP_NUM_NODES": "1", "JAX_COORDINATOR_PORT": str(port)}


def in_gke(i, port):
  # Two slices of one host each; JAX asks for no device, but for a TPU's host.
  return {"detect": True}, {
    "JAX_FORCE_TPU_INIT": "1", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": str(i),
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    "JAX_COORDINATOR_PORT": str(port)}


def by_flags(i, port):
  return {"coordinator": f"localhost:{port}", "processes": 2, "process": i}, {
    "FAIL": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("how", [in_slurm, in_gke])
def test_the_system_says_which_process_is_which(how, environment):
  port = runs.free_port()
  texts, codes = together(environment, [how(i, port) for i in range(2)])
  assert codes == [0, 0], texts
  inf = float("inf")
  for out, _ in texts:
    gathered, told, first = map(json.loads, out.splitlines()[-3:])
    assert gathered == [[0, "", inf], [1, "ä", inf]]
    assert (told, first) == ([True, False], {"of": 0})


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_ends_the_others(environment):
  port = runs.free_port()
  texts, codes = together(environment, [by_flags(i, port) for i in range(2)])
  assert codes == [parent_process.LOST, 1], texts
  assert "ArithmeticError: no reward" in texts[1][1]
  assert parent_process.MESSAGE in texts[0][1]
  assert parent_process.MESSAGE not in texts[1][1]


@pytest.mark.slow
def test_one_process_of_several_can_look_which_checkpoints_there_are(
    environment, tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saver:
    saver.save(3, {"params": {"w": jnp.ones(2)}}, batches(), {})
  port = runs.free_port()
  found = [subprocess.Popen(
    [sys.executable, TESTS / "joined_steps.py", str(port), str(i), tmp_path],
    env=environment, text=True, stdout=subprocess.PIPE) for i in range(2)]
  assert [job.communicate()[0].splitlines()[-1:] for job in found] == (
    [["[3]"]] * 2)


@pytest.mark.parametrize(("job", "field"), [
  (dict(processes=2), "coordinator"),
  (dict(coordinator="host:1", processes=2), "coordinator"),
  (dict(coordinator="host", processes=2, process=0), "coordinator"),
  (dict(coordinator="host:1", processes=2, process=2), "process_id"),
])
def test_what_does_not_suffice_to_join_is_refused(job, field):
  with pytest.raises(strict.ConfigError) as error:
    processes.start(processes.Job(**job))
  assert error.value.field == field


def test_one_process_has_nobody_to_ask():
  processes.start(processes.Job())
  assert (processes.joined(), processes.first()) == (1, True)
  value = [object()]  # no JSON, no copy
  assert processes.gather(value)[0] is value
  assert processes.by_first(lambda: 3) == 3


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_rows_are_shared_out_once_each(axes):
  mesh = mesh_lib.make(config.MeshConfig(*axes))
  x = np.arange(16 * 3).reshape(16, 3)
  y = jnp.arange(16)
  share, (rows, numbers) = processes.local(*(
    jax.device_put(a, NamedSharding(mesh, P(mesh_lib.BATCH))) for a in (x, y)))
  assert (share.places, share.total) == (list(range(16)), 16)
  np.testing.assert_array_equal(rows, x)
  np.testing.assert_array_equal(numbers, y)


def test_columns_are_put_together_by_place(monkeypatch):
  parts = [[[2, 0], {"a": [0.2, 0.0]}],
           [[1, 3], {"a": [0.1, 0.3], "b": [1, 2]}]]
  monkeypatch.setattr(processes, "gather", lambda value: parts)
  assert processes.Share([2, 0], 4).whole({}) == {
    "a": [0.0, 0.1, 0.2, 0.3], "b": [None, 1, None, 2]}


def test_the_cpus_parts_are_shared_out_equally():
  with pytest.raises(strict.ConfigError, match="multiple of the 4") as error:
    mesh_lib.split_cpu(6, 4)
  assert error.value.field == "mesh.cpu_devices"
