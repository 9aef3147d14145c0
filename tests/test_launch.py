"""The launchers: what they start, and what they do when it ends."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import clean_environment
import pytest
import runs
import terminals
import yaml
from absl import flags

from dlrl import commands
from dlrl import strict
from dlrl.runtime import parent_process
from dlrl.storage import workdir

LAUNCH = runs.ROOT / "launch"
# Tells what it was asked and ends with the next of the codes in $CODES.
FAKE = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case $0 in *srun | *gcloud | *python)
  code=$(head -n 1 "$CODES"); sed -i 1d "$CODES"; exit "$code" ;;
esac
"""
# Starts two tasks on this machine, as SLURM does.
SRUN = """#!/bin/sh
shift  # --gpu-bind
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & first=$!
SLURM_PROCID=0 SLURM_LOCALID=0 "$@"; code=$?
wait "$first" || exit
exit "$code"
"""


def program(path, text):
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake(tmp_path):
  """Runs a launcher among fakes; what they were asked, and the code."""
  for name in ("srun", "gcloud", "scontrol", "python"):
    program(tmp_path / name, FAKE)

  def run(launcher, *args, codes):
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    calls = tmp_path / "calls"
    calls.write_text("")
    done = subprocess.run(
      [LAUNCH / launcher, *args] if launcher.endswith("sh") else
      ["bash", LAUNCH / launcher, *args], env=os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "DLRL_PAUSE": "0",
        "CALLS": str(calls), "CODES": str(tmp_path / "codes"),
        "SLURM_JOB_ID": "77"})
    return calls.read_text().splitlines(), done.returncode

  return run


@pytest.fixture(scope="module")
def finished(sudoku_dir, tmp_path_factory):
  """`(flags, environment)` for a run that has nothing left to do."""
  root = tmp_path_factory.mktemp("runs")
  cfg = runs.tiny(sudoku_dir)
  workdir.claim(root / "run", strict.to_json(cfg)).close()
  scores = {"solved": 0.5, "solved_low": 0.4, "solved_high": 0.6}
  workdir.write_json(root / "run" / "summary.json", {
    "before": scores, "after": scores, "n_eval": 2, "phase_seconds": {},
    "wall_seconds": 0, "task": {"name": "sudoku", "version": "1",
                                "prompt": "bare", "data_sha256": "0"}})
  asked = runs.command(root / "run", sudoku_dir)[3:]
  return asked, os.environ | {
    "PYTHON": sys.executable, "PYTHONPATH": str(runs.ROOT),
    "JAX_PLATFORMS": "cpu"}


def test_launchers_see_nothing_of_what_the_caller_set_for_them():
  environment = {"PYTHON": "python3.13", "PYTHONPATH": "lib", "PATH": "/bin",
                 "SLURM_JOB_ID": "1", "JAX_ENABLE_X64": "1", "DLRL_PAUSE": "9",
                 "JAX_PLATFORMS": "cpu", "DLRL_TEST_CACHE": "cache"}
  clean_environment.clean(environment)
  assert environment == {
    "PYTHONPATH": "lib", "PATH": "/bin", "JAX_PLATFORMS": "cpu",
    "DLRL_TEST_CACHE": "cache"}
  assert "PYTHON" not in os.environ


@pytest.mark.parametrize(
  "script", [p.name for p in LAUNCH.iterdir()
             if p.is_file() and p.suffix != ".yaml"])
def test_shellcheck_has_no_complaint(script):
  checker = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
  assert checker, "of the extra `dev`, which is not installed"
  subprocess.run([checker, LAUNCH / script], check=True)


@pytest.mark.slow
def test_local_starts_processes_that_find_each_other(finished):
  asked, environment = finished
  done = subprocess.run(
    [LAUNCH / "local.sh", "2", *asked], cwd=runs.ROOT, env=environment,
    text=True, capture_output=True)
  assert done.returncode == 0, done.stderr
  assert "is finished" in terminals.unbroken(done.stdout)
  assert done.stdout.count("solved") == 1  # process 0 alone speaks


@pytest.mark.slow
def test_local_ends_with_the_code_of_the_first_to_fail(finished, tmp_path):
  asked, environment = finished
  asked = [a for a in asked if not a.startswith("--workdir")]
  (tmp_path / "mine").touch()
  done = subprocess.run(
    [LAUNCH / "local.sh", "2", *asked, f"--workdir={tmp_path}"], text=True,
    cwd=runs.ROOT, env=environment, capture_output=True)
  assert done.returncode == 2, done.stderr
  assert done.stderr.count("holds files that are not of a run (mine)") == 2


@pytest.mark.slow
def test_slurm_starts_processes_that_find_each_other(finished, tmp_path):
  asked, environment = finished
  program(tmp_path / "srun", SRUN)
  done = subprocess.run(
    ["bash", LAUNCH / "slurm.sbatch", *asked], cwd=runs.ROOT, text=True,
    capture_output=True, env=environment | {
      "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77",
      "JAX_COORDINATOR_PORT": str(runs.free_port())})
  assert done.returncode == 0, done.stderr
  assert terminals.unbroken(done.stdout).count("is finished") == 1


@pytest.mark.parametrize(("code", "again"), [
  (0, False), (1, False), (2, False), (42, True), (parent_process.LOST, True)])
def test_slurm_queues_again_what_asks_for_it(fake, code, again):
  calls, status = fake("slurm.sbatch", "--workdir=/a b", codes=[code])
  assert calls[0] == (
    "srun --gpu-bind=none python -m dlrl.main --distributed --workdir=/a b")
  assert calls[1:] == ["scontrol requeue 77"] * again
  assert status == code


def test_slurm_starts_an_evaluation(fake):
  calls, _ = fake("slurm.sbatch", "evaluate", "--workdir=/a b", codes=[0])
  assert calls == [
    "srun --gpu-bind=none python -m dlrl.evaluate --distributed --workdir=/a b"]


def test_a_tpu_vm_starts_an_evaluation(fake):
  calls, status = fake(
    "tpu_vm.sh", "pod", "zone", "start", "evaluate", "--workdir=a", codes=[0])
  assert status == 0
  assert "-m dlrl.evaluate --distributed  --workdir=a >>" in "\n".join(calls)


def test_a_command_runs_again_until_it_does_not_ask_for_it(fake):
  calls, status = fake(
    "again.sh", "python", "-m", "x y", codes=[42, 43, parent_process.LOST, 2, 0]
  )
  assert (calls, status) == (["python -m x y"] * 4, 2)


def test_a_tpu_vm_runs_the_same_command_on_every_host(fake):
  calls, status = fake("tpu_vm.sh", "pod", "zone", "--config=a:b",
                       "--config.rollout.rewards=('x y',)", codes=[0])
  text = "\n".join(calls)
  assert status == 0
  assert "gcloud compute tpus tpu-vm ssh pod --zone=zone --worker=all" in text
  # What the hosts' shell makes of it.
  command = text[text.index("-m dlrl.main"):text.index(">>")]
  words = subprocess.run(
    ["bash", "-c", f"printf '%s\\n' {command}"], text=True,
    capture_output=True, check=True).stdout.splitlines()
  assert words == ["-m", "dlrl.main", "--distributed", "--config=a:b",
                   "--config.rollout.rewards=('x y',)"]


def test_the_jobset_has_a_process_for_every_host_of_its_topology():
  jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = job["template"]["spec"]
  container, = pod["containers"]
  x, y = pod["nodeSelector"][
    "cloud.google.com/gke-tpu-topology"].split("x")
  chips = container["resources"]["limits"]["google.com/tpu"]
  assert job["parallelism"] == job["completions"] == int(x) * int(y) // chips
  assert "command" not in container  # the image's, which is `dlrl`
  assert container["args"][0] == "train"
  names = {a.removeprefix("--").split("=")[0] for a in container["args"][1:]}
  assert "distributed" in names
  known = flags.FlagValues()
  commands.define("train", known)
  for name in names:
    assert name.startswith("config.") or name in known, name
  # Exit code 2 fails the job set; any other starts it again.
  rule, = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"] == {
    "containerName": container["name"], "operator": "In", "values": [2]}
  assert [e.keys() for e in container["env"]] == [{"name", "valueFrom"}] * 2
  assert {e["name"]: e["valueFrom"]["secretKeyRef"]["key"]
          for e in container["env"]} == {
    "HF_TOKEN": "HF_TOKEN", "WANDB_API_KEY": "WANDB_API_KEY"}
  assert pathlib.PurePath(
    container["volumeMounts"][0]["mountPath"]).is_absolute()
