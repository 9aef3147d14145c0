"""launch/tpu_vm.sh with a host that is a directory of this machine."""

import os
import shutil
import stat
import subprocess
import time

import pytest
import runs

SCRIPT = runs.ROOT / "launch" / "tpu_vm.sh"
GCLOUD = """#!/bin/bash
echo "$*" >> "$CALLS"
case $4 in
ssh) for word; do case $word in --command=*) command=${word#--command=};; esac
     done
     HOME=$HOST env -u HF_TOKEN bash -c "$command" ;;
scp) stat -c %a "$5" >> "$CALLS"; cp "$5" "$HOST/${6#*:}" ;;
esac
"""
# A run that asks for another start when it is told to stop.
PYTHON = """#!/bin/bash
trap 'echo saved; exit 42' TERM
echo "started with $*, token $HF_TOKEN"
while true; do sleep 0.05; done
"""


@pytest.fixture
def host(tmp_path):
  """Runs the script for one host; what it printed, and its code."""
  home = tmp_path / "host"
  (home / "dlrl" / "launch").mkdir(parents=True)
  shutil.copy(SCRIPT.with_name("again.sh"), home / "dlrl" / "launch")
  for name, text in (("gcloud", GCLOUD), ("python", PYTHON)):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(stat.S_IRWXU)

  def run(*args, **variables):
    done = subprocess.run(
      [SCRIPT, "pod", "zone", *args], text=True, capture_output=True,
      timeout=60, env=os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOST": str(home),
        "CALLS": str(tmp_path / "calls"), "PYTHON": str(tmp_path / "python"),
        "DLRL_PAUSE": "0", **variables})
    return done.stdout + done.stderr, done.returncode

  yield run
  run("stop")


def until(condition):
  for _ in range(600):
    if condition():
      return
    time.sleep(0.05)
  raise AssertionError("waited 30 s")


def test_a_run_is_started_once_watched_and_stopped(host, tmp_path):
  log = tmp_path / "host" / "dlrl.log"
  assert host("start", "--config=a b") == ("", 0)
  until(lambda: log.exists() and "started" in log.read_text())
  assert "-m dlrl.main --distributed --config=a b" in log.read_text()
  output, code = host("start", "--config=a b")
  assert "a run is going on here: stop it first" in output
  assert code == 3
  assert ": running" in host("status")[0]
  assert host("stop") == ("", 0)
  until(lambda: ": stopped" in host("status")[0])
  assert log.read_text().count("started") == 1  # nothing started it again
  assert log.read_text().count("saved") == 1
  output, _ = host("logs")
  assert output.splitlines()[0] == (
    f"{os.uname().nodename}: {log.read_text().splitlines()[0]}")
  assert "no run is going on" in host("stop")[0]
  assert host("start", "--config=c") == ("", 0)
  until(lambda: log.read_text().count("started") == 2)


def test_a_secret_reaches_the_run_and_no_command_line(host, tmp_path):
  log = tmp_path / "host" / "dlrl.log"
  output, code = host("start", "--env=HF_TOKEN", "--config=a",
                      HF_TOKEN="hf_'a $x")
  assert (output, code) == ("", 0)
  until(lambda: log.exists() and "token" in log.read_text())
  assert "--config=a, token hf_'a $x\n" in log.read_text()
  calls = (tmp_path / "calls").read_text()
  assert "hf_" not in calls
  assert calls.splitlines()[1] == "600"
  assert not (tmp_path / "host" / ".dlrl.env").exists()


@pytest.mark.parametrize("given", ["--env=HF_TOKEN", "--env=HF_TOKEN=secret"])
def test_a_variable_must_be_set_and_its_value_is_not_given(
    host, tmp_path, given):
  output, code = host("start", given, "--config=a", HF_TOKEN="")
  assert code == 2
  assert "must name a variable that is set here" in output
  assert "secret" not in output
  assert not (tmp_path / "calls").exists()


@pytest.mark.slow
def test_setup_installs_the_pinned_packages_on_all_hosts(host, tmp_path):
  host("setup", EXTRA="cuda13")
  call = (tmp_path / "calls").read_text()
  assert "--worker=all" in call
  assert "pip install -q -c constraints.txt -e '.[cuda13,wandb]'" in call


def test_another_word_is_refused(host, tmp_path):
  assert host("strat")[1] == 2
  assert not (tmp_path / "calls").exists()
