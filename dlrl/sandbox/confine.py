"""What a process gives up before it runs hostile code: namespaces and limits.

The server enters namespaces of its own once (`enter`): no network, an empty
read-only file system, processes of its own. Each child gets a process
namespace (`fork`), a small file system in memory, limits, no privileges and the
system call filter (`confine`). Where the kernel gives no namespaces, the filter
alone refuses files, sockets and processes.
"""

import contextlib
import dataclasses
import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable

from dlrl.sandbox import seccomp
from dlrl.sandbox import syscalls

_NOBODY = 65534
_OWN = syscalls.NEWNS | syscalls.NEWNET | syscalls.NEWIPC | syscalls.NEWUTS
_PLAIN = syscalls.NOSUID | syscalls.NODEV
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Layers:
  """Which mechanisms confine the server's children."""

  namespaces: bool
  filter: bool
  nobody: bool  # started by root, they run as nobody
  memory: int  # bytes of addresses that the server has when it forks
  # Of the server's own process namespace, to come back to; -1: none.
  processes: int = -1

  def names(self) -> list[str]:
    """For people: the mechanisms in force."""
    return (["namespaces (mount, net, pid, ipc, uts)"] * self.namespaces
            + ["system call filter"] * self.filter
            + ["user nobody"] * self.nobody + ["limits"])


def why_no_namespaces() -> str:
  """Empty if this process could `enter`; else what the kernel said."""
  return _why_not(_enter)


def _why_not(action: Callable[[], None]) -> str:
  """What a child that tries it is told; empty if it may."""
  read, write = os.pipe()
  child = os.fork()
  if child == 0:
    try:
      action()
    except OSError as error:
      os.write(write, str(error).encode())
    os._exit(0)
  os.close(write)
  os.waitpid(child, 0)
  with os.fdopen(read) as pipe:
    return pipe.read()


def _become_nobody() -> None:
  os.setgroups([])
  os.setresgid(_NOBODY, _NOBODY, _NOBODY)
  os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def enter(*, namespaces: bool, use_filter: bool) -> Layers:
  """Confines this process and its children as far as both of them need.

  With namespaces, what returns is a child, and the first process of a process
  namespace: with it, every other process in it dies.
  """
  # When memory runs out, the kernel is to end these processes first.
  with (contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w") as file):
    file.write("1000")
  with open("/proc/self/statm") as file:
    memory = int(file.read().split()[0]) * resource.getpagesize()
  # Root of a container may lack the right, or the user.
  nobody = os.geteuid() == 0 and not _why_not(_become_nobody)
  layers = Layers(namespaces, use_filter, nobody, memory)
  if not namespaces:
    return layers
  if use_filter:
    seccomp.packed(1, files=True)  # once, for all children
  _enter()
  parent = os.getppid()
  child = os.fork()
  if child:
    _outlive(child, parent)
  syscalls.check(syscalls.prctl(1, signal.SIGKILL), "to end with the parent")
  processes = os.open("/proc/self/ns/pid", os.O_RDONLY)
  _empty_root()
  return dataclasses.replace(
      layers, processes=processes,
      nobody=nobody and os.geteuid() == 0)  # not in a user namespace


def _enter() -> None:
  """New namespaces; root's of the machine, or of a user namespace."""
  user, group = os.geteuid(), os.getegid()
  if syscalls.unshare(_OWN | syscalls.NEWPID):
    syscalls.check(syscalls.unshare(_OWN | syscalls.NEWPID | syscalls.NEWUSER),
                 "new namespaces")
    for name, text in (("setgroups", "deny"),
                       ("uid_map", f"{_NOBODY} {user} 1"),
                       ("gid_map", f"{_NOBODY} {group} 1")):
      with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
  # Whoever may not mount has been given names only.
  syscalls.check(
    syscalls.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE, ""),
    "private mounts",
  )
  syscalls.check(syscalls.mount("tmpfs", "/tmp", "tmpfs", _PLAIN, "mode=0755"),
               "file system in memory")


def _empty_root() -> None:
  os.mkdir("/tmp/tmp")
  os.chdir("/tmp")
  syscalls.check(syscalls.pivot_root("."), "empty root")
  os.chdir("/")
  syscalls.check(
    syscalls.mount(
      "none", "/", "", syscalls.REMOUNT | syscalls.RDONLY | _PLAIN, ""
    ),
    "read-only root",
  )


def _outlive(child: int, parent: int) -> None:
  """Ends with the child, and ends it with whoever started this process."""
  os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
  while os.waitpid(child, os.WNOHANG)[0] == 0 and os.getppid() == parent:
    time.sleep(0.2)
  os._exit(0)


def fork(layers: Layers) -> int:
  """As `os.fork`; the child is the first process of a process namespace."""
  if not layers.namespaces:
    return os.fork()
  syscalls.check(syscalls.unshare(syscalls.NEWPID), "new process namespace")
  try:
    return os.fork()
  finally:
    # In the child, too, where it changes nothing but its own children to be.
    syscalls.setns(layers.processes, syscalls.NEWPID)


def close_all_but(keep: list[int]) -> list[int]:
  """Closes what is open but the standard three; `keep` becomes 3, 4, ..."""
  low = range(3, 3 + len(keep))
  high = [fcntl.fcntl(fd, fcntl.F_DUPFD, low.stop) for fd in keep]
  for old, new in zip(high, low, strict=True):
    os.dup2(old, new)
  os.closerange(low.stop, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
  return list(low)


def confine(layers: Layers, limits: dict[str, int]) -> None:
  """Gives up everything but the descriptors that are open.

  Raises:
    OSError: the kernel refuses, and nothing hostile may be run.
  """
  os.setsid()
  if layers.namespaces:
    syscalls.check(syscalls.unshare(syscalls.NEWNS), "new mount namespace")
    owner = f"uid={_NOBODY},gid={_NOBODY}"
    syscalls.check(
        syscalls.mount(
            "tmpfs", "/tmp", "tmpfs", _PLAIN | syscalls.NOEXEC,
            f"mode=0700,nr_inodes=1024,size={limits['files_mib']}m,{owner}"),
        "temporary directory")
    os.chdir("/tmp")
  _limit(limits, layers)
  if layers.nobody:
    _become_nobody()
  syscalls.check(syscalls.prctl(1, signal.SIGKILL), "to end with the server")
  syscalls.check(syscalls.drop_capabilities(), "capabilities")
  syscalls.check(syscalls.prctl(38, 1), "no new privileges")
  if layers.filter:
    seccomp.install(files=layers.namespaces)


def _limit(limits: dict[str, int], layers: Layers) -> None:
  wanted = {
      resource.RLIMIT_AS: layers.memory + limits["memory_mib"] * _MIB,
      resource.RLIMIT_CORE: 0,
      resource.RLIMIT_CPU: limits["total_s"],
      resource.RLIMIT_FSIZE: limits["files_mib"] * _MIB,
      resource.RLIMIT_MEMLOCK: 0,
      resource.RLIMIT_MSGQUEUE: 0,
      resource.RLIMIT_NOFILE: limits["open_files"],
  }
  # The filter lets no process start. Counted by user and machine, processes
  # would be those of other programs.
  if not layers.filter:
    wanted[resource.RLIMIT_NPROC] = limits["processes"]
  for kind, value in wanted.items():
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
      value = min(value, most)
    resource.setrlimit(kind, (value, value))
