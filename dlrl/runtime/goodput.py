"""Goodput: the share of a run's time that went into steps it kept.

    workdir/starts.jsonl   one object per process, written as it starts; also
                           the step that it goes on from, and the settings that
                           differ from those of the process before

Steps that were lost because a process ended before they were saved do not
count, and neither do compilation, loading, evaluation or the time between
restarts.
"""

import itertools
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from dlrl.buckets import mirror
from dlrl.runtime import own_files

STEPS = ("fine-tuning", "rollout", "reward", "resampling", "update")
_FILE = "starts.jsonl"


def start(workdir: pathlib.Path, code: Mapping[str, str] = {},
          more: Mapping[str, Any] = {}) -> Mapping[str, str]:
  """Records that a process starts, and when the previous one last wrote.

  Args:
    workdir: directory of the run.
    code: checksums of users' modules, by name; recorded as `own_code`.
    more: what else is recorded of this process, values that JSON can hold.

  Returns:
    The checksums that the previous process recorded.
  """
  path = workdir / _FILE
  before = _last(path)
  files = [p for p in (path, workdir / "metrics.jsonl",
                       *workdir.glob("warm_start/*/metrics.jsonl"))
           if p.exists()]
  seen = max((p.stat().st_mtime for p in files), default=None)
  fd = own_files.open_fd(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  with open(fd, "a", encoding="utf-8") as f:
    f.write(json.dumps({"start": time.time(), "last_seen": seen, **more}
                       | ({"own_code": dict(code)} if code else {})) + "\n")
  mirror.push(path)
  found = before.get("own_code")
  return found if isinstance(found, dict) else {}


def _last(path: pathlib.Path) -> dict[str, Any]:
  """The record of the last start that can be read, if there is one."""
  try:
    return own_files.parsed(own_files.read(path).splitlines()[-1])
  except (OSError, ValueError, IndexError):
    return {}


def read(workdir: pathlib.Path, seconds: Mapping[str, float]
         ) -> dict[str, float]:
  """Goodput of a run that ends now.

  Args:
    workdir: directory of the run.
    seconds: seconds per phase that the run kept.

  Returns:
    `restarts`; `running_seconds`, the wall time of all processes;
    `idle_seconds` between them; `step_seconds` of kept steps; and `share`,
    step_seconds / running_seconds.
  """
  starts = [own_files.parsed(line) for line in
            (workdir / _FILE).read_bytes().splitlines()]
  # The end of a process is the last write that its successor found.
  ends = [max(row["start"], after["last_seen"])
          for row, after in itertools.pairwise(starts)]
  running = sum(end - row["start"] for row, end in zip(
    starts, [*ends, time.time()], strict=True))
  steps = sum(seconds.get(phase, 0.0) for phase in STEPS)
  return {
    "restarts": len(starts) - 1, "running_seconds": running,
    "idle_seconds": sum(after["start"] - end for after, end in zip(
      starts[1:], ends, strict=True)),
    "step_seconds": steps, "share": steps / running}


def line(found: Mapping[str, float], seconds: Mapping[str, Any]) -> str:
  """One line for people, with the other phases of the run."""
  others = {k: v for k, v in seconds.items() if k not in STEPS}
  known = sum(others.values()) + found["step_seconds"]
  others["other"] = max(found["running_seconds"] - known, 0.0)
  text = ", ".join(f"{phase} {each:.0f} s" for phase, each in others.items())
  return (f"goodput {found['share']:.0%}: {found['step_seconds']:.0f} s of "
          f"steps in {found['running_seconds']:.0f} s; {text}; "
          f"{found['restarts']:.0f} restarts, {found['idle_seconds']:.0f} s "
          "between them")
