"""A process that forks a pair of processes, candidate and judge, for every job.

The server is started by exec, without JAX, and never reads a job. Its memory,
of which every program gets a copy, therefore holds no text of another program
or test. For each job the trainer sends one end of a socket, which the judge
inherits. When the trainer shuts that socket down, or the judge ends, the server
kills the pair. When both are reaped, it closes the socket, which tells the
trainer.
"""

import dataclasses
import functools
import gc
import itertools
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable

from dlrl.sandbox import candidate
from dlrl.sandbox import confine
from dlrl.sandbox import judge
from dlrl.sandbox import seccomp
from dlrl.sandbox import stdlib
from dlrl.sandbox import wire


@dataclasses.dataclass
class _ForkedPair:
  trainer: int  # descriptor of the socket to the trainer
  judge: int  # process id
  number: int  # that no other pair has at the same time
  alive: set[int]  # process ids, of at most two
  killed: bool = False

  def kill(self) -> None:
    self.killed = True
    for process in self.alive:
      os.kill(process, signal.SIGKILL)


def main(control: int, options: str) -> None:
  """Starts pairs until the trainer closes its end.

  Args:
    control: descriptor of the socket over which the trainer asks for pairs.
    options: JSON of `limits` and `without`, mechanisms not to use.
  """
  limits, without = (json.loads(options)[key] for key in ("limits", "without"))
  os.environ.clear()
  files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
  resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
  stdlib.load()
  missing = {}
  if "namespaces" in without:
    missing["namespaces"] = "switched off"
  elif why := confine.why_no_namespaces():
    missing["namespaces"] = why
  if "filter" in without:
    missing["filter"] = "switched off"
  elif not seccomp.supported():
    missing["filter"] = "not supported by this kernel or machine"
  nothing = os.open("/dev/null", os.O_RDWR)
  confinement = confine.enter(namespaces="namespaces" not in missing,
                              use_filter="filter" not in missing)
  wire.send(control, {"mechanisms": confinement.mechanisms(),
                      "missing": missing})
  for standard in (0, 1, 2):
    os.dup2(nothing, standard)
  gc.collect()
  gc.freeze()  # children share the pages to which nobody writes
  _serve(control, confinement, limits)


def _serve(control: int, confinement: confine.Confinement,
           limits: dict[str, int]) -> None:
  read, write = os.pipe()
  os.set_blocking(read, False)
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the pipe is written
  trainer = socket.socket(fileno=control)
  parent = os.getppid()
  pairs: list[_ForkedPair] = []
  # A closed socket is not the only sign that the trainer ended: a fork of the
  # trainer may hold its end of the socket open and outlive it.
  while os.getppid() == parent:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(read, select.POLLIN)
    for pair in pairs:
      if not pair.killed:
        poll.register(pair.trainer, select.POLLRDHUP)
    ready = {descriptor for descriptor, _ in poll.poll(1000)}
    for pair in pairs:
      if pair.trainer in ready:
        pair.kill()
    if read in ready:
      os.read(read, 4096)
      pairs = _reap(pairs)
    if control in ready:
      sent, jobs, _, _ = socket.recv_fds(trainer, 1, 1)
      if not sent:
        break
      for job in jobs:
        taken = {pair.number for pair in pairs}
        number = next(n for n in itertools.count() if n not in taken)
        pairs.append(_start(job, number, confinement, limits))
  for pair in pairs:
    pair.kill()


def _reap(pairs: list[_ForkedPair]) -> list[_ForkedPair]:
  """Reaps ended processes; returns the pairs that still have one."""
  while True:
    try:
      process, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
      process = 0
    if process == 0:
      break
    for pair in pairs:
      pair.alive.discard(process)
      if process == pair.judge:
        pair.kill()
  for pair in pairs:
    if not pair.alive:
      os.close(pair.trainer)
  return [pair for pair in pairs if pair.alive]


def _start(trainer: int, number: int, confinement: confine.Confinement,
           limits: dict[str, int]) -> _ForkedPair:
  candidates, judges = (end.detach() for end in socket.socketpair())
  pair = _ForkedPair(trainer, -1, number, set())
  try:
    run_candidate = functools.partial(candidate.main, cpu_s=limits["cpu_s"])
    pair.alive.add(_spawn(
        functools.partial(confine.confine, confinement, limits, 2 * number),
        confinement, run_candidate, [candidates]))
    pair.judge = _spawn(
        functools.partial(confine.confine, confinement, limits, 2 * number + 1),
        confinement, judge.main, [trainer, judges])
    pair.alive.add(pair.judge)
  except OSError as error:
    wire.send(trainer, {"start": str(error)})
    pair.kill()
  os.close(candidates)
  os.close(judges)
  return pair


def _spawn(give_up: Callable[[], None], confinement: confine.Confinement,
           run: Callable[..., None], keep: list[int]) -> int:
  """Forks a child that only calls `run` with the descriptors `keep`."""
  process = confine.fork(confinement)
  if process:
    return process
  try:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    keep = confine.close_all_but(keep)
    try:
      give_up()
    except OSError as error:
      # Nothing hostile runs. The judge tells the trainer; the candidate tells
      # the judge, which passes it on.
      wire.send(keep[0], {"start": str(error)})
    else:
      run(*keep)
  finally:
    os._exit(0)
