"""Sandboxes with each set of mechanisms, and the processes that they start."""

import contextlib
import json
import os
import pathlib

import pytest

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import sandbox

TIERS = {
    "all": (),
    "filter only": ("namespaces",),
    "namespaces only": ("filter",),
}
# Unusual limits, which mark the processes of these tests.
SHORT = sandbox.ProgramLimits(
    cpu_s=1, wall_s=2, total_s=6, processes=64,
    files_mib=16 + os.getpid() % 100,
    memory_mib=256 + os.getpid() // 100 % 100)


def processes() -> set[int]:
  """Ids of the servers with `SHORT` limits and of all their descendants."""
  found = set()
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError):
      command = (path / "cmdline").read_bytes()
      if json.dumps(vars(SHORT)).encode() in command:
        found.add(int(path.name))
  return found


def zombies_of(parents: set[int]) -> set[int]:
  """Ids of processes that ended but were not reaped by these parents."""
  found = set()
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):
      # State and parent follow the name, which may contain anything.
      state, parent = path.read_text().rpartition(")")[2].split()[:2]
      if state == "Z" and int(parent) in parents:
        found.add(int(path.parent.name))
  return found


def start(tier: str, limits=SHORT, **kwargs) -> sandbox.Sandbox:
  """Starts a sandbox; skips the test if the machine lacks a mechanism of it."""
  try:
    box = sandbox.Sandbox(limits, without=TIERS[tier], **kwargs)
  except strict.ConfigError as error:
    reason = str(error)
  else:
    if tier != "all" or "; no " not in box.protections:
      return box
    box.close()
    reason = box.protections
  # Skips only for a missing mechanism. One that has no effect is a bug.
  lacking = {"filter": "filter", "namespaces": "namespaces", "all": ""}
  assert f"; no {lacking[tier.split()[0]]}" in reason, reason
  pytest.skip(f"not on this machine: {reason}")


def no_process_in_time(monkeypatch):
  """Makes every pair of processes late. A limit of 0 s might be met."""
  def late(self, judge):
    raise TimeoutError

  monkeypatch.setattr(client.ProcessPair, "__init__", late)
