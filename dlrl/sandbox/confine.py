"""Confines a process before it runs hostile code: namespaces and limits.

The server enters new namespaces once (`enter`): no network, an empty read-only
file system, no processes but its own. Each child gets a process namespace
(`fork`), a small file system in memory, a user of its own, limits, no
privileges and the system call filter (`confine`). Where the kernel permits no
namespaces, the filter refuses files, sockets and processes by itself.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import resource
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from dlrl.sandbox import seccomp
from dlrl.sandbox import syscalls

_NOBODY = 65534
# Where possible, each process is a user of its own: the kernel counts threads
# and keeps keys by user. Just below `nobody`, systems rarely have users.
_USERS = 256
_NAMESPACES = (syscalls.NEWNS | syscalls.NEWNET | syscalls.NEWIPC
               | syscalls.NEWUTS | syscalls.NEWPID)
_PLAIN = syscalls.NOSUID | syscalls.NODEV
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Confinement:
  """How the server's children are confined.

  Attributes:
    namespaces: whether they are in namespaces.
    filter: whether the system call filter is in force.
    nobody: whether they run as the user nobody, or as users of their own; only
      if root started them.
    users: how many users there are for them; 0 if they all share one.
    tasks: processes and threads of the server's user when it started.
    server_bytes: address space of the server, which a fork starts with.
    parent: what children see as their parent's id while the server runs; 0 in
      a process namespace, which ends with the server.
    pid_namespace: descriptor of the server's own process namespace, to which
      it returns after a fork; -1 without namespaces.
  """

  namespaces: bool
  filter: bool
  nobody: bool
  users: int
  tasks: int
  server_bytes: int
  parent: int
  pid_namespace: int = -1

  def mechanisms(self) -> list[str]:
    """Names the mechanisms in force, for people."""
    return (["namespaces (mount, net, pid, ipc, uts)"] * self.namespaces
            + ["system call filter"] * self.filter
            + ["user nobody"] * (self.nobody and not self.users)
            + ["users of their own"] * (self.users > 0) + ["limits"])


def why_no_namespaces() -> str:
  """Returns why this process cannot `enter` namespaces; empty if it can."""
  return _error_in_child(_enter_namespaces)


def _error_in_child(action: Callable[[], None]) -> str:
  """Tries `action` in a child; returns its `OSError`, or an empty string."""
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
  with os.fdopen(read, encoding="utf-8") as pipe:
    return pipe.read()


def _become(user: int) -> None:
  os.setgroups([])
  os.setresgid(user, user, user)
  os.setresuid(user, user, user)


def _tasks() -> int:
  """Counts the processes and threads of this process's user."""
  found = 0
  for process in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError):
      if os.stat(f"/proc/{process}").st_uid == os.geteuid():
        found += len(os.listdir(f"/proc/{process}/task"))
  return found


def enter(*, namespaces: bool, use_filter: bool) -> Confinement:
  """Applies what confines this process and all its children alike.

  With namespaces, this function returns in a child: the first process of a
  process namespace, with which all other processes of that namespace end.
  """
  # When memory runs out, the kernel should kill these processes first.
  with (contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file):
    file.write("1000")
  with open("/proc/self/statm", encoding="ascii") as file:
    server_bytes = int(file.read().split()[0]) * resource.getpagesize()
  # A container's root may lack the right to change users, or have no nobody.
  nobody, own = (os.geteuid() == 0
                 and not _error_in_child(functools.partial(_become, user))
                 for user in (_NOBODY, _NOBODY - _USERS))
  confinement = Confinement(
      namespaces, use_filter, nobody, _USERS if own else 0, _tasks(),
      server_bytes, os.getpid())
  if not namespaces:
    return confinement
  if use_filter:
    seccomp.packed(1, files=True)  # fills the cache for all children
  _enter_namespaces()
  parent = os.getppid()
  child = os.fork()
  if child:
    _wait_and_exit(child, parent)
  _die_with_parent()
  pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
  _empty_root()
  # A user namespace maps only the user that this process already is.
  return dataclasses.replace(
      confinement, parent=0, pid_namespace=pid_namespace,
      nobody=nobody and os.geteuid() == 0,
      users=confinement.users if os.geteuid() == 0 else 0)


def _die_with_parent() -> None:
  syscalls.check(syscalls.prctl(syscalls.SET_PDEATHSIG, signal.SIGKILL),
                 "to end with the parent")


def _enter_namespaces() -> None:
  """Enters new namespaces, as root or by means of a user namespace."""
  user, group = os.geteuid(), os.getegid()
  if syscalls.unshare(_NAMESPACES):
    syscalls.check(syscalls.unshare(_NAMESPACES | syscalls.NEWUSER),
                   "new namespaces")
    for name, text in (("setgroups", "deny"),
                       ("uid_map", f"{_NOBODY} {user} 1"),
                       ("gid_map", f"{_NOBODY} {group} 1")):
      with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
        file.write(text)
  # Some kernels create the namespaces but grant no rights in them. Mounting
  # shows it.
  syscalls.check(
      syscalls.mount("none", "/", "", syscalls.REC | syscalls.PRIVATE, ""),
      "private mounts")
  syscalls.check(syscalls.mount("tmpfs", "/tmp", "tmpfs", _PLAIN, "mode=0755"),
               "file system in memory")
  # Its processes open it before they get a /tmp of their own.
  os.mkdir("/tmp/tmp")
  pathlib.Path("/tmp/tmp/null").touch()
  syscalls.check(
      syscalls.mount("/dev/null", "/tmp/tmp/null", "", syscalls.BIND, ""),
      "null device")


def _empty_root() -> None:
  os.chdir("/tmp")
  syscalls.check(syscalls.pivot_root("."), "empty root")
  os.chdir("/")
  flags = syscalls.REMOUNT | syscalls.RDONLY | _PLAIN
  syscalls.check(syscalls.mount("none", "/", "", flags, ""), "read-only root")


def _wait_and_exit(child: int, parent: int) -> NoReturn:
  """Exits when the child or the parent ends; the child ends with this process.
  """
  os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
  while os.waitpid(child, os.WNOHANG)[0] == 0 and os.getppid() == parent:
    time.sleep(0.2)
  os._exit(0)


def fork(confinement: Confinement) -> int:
  """Like `os.fork`, but the child is the first process of a new namespace.

  Without namespaces, the same as `os.fork`.
  """
  if not confinement.namespaces:
    return os.fork()
  syscalls.check(syscalls.unshare(syscalls.NEWPID), "new process namespace")
  try:
    return os.fork()
  finally:
    # The child does this as well. It only concerns its future children, which
    # it cannot have.
    syscalls.setns(confinement.pid_namespace, syscalls.NEWPID)


def close_all_but(keep: list[int]) -> list[int]:
  """Closes all descriptors from 3 on but `keep`, which become 3, 4, ..."""
  low = range(3, 3 + len(keep))
  high = [fcntl.fcntl(fd, fcntl.F_DUPFD, low.stop) for fd in keep]
  for old, new in zip(high, low, strict=True):
    os.dup2(old, new)
  os.closerange(low.stop, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
  return list(low)


def confine(confinement: Confinement, limits: dict[str, int],
            user: int) -> None:
  """Gives up everything but the open descriptors, for good.

  Args:
    confinement: what `enter` returned.
    limits: the fields of `ProgramLimits`.
    user: a number that no other process has at the same time.

  Raises:
    OSError: the kernel refused a step, or the server has ended; nothing
      hostile may run.
  """
  # The order matters: mounting needs the privileges that later steps drop, and
  # the filter, installed last, forbids most of these calls.
  os.setsid()
  _open_null("/tmp/null" if confinement.namespaces else "/dev/null")
  if not confinement.nobody:
    user = os.geteuid()
  else:
    user = _NOBODY - 1 - user if user < confinement.users else _NOBODY
  if confinement.namespaces:
    syscalls.check(
        # Without a filter, a program can leave shared memory, which must end
        # with it.
        syscalls.unshare(syscalls.NEWNS | syscalls.NEWIPC),
        "new mount and ipc namespaces")
    owner = f"uid={user},gid={user}"
    syscalls.check(
        syscalls.mount(
            "tmpfs", "/tmp", "tmpfs", _PLAIN | syscalls.NOEXEC,
            f"mode=0700,nr_inodes=1024,size={limits['files_mib']}m,{owner}"),
        "temporary directory")
    os.chdir("/tmp")
  if confinement.nobody:
    _become(user)
  # Both may be missing, and then so may what they protect from. In a user
  # namespace without users, the kernel counts from 0 what the user owns, and
  # grants no further namespace and so no further rights.
  syscalls.new_session_keyring()
  alone = syscalls.unshare(syscalls.NEWUSER) == 0
  _limit(limits, confinement, 0 if alone or confinement.users else
         confinement.tasks)
  # After the change of user, which clears this signal.
  _die_with_parent()
  # A parent that had ended before that sends no signal any more.
  if os.getppid() != confinement.parent:
    raise ProcessLookupError("the server has ended")
  syscalls.check(syscalls.drop_capabilities(), "capabilities")
  syscalls.check(syscalls.prctl(syscalls.SET_NO_NEW_PRIVS, 1),
                 "no new privileges")
  if confinement.filter:
    seccomp.install(files=confinement.namespaces)


def _open_null(path: str) -> None:
  """Opens the null device anew: programs can change an open file's flags."""
  null = os.open(path, os.O_RDWR)
  for standard in (0, 1, 2):
    os.dup2(null, standard)
  os.close(null)


def _limit(limits: dict[str, int], confinement: Confinement,
           others: int) -> None:
  """Limits resources; `others` of the user's tasks are not the program's."""
  wanted = {
      resource.RLIMIT_AS:
          confinement.server_bytes + limits["memory_mib"] * _MIB,
      resource.RLIMIT_CORE: 0,
      resource.RLIMIT_CPU: limits["total_s"],
      resource.RLIMIT_FSIZE: limits["files_mib"] * _MIB,
      resource.RLIMIT_MEMLOCK: 0,
      resource.RLIMIT_MSGQUEUE: 0,
      resource.RLIMIT_NOFILE: limits["open_files"],
      resource.RLIMIT_NPROC: limits["processes"] + others,
  }
  for kind, value in wanted.items():
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(kind, (value, value))
