"""The right to write into a directory of a bucket, for one process at a time.

    lock    an object: who has the lease; rewritten as long as it is held

No kernel releases a lock in a bucket when a process dies. A process therefore
keeps renewing its lease and ends itself when it could not for `SECONDS`. A
lease that has not been renewed for longer belongs to nobody. No clocks of
different hosts are compared: whoever waits looks at the object itself.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from dlrl.buckets import mirror
from dlrl.buckets import objects

SECONDS = 60.0
_LONGER = 1.1  # what a request under way at the end of a lease takes

# Counts the time in which the machine is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclasses.dataclass
class _Held:
  """The lease as this process last wrote it.

  Attributes:
    url: of the directory.
    token: tells this process from all others.
    generation: of the object.
    until: on this process's clock, when it ends.
    number: of the last renewal.
    trouble: why the last renewal failed, or why none was tried.
  """

  url: str
  token: str
  generation: bytes
  until: float
  number: int = 0
  trouble: str = "this process was suspended"

  def write(self, *, released: bool = False) -> None:
    """Renews or releases the lease; raises like `objects.put`."""
    self.number += 1
    began = now()
    data = json.dumps({
      "by": f"{socket.gethostname()}, process {os.getpid()}",
      "token": self.token, "number": self.number, "time": time.time(),
      "released": released}).encode()
    seconds = max(min(SECONDS, self.until - began), 0.1)
    try:
      self.generation = objects.put(
        self.url, mirror.LOCK, data, self.generation, seconds)
    except objects.ChangedError:
      # A renewal that we gave up may have arrived late.
      found, generation = objects.get(self.url, mirror.LOCK)
      if _read(found).get("token") != self.token:
        raise
      self.generation = objects.put(
        self.url, mirror.LOCK, data, generation, seconds)
    self.until = began + SECONDS


def now() -> float:
  """Seconds of the clock that leases are measured by."""
  return time.clock_gettime(_CLOCK)


@contextlib.contextmanager
def held(url: str, refuse: objects.Refuse, say: Callable[[str], None],
         lost: Callable[[str], None]) -> Iterator[float]:
  """Has the lease while entered.

  Waits until the lease of a process that has died ends.

  Args:
    url: the directory, `gs://BUCKET/PATH`.
    refuse: makes the error to raise.
    say: told what is waited for.
    lost: ends this process at once, for the reason that it is given.

  Yields:
    When the previous holder last renewed it, in seconds since the epoch.

  Raises:
    What `refuse` makes: another process has the lease.
    objects.BucketError: the bucket cannot be used.
  """
  before, generation = _wait(url, refuse, say)
  lease = _Held(url, secrets.token_hex(8), generation, now() + SECONDS)
  try:
    lease.write()
  except objects.ChangedError as e:
    raise refuse("another process was faster; wait for it, or choose another "
                 "directory") from e
  stop = threading.Event()
  threads = [threading.Thread(
    target=each, args=(lease, stop, lost), name=each.__name__, daemon=True)
    for each in (_renew, _guard)]
  for thread in threads:
    thread.start()
  try:
    yield float(before.get("time", time.time()))
  finally:
    stop.set()
    for thread in threads:
      thread.join()
    # The next process waits if this fails.
    with contextlib.suppress(objects.BucketError):
      lease.write(released=True)


def _read(data: bytes | None) -> dict[str, Any]:
  try:
    found = json.loads(data or b"{}")
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _wait(url: str, refuse: objects.Refuse, say: Callable[[str], None]
          ) -> tuple[dict[str, Any], bytes]:
  """Waits until nobody has the lease; returns its content and generation."""
  data, generation = objects.get(url, mirror.LOCK)
  found = _read(data)
  if data is None or found.get("released"):
    return found, generation
  seconds = SECONDS * _LONGER
  say(f"{url} has a lease of {found.get('by', 'unknown')}; waiting "
      f"{seconds:.0f} s, after which it has ended if that process has")
  end = now() + seconds
  while now() < end:
    time.sleep(seconds / 20)
    data, newer = objects.get(url, mirror.LOCK, generation)
    if newer == generation:
      continue
    found = _read(data)
    if data is None or found.get("released"):
      return found, newer
    raise refuse(f"in use by {found.get('by', 'another process')}; wait for "
                 "it, end it, or choose another directory")
  return found, generation


def _renew(lease: _Held, stop: threading.Event, lost: Callable[[str], None]
           ) -> None:
  while not stop.wait(SECONDS / 6):
    try:
      lease.write()
    except objects.ChangedError:
      lost(f"another process has taken over {lease.url}")
    except objects.BucketError as e:
      lease.trouble = str(e)


def _guard(lease: _Held, stop: threading.Event, lost: Callable[[str], None]
           ) -> None:
  """Ends the process in time; asks no server, which could hold it up."""
  while not stop.wait(SECONDS / 60):
    if now() >= lease.until:
      lost(f"the lease of {lease.url} has ended: {lease.trouble}; the same "
           "command continues")
      return
