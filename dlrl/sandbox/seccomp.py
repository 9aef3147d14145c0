"""A system call filter: what a hostile program may ask of the kernel.

The filter is an allow list, so it also refuses system calls that future kernels
add. A program may compute, allocate memory, create threads, pipes and timers
and signal itself. It may not start, signal or inspect another process, or open
a socket. Unless it has a file system of its own, it may not see any file, not
even whether one exists. The filter needs seccomp (Linux 3.5) and no privilege.
"""

import ctypes
import errno
import functools
import os
import platform
import struct

from dlrl.sandbox import syscalls

# Name, number on x86-64, number on AArch64; "-" if the machine lacks the call.
_ALWAYS = """
  read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67,
  pwrite64 18 68, lseek 8 62, close 3 57, close_range 436 436, fstat 5 80,
  poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20,
  epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19,
  pipe 22 -, pipe2 293 59, dup 32 23, dup2 33 -, dup3 292 24, mmap 9 222,
  munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214,
  futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
  set_tid_address 218 96, exit 60 93, exit_group 231 94, getpid 39 172,
  getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175,
  getgid 104 176, getegid 108 177, getpgrp 111 -, getpgid 121 155,
  getsid 124 156, sched_yield 24 124, sched_getaffinity 204 123,
  nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113,
  clock_getres 229 114, gettimeofday 96 169, time 201 -, times 100 153,
  getrusage 98 165, getrandom 318 278, uname 63 160, sysinfo 99 179,
  rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
  rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
  sigaltstack 131 132, alarm 37 -, setitimer 38 103, getitimer 36 102,
  pause 34 -, restart_syscall 219 128, getrlimit 97 163, setrlimit 160 164,
  umask 95 166, membarrier 324 283, wait4 61 260,
  recvfrom 45 207, shutdown 48 210"""
_FILES = """
  open 2 -, openat 257 56, stat 4 -, lstat 6 -, newfstatat 262 79,
  statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439,
  readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17,
  chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -,
  unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
  renameat2 316 276, truncate 76 45, ftruncate 77 46, fallocate 285 47,
  fsync 74 82, fdatasync 75 83, chmod 90 -, fchmod 91 52, fchmodat 268 53,
  utimensat 280 88, statfs 137 43, fstatfs 138 44, symlink 88 -,
  symlinkat 266 36, link 86 -, linkat 265 37"""
# Allowed if one argument has one of a few values.
_ARGUMENTS = """
  fcntl 72 25, ioctl 16 29, socketpair 53 199, sendto 44 206, prctl 157 167"""
_OF_ITSELF = "kill 62 129, tgkill 234 131, prlimit64 302 261"
_CLONE, _CLONE3 = "clone 56 220", 435

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Classic BPF: BPF_LD|BPF_W|BPF_ABS, JEQ, JGE, JSET and RET.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = (
    0x20, 0x15, 0x35, 0x45, 0x06)
# Offsets in `struct seccomp_data`. Of the 64 bits of an argument, the filter
# reads the lower 32, as the kernel does of the arguments that are checked here.
_NUMBER, _ARCHITECTURE, _ARGUMENT_0 = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000  # from here on, numbers are of the x32 ABI
_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000
_FILTER_MODE = 2

Instruction = tuple[int, int, int, int]  # code, jump if true, if false, operand


def supported() -> bool:
  """Whether the kernel has seccomp, and `_ALWAYS` has this machine's numbers.
  """
  return (platform.machine() in _MACHINES
          # EFAULT: the kernel tried to read a filter at address 0.
          and syscalls.prctl(syscalls.SET_SECCOMP, _FILTER_MODE, 0)
          == errno.EFAULT)


def numbers(table: str, machine: str) -> dict[str, int]:
  """Maps the names of a table's system calls to `machine`'s numbers."""
  column = _MACHINES[machine][0] + 1
  rows = [row.split() for row in table.split(",")]
  return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _one_of(number: int, argument: int, values: list[int]) -> list[Instruction]:
  """Decides about the call `number`: allowed if an argument is in `values`.

  Other calls are left to the instructions that follow.
  """
  tests: list[Instruction] = [
      (_IF_EQUAL, len(values) - at, 0, value)
      for at, value in enumerate(values)]
  return [(_IF_EQUAL, 0, len(values) + 3, number),
          (_LOAD, 0, 0, _ARGUMENT_0 + 8 * argument),
          *tests,
          (_RETURN, 0, 0, _ERROR | errno.EPERM),
          (_RETURN, 0, 0, _ALLOW)]


def program(machine: str, pid: int, *, files: bool) -> list[Instruction]:
  """Returns the filter of a process.

  Args:
    machine: a key of `_MACHINES`.
    pid: the process id, which signals and limits may name.
    files: whether the process has a file system of its own and may use it.
  """
  allowed = list(numbers(_ALWAYS, machine).values())
  if files:
    allowed += numbers(_FILES, machine).values()
  some = numbers(_ARGUMENTS, machine)
  itself = numbers(_OF_ITSELF, machine)
  clone = numbers(_CLONE, machine)["clone"]
  code: list[Instruction] = [
      # First the ABI: a 32-bit call has other numbers, which the rest would
      # take for harmless calls.
      (_LOAD, 0, 0, _ARCHITECTURE),
      (_IF_EQUAL, 1, 0, _MACHINES[machine][1]),
      (_RETURN, 0, 0, _KILL),
      (_LOAD, 0, 0, _NUMBER),
      (_IF_AT_LEAST, 0, 1, _X32),
      (_RETURN, 0, 0, _KILL)]
  for number in allowed:
    code += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
  # F_DUPFD to F_SETFL and F_DUPFD_CLOEXEC, but not F_SETOWN and its like, which
  # make the kernel send signals to any process.
  code += _one_of(some["fcntl"], 1, [0, 1, 2, 3, 4, 1030])
  # FIONBIO, FIONCLEX, FIOCLEX
  code += _one_of(some["ioctl"], 1, [0x5421, 0x5450, 0x5451])
  code += _one_of(some["socketpair"], 0, [1])  # AF_UNIX, which asyncio uses
  # An address of length 0: only to the other end of a socket pair.
  code += _one_of(some["sendto"], 5, [0])
  # PR_SET_NAME, PR_GET_NAME of a thread
  code += _one_of(some["prctl"], 0, [15, 16])
  code += _one_of(itself["kill"], 0, [pid])
  code += _one_of(itself["tgkill"], 0, [pid])
  code += _one_of(itself["prlimit64"], 0, [0, pid])
  code += [  # threads, but neither processes nor namespaces
      (_IF_EQUAL, 0, 5, clone),
      (_LOAD, 0, 0, _ARGUMENT_0),
      (_IF_ANY_BIT, 0, 2, _CLONE_THREAD),
      (_IF_ANY_BIT, 1, 0, _CLONE_NEW),
      (_RETURN, 0, 0, _ALLOW),
      (_RETURN, 0, 0, _ERROR | errno.EPERM)]
  # ENOSYS makes the C library fall back from newer calls, such as clone3, whose
  # flags a filter cannot read, to older ones. EPERM would be final.
  return [*code,
          (_IF_AT_LEAST, 0, 1, _CLONE3),
          (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
          (_RETURN, 0, 0, _ERROR | errno.EPERM)]


@functools.cache  # in process namespaces, the pid is 1 for every child
def packed(pid: int, *, files: bool) -> bytes:
  """Returns the filter of process `pid`, on this machine, in binary form."""
  code = program(platform.machine(), pid, files=files)
  return b"".join(struct.pack("=HBBI", *step) for step in code)


class _Filter(ctypes.Structure):
  _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def install(*, files: bool) -> None:
  """Installs the filter for this process and all its threads, for good.

  The process must have a single thread, and have set `no_new_privs`.

  Args:
    files: as in `program`.

  Raises:
    OSError: the kernel refuses the filter.
  """
  code = packed(os.getpid(), files=files)
  header = _Filter(len(code) // 8, code)
  syscalls.check(
      syscalls.prctl(syscalls.SET_SECCOMP, _FILTER_MODE,
                     ctypes.addressof(header)), "seccomp")
