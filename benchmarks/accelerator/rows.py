"""Rows of findings, written at once: no later failure takes them away."""

import dataclasses
import json
import math
import pathlib
import time
import traceback
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
_CUT = 400  # characters of an error that a row keeps


@dataclasses.dataclass(frozen=True)
class Rows:
  """A file to which a stage adds rows.

  Attributes:
    path: a file of JSON, a row per line, which other stages add to as well.
    stage: the stage's name.
    until: when it is stopped, in seconds since the epoch.
  """

  path: pathlib.Path
  stage: str
  until: float = math.inf

  @property
  def left(self) -> float:
    """Seconds until the stage is stopped."""
    return self.until - time.time()

  def put(self, what: str, **found: Any) -> Row:
    """Adds a row, which is in the file when this returns."""
    row = {"stage": self.stage, "what": what, **found}
    with self.path.open("a", encoding="utf-8") as f:
      f.write(json.dumps(row, default=float) + "\n")
    return row

  def check(self, what: str, limit: float, **errors: float) -> Row:
    """Adds a row of errors, `ok` if none is above `limit` or not a number."""
    return self.put(what, ok=all(e <= limit for e in errors.values()),
                    limit=limit, **errors)

  def attempt(self, what: str, fn: Callable[..., Any], *args: Any,
              needs: float = 0.0) -> Any:
    """Calls `fn(*args)`; if that fails, adds a row with the reason.

    Args:
      what: the part of the stage that this is, for the row.
      fn: does it.
      *args: its arguments.
      needs: seconds that it takes; with less left it is skipped.
    """
    if self.left < needs:
      self.put(what, skipped=f"takes about {needs:.0f} s, {self.left:.0f} s of "
               "the stage are left")
      return None
    try:
      return fn(*args)
    except Exception as e:  # whatever it is, the next part is tried
      traceback.print_exc()
      self.put(what, failed=f"{type(e).__name__}: {e}"[:_CUT])
      return None


def read(path: pathlib.Path) -> list[Row]:
  """The rows of a file, without one that was cut off as its process ended."""
  found = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      found.append(json.loads(line))
    except ValueError:
      continue
  return found
