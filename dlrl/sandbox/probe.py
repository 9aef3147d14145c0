"""A program that tries to get out: whatever it reaches is not protected.

That a mechanism was switched on proves little; the probe looks at its effect.
"""

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator

EFFECTS = ("files", "network", "processes")

CODE = """
import os
import socket

def files(paths):
  return [path for path in paths if reached(os.stat, path)]

def network(port, name):
  return [address for family, address in (
              (socket.AF_INET, ("127.0.0.1", port)),
              (socket.AF_UNIX, chr(0) + name))
          if reached(lambda: socket.socket(family).connect(address))]

def processes(process):
  found = []
  if process != os.getpid() and reached(os.kill, process, 0):
    found.append("signals")
  if reached(fork) and os.getpid() != 1:  # the first of a namespace
    found.append("processes that outlive it")
  return found

def fork():
  child = os.fork()
  if child == 0:
    os._exit(0)
  os.waitpid(child, 0)

def reached(function, *arguments):
  try:
    function(*arguments)
  except OSError:
    return False
  return True
"""


@contextlib.contextmanager
def tests() -> Iterator[tuple[str, ...]]:
  """Gives one test per effect, which fails with what the probe reached.

  Within the context this process listens for connections, so that a refused
  one is the sandbox's doing.
  """
  paths = [os.path.realpath(sys.executable), __file__, "/etc/passwd",
           "/proc/self/status", "/sys"]
  name = secrets.token_hex()
  with contextlib.ExitStack() as stack:
    loopback = stack.enter_context(socket.socket())
    loopback.bind(("127.0.0.1", 0))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind("\0" + name)
    for listener in (loopback, abstract):
      listener.listen()
    port = loopback.getsockname()[1]
    yield tuple(f"found = {call}; assert not found, found" for call in (
        f"files({paths!r})", f"network({port}, {name!r})",
        f"processes({os.getpid()})"))
