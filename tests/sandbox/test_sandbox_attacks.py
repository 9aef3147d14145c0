import contextlib
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import sandbox_attacks
import sandbox_red_team
import sandboxes

from dlrl.sandbox import client
from dlrl.sandbox import sandbox

# To run 1,000: DLRL_HOSTILE_RUNS=1000 pytest -k zombie.
HOSTILE_RUNS = int(os.environ.get("DLRL_HOSTILE_RUNS", "40"))
QUICK = [
    "exit(0)", "os._exit in a call", "segmentation fault",
    "__eq__ is always true", "patched builtins", "junk on all descriptors",
    "a fork bomb", "a daemon", "many threads", "threads that stay",
    "printing without end", "all descriptors", "a connection"]


class Host:
  """The targets of the attacks, and whether one was reached."""

  def __init__(self, listeners: list[socket.socket], folder: pathlib.Path):
    self.listeners, self.folder = listeners, folder
    self.answers = folder / "answers"
    self.answers.write_text("42")
    for path, mode in ((folder, 0o777), (self.answers, 0o644)):
      path.chmod(mode)
    self.found = {
        "pid": os.getpid(), "port": listeners[0].getsockname()[1],
        "abstract": listeners[1].getsockname()[1:].decode(),
        "datagrams": listeners[2].getsockname()[1:].decode(),
        "answers": str(self.answers), "folder": str(folder)}

  def untouched(self) -> bool:
    return ([*self.folder.iterdir()] == [self.answers]
            and self.answers.read_text() == "42"
            and self.answers.stat().st_mode & 0o777 == 0o644
            and not select.select(self.listeners, [], [], 0)[0])


@pytest.fixture(scope="module")
def host():
  with contextlib.ExitStack() as stack:
    listeners = [stack.enter_context(socket.socket()),
                 stack.enter_context(socket.socket(socket.AF_UNIX)),
                 stack.enter_context(
                     socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))]
    names = ("127.0.0.1", 0), *(
        f"\0dlrl-test-{os.getpid()}-{kind}" for kind in range(2))
    for listener, name in zip(listeners, names, strict=True):
      listener.bind(name)
    for listener in listeners[:2]:
      listener.listen()
    # Not a directory of pytest's, which only its owner may enter.
    folder = tempfile.mkdtemp(prefix="dlrl-test-")
    stack.callback(shutil.rmtree, folder)
    yield Host(listeners, pathlib.Path(folder))


ATTACKS = {**sandbox_attacks.ATTACKS, **sandbox_red_team.ATTACKS}


def attack(name: str, host: Host) -> sandbox.Program:
  code = f"HOST = {host.found!r}\n{ATTACKS[name]}"
  return sandbox.Program(code, (sandbox_attacks.TEST,), entry_point="add")


@pytest.mark.slow
@pytest.mark.parametrize("tier", sandboxes.TIERS)
def test_attacks_score_nothing_and_leave_nothing(tier, host):
  names = list(ATTACKS)
  with sandboxes.start(tier, workers=8) as box:
    before = sandboxes.processes()
    results = box.run([attack(name, host) for name in names])
    assert sandboxes.processes() <= before
    assert sandboxes.zombies_of({*before, os.getpid()}) == set()
  assert [(name, result) for name, result in zip(names, results, strict=True)
          if result.outcomes[0] not in (
              client.Outcome.FAILED, client.Outcome.LATE)] == []
  assert sandboxes.processes() == set()
  assert host.untouched()


@pytest.mark.parametrize("tier", sandboxes.TIERS)
def test_a_program_finds_nothing_that_another_left(tier):
  names = list(sandbox_red_team.PAIRS)
  with sandboxes.start(tier, workers=1) as box:
    left = box.run([sandbox.Program(
        sandbox_red_team.leaves(name), ("assert add(1, 2)",), entry_point="add")
        for name in names])
    found = box.run([sandbox.Program(
        sandbox_red_team.finds(name), ("assert add(1, 2) is False",),
        entry_point="add") for name in names])
  assert [(name, one) for name, one in zip(names, found, strict=True)
          if one.passed != (True,)] == []
  # Or the test would show nothing: where the kernel is asked, it can be done.
  if tier == "namespaces only":
    done = {name for name, one in zip(names, left, strict=True)
            if one.passed == (True,)}
    assert done >= {"shared memory", "semaphores", "a queue of messages",
                    "flags of open files", "a key", "a file",
                    "a name on the network"}


@pytest.mark.parametrize("tier", sandboxes.TIERS)
def test_memory_is_bounded(tier, host):
  limits = sandbox.ProgramLimits(memory_mib=64)
  names = ("filling memory", "filling memory by mapping")
  with sandboxes.start(tier, limits) as box:
    objects, mappings = box.run([attack(name, host) for name in names])
  assert objects.reasons[0].startswith("MemoryError")
  assert "Cannot allocate" in mappings.reasons[0]


@pytest.mark.slow
def test_many_hostile_programs_leave_no_zombie(host):
  with sandboxes.start("all", workers=4) as box:
    jobs = [attack(QUICK[at % len(QUICK)], host) for at in range(HOSTILE_RUNS)]
    results = box.run(jobs)
    assert not any(any(result.passed) for result in results)
    assert not any(result.infrastructure_error for result in results)
    # Only the server is left, and the process that started it.
    assert len(sandboxes.processes()) <= 2
    assert sandboxes.zombies_of(
        {*sandboxes.processes(), os.getpid()}) == set()
  assert sandboxes.processes() == set()


@pytest.mark.parametrize("tier", list(sandboxes.TIERS)[1:])
@pytest.mark.parametrize("whose", ["trainer", "server"])
def test_everything_ends_with_the_trainer_and_with_the_server(tier, whose):
  script = f"""
from dlrl.sandbox import sandbox
box = sandbox.Sandbox(sandbox.ProgramLimits(**{vars(sandboxes.SHORT)!r}),
                      without={sandboxes.TIERS[tier]!r})
print(box._server.pid, flush=True)
sandbox._ATTEMPTS = 1
box.run([sandbox.Program("import time; time.sleep(60)", ("",))] * 2)
__import__("time").sleep(60)
"""
  with sandboxes.start(tier):
    pass  # or skip: this machine may lack the mechanism
  with subprocess.Popen([sys.executable, "-c", script],
                        stdout=subprocess.PIPE) as trainer:
    server = int(trainer.stdout.readline())
    end = time.monotonic() + 60
    while len(sandboxes.processes()) <= 3 and time.monotonic() < end:
      time.sleep(0.05)
    assert len(sandboxes.processes()) > 3
    os.kill(server if whose == "server" else trainer.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while sandboxes.processes() and time.monotonic() < end:
      time.sleep(0.05)
    assert sandboxes.processes() == set()
    trainer.kill()




def test_a_process_that_is_confined_after_the_server_ended_does_not_run():
  script = """
import os, time
from dlrl.sandbox import confine
report = os.dup(1)
confinement = confine.enter(namespaces=False, use_filter=False)
server = os.getpid()
if not os.fork():
  while os.getppid() == server:
    time.sleep(0.01)
  try:
    confine.confine(confinement, dict(
        total_s=9, memory_mib=999, files_mib=9, open_files=99, processes=99), 0)
    os.write(report, b"runs")
  except OSError as error:
    os.write(report, str(error).encode())
  os._exit(0)
"""
  printed = subprocess.run([sys.executable, "-c", script], check=True,
                           capture_output=True, text=True)
  assert (printed.stdout, printed.stderr) == ("the server has ended", "")
