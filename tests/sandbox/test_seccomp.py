import errno
import pathlib
import re

import pytest

from dlrl.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {  # of the Linux kernel, where distributions install them
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
PID = 77


def decide(machine: str, number: int, *arguments: int, files=False,
           architecture: int | None = None) -> int:
  """Interprets the filter as the kernel does, one instruction at a time."""
  words = {0: number, 4: architecture or ARCHITECTURES[machine]}
  words.update({16 + 8 * at: value for at, value in enumerate(arguments)})
  code = seccomp.program(machine, PID, files=files)
  at, word = 0, 0
  while True:
    operation, yes, no, operand = code[at]
    at += 1
    if operation == 0x06:
      return operand
    if operation == 0x20:
      word = words.get(operand, 0)
    else:
      hit = {0x15: word == operand, 0x35: word >= operand,
             0x45: word & operand != 0}[operation]
      at += yes if hit else no


@pytest.fixture(params=ARCHITECTURES)
def machine(request) -> str:
  return request.param


def number(machine: str, name: str) -> int:
  return {"x86_64": {"read": 0, "openat": 257, "socket": 41, "execve": 59,
                     "ptrace": 101, "kill": 62, "tgkill": 234, "clone": 56,
                     "fcntl": 72, "prlimit64": 302, "clone3": 435,
                     "sendto": 44},
          "aarch64": {"read": 63, "openat": 56, "socket": 198, "execve": 221,
                      "ptrace": 117, "kill": 129, "tgkill": 131, "clone": 220,
                      "fcntl": 25, "prlimit64": 261, "clone3": 435,
                      "sendto": 206},
          }[machine][name]


def test_only_listed_calls_are_allowed(machine):
  assert decide(machine, number(machine, "read")) == ALLOW
  for name in ("socket", "execve", "ptrace", "openat"):
    assert decide(machine, number(machine, name)) == EPERM


def test_files_are_visible_only_in_a_file_system_of_its_own(machine):
  openat = number(machine, "openat")
  assert decide(machine, openat, files=True) == ALLOW
  assert decide(machine, number(machine, "socket"), files=True) == EPERM


def test_a_process_can_signal_only_itself(machine):
  for name in ("kill", "tgkill"):
    assert decide(machine, number(machine, name), PID, 9) == ALLOW
    for other in (PID + 1, 0, 1, 0xFFFFFFFF, -PID & 0xFFFFFFFF):
      assert decide(machine, number(machine, name), other, 9) == EPERM
  fcntl = number(machine, "fcntl")
  assert decide(machine, fcntl, 5, 3) == ALLOW  # F_GETFL
  for owner in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    assert decide(machine, fcntl, 5, owner) == EPERM


def test_messages_cannot_have_an_address(machine):
  sendto = number(machine, "sendto")
  assert decide(machine, sendto, 3, 4096, 10, 0, 0, 0) == ALLOW
  assert decide(machine, sendto, 3, 4096, 10, 0, 8192, 16) == EPERM


def test_a_process_can_limit_only_itself(machine):
  prlimit = number(machine, "prlimit64")
  assert decide(machine, prlimit, 0) == ALLOW
  assert decide(machine, prlimit, PID) == ALLOW
  assert decide(machine, prlimit, PID + 1) == EPERM


def test_threads_can_be_made_and_processes_cannot(machine):
  clone = number(machine, "clone")
  assert decide(machine, clone, 0x3D0F00) == ALLOW  # as pthread_create does
  assert decide(machine, clone, 17) == EPERM  # as fork does: SIGCHLD
  for namespace in (0x20000, 0x2000000, 0x10000000, 0x40000000):
    assert decide(machine, clone, 0x3D0F00 | namespace) == EPERM


def test_calls_that_the_filter_cannot_inspect_seem_not_to_exist(machine):
  assert decide(machine, number(machine, "clone3")) == ENOSYS
  assert decide(machine, 1000) == ENOSYS


def test_calls_of_another_abi_kill_the_process(machine):
  read = number(machine, "read")
  assert decide(machine, read, architecture=0x40000003) == KILL  # 32 bits
  assert decide(machine, read | 0x40000000) == KILL  # x32


def test_the_numbers_agree_with_the_kernels_headers(machine):
  header = pathlib.Path(HEADERS[machine])
  if not header.exists():
    pytest.skip(f"no {header}")
  kernels = {}
  for match in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)",
                           header.read_text()):
    kernels.setdefault(match[1], int(match[2]))
  kernels.setdefault("newfstatat", kernels.get("fstatat"))
  for table in (seccomp._ALWAYS, seccomp._FILES,
                seccomp._ARGUMENTS, seccomp._OF_ITSELF,
                seccomp._CLONE):
    for name, value in seccomp.numbers(table, machine).items():
      assert value == kernels[name], name
