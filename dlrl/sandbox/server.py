"""A process that forks a pair, program and judge, for every job.

It is started afresh, before and apart from JAX, and never reads a job: of a
program's or a test's text nothing is in the memory that the next program gets a
copy of. The trainer sends the end of a socket, which becomes the judge's. When
either the trainer shuts it down or the judge ends, the pair is killed; when
both have been reaped, the socket is closed here, which tells the trainer.
"""

import dataclasses
import functools
import gc
import json
import os
import resource
import select
import signal
import socket
from collections.abc import Callable

from dlrl.sandbox import candidate as candidate_lib
from dlrl.sandbox import confine
from dlrl.sandbox import judge as judge_lib
from dlrl.sandbox import seccomp
from dlrl.sandbox import stdlib
from dlrl.sandbox import wire


@dataclasses.dataclass
class _Pair:
  trainer: int  # descriptor
  judge: int  # process id
  alive: set[int]  # of the two processes
  killed: bool = False

  def kill(self) -> None:
    self.killed = True
    for process in self.alive:
      os.kill(process, signal.SIGKILL)


def main(control: int, options: str) -> None:
  """Serves the socket `control` until the trainer closes it.

  `options`: JSON of `limits` and `without`, mechanisms not to use.
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
    missing["filter"] = "not of this kernel or machine"
  nothing = os.open("/dev/null", os.O_RDWR)
  layers = confine.enter(namespaces="namespaces" not in missing,
                         use_filter="filter" not in missing)
  wire.send(control, {"layers": layers.names(), "missing": missing})
  for standard in (0, 1, 2):
    os.dup2(nothing, standard)
  gc.collect()
  gc.freeze()  # pages that are never written are shared by all children
  _serve(control, layers, limits)


def _serve(control: int, layers: confine.Layers,
           limits: dict[str, int]) -> None:
  read, write = os.pipe()
  os.set_blocking(read, False)
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  trainer = socket.socket(fileno=control)
  parent = os.getppid()
  pairs: list[_Pair] = []
  # A fork of the trainer may hold its end of the socket open, and outlive it.
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
      pairs += [_start(job, layers, limits) for job in jobs]
  for pair in pairs:
    pair.kill()


def _reap(pairs: list[_Pair]) -> list[_Pair]:
  """Reaps what has ended; returns the pairs of which something is left."""
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


def _start(trainer: int, layers: confine.Layers,
           limits: dict[str, int]) -> _Pair:
  """Forks the program's process and the judge."""
  theirs, judges = (one.detach() for one in socket.socketpair())
  pair = _Pair(trainer, -1, set())
  try:
    candidate = functools.partial(
        candidate_lib.main, cpu_s=limits["cpu_s"])
    pair.alive.add(_spawn(layers, limits, candidate, [theirs]))
    pair.judge = _spawn(layers, limits, judge_lib.main, [trainer, judges])
    pair.alive.add(pair.judge)
  except OSError as error:
    wire.send(trainer, {"start": str(error)})
    pair.kill()
  os.close(theirs)
  os.close(judges)
  return pair


def _spawn(layers: confine.Layers, limits: dict[str, int],
           run: Callable[..., None], keep: list[int]) -> int:
  """A child that does nothing but `run` with the descriptors `keep`."""
  process = confine.fork(layers)
  if process:
    return process
  try:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    keep = confine.close_all_but(keep)
    try:
      confine.confine(layers, limits)
    except OSError as error:
      # Before anything hostile runs: for the trainer, or the judge to pass on.
      wire.send(keep[0], {"start": str(error)})
    else:
      run(*keep)
  finally:
    os._exit(0)
