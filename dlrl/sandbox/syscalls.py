"""Linux system calls for which Python has no function, through ctypes.

Each returns 0 or the error number, which `check` turns into an exception.
"""

import ctypes
import errno
import os

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18

# Options of `prctl`.
SET_PDEATHSIG, SET_SECCOMP, SET_NO_NEW_PRIVS = 1, 22, 38

_LIBC = ctypes.CDLL(None, use_errno=True)
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPABILITY_VERSION_3 = 0x20080522


def _result(returned: int) -> int:
  return ctypes.get_errno() if returned < 0 else 0


def check(error: int, doing: str) -> None:
  """Raises `OSError`, with what was being done, unless `error` is 0."""
  if error:
    raise OSError(error, f"{doing}: {os.strerror(error)}")


def prctl(option: int, *arguments: int) -> int:
  """Sets an attribute of this process; see prctl(2)."""
  words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
  return _result(_LIBC.prctl(option, *words))


def exit_on(signal: int) -> None:
  """Ends this process as soon as it gets the signal, whatever runs in it."""
  _LIBC.signal(signal, ctypes.cast(_LIBC._exit, ctypes.c_void_p))


def unshare(namespaces: int) -> int:
  """Moves this process, or its future children, into new namespaces."""
  return _result(_LIBC.unshare(namespaces))


def setns(descriptor: int, kind: int) -> int:
  """Enters the namespace, of the given kind, that a descriptor refers to."""
  return _result(_LIBC.setns(descriptor, kind))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> int:
  """Mounts a file system, or changes how one is mounted."""
  return _result(_LIBC.mount(
      source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags),
      data.encode()))


def pivot_root(root: str) -> int:
  """Makes the mount point `root`, the current directory, the only root."""
  number = _PIVOT_ROOT[os.uname().machine]
  error = _result(_LIBC.syscall(number, root.encode(), root.encode()))
  # The old root now lies on top of the new one. It is still in use, so it can
  # only be detached (MNT_DETACH), to be unmounted when it no longer is.
  return error or _result(_LIBC.umount2(root.encode(), 2))


def new_session_keyring() -> int:
  """Gives this process a session keyring of its own (JOIN_SESSION_KEYRING)."""
  number = _KEYCTL.get(os.uname().machine)
  return errno.ENOSYS if number is None else _result(
      _LIBC.syscall(number, 1, None))


def drop_capabilities() -> int:
  """Gives up all capabilities, the parts of root's power, of this process."""
  header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
  return _result(_LIBC.capset(header, (ctypes.c_uint32 * 6)()))
