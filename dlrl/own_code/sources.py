"""Says which version of users' code a run uses: checksums of its files.

A name can stay while what it stands for changes. What a module imports in turn
is not seen.
"""

import hashlib
import pathlib
import sys
from collections.abc import Iterator
from collections.abc import Mapping

from dlrl import config
from dlrl.own_code import imported


def of(cfg: config.Config) -> dict[str, str]:
  """SHA-256, in hex, of the file of each module of users that `cfg` names.

  They are imported already. A module without a file has "".
  """
  names = (cfg.learn.loss, cfg.learn.forward_process, cfg.sft.forward_process,
           cfg.family, *cfg.task.name.split("+"), *cfg.rollout.rewards)
  return {name: _digest(name.rpartition(":")[0])
          for name in names if imported.named(name)}


def _digest(module: str) -> str:
  file = getattr(sys.modules[module], "__file__", None)
  return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() if (
    file) else ""


def changes(before: Mapping[str, str], now: Mapping[str, str]
            ) -> Iterator[str]:
  """A line for each module whose file differs between two starts of a run."""
  for name in sorted(before.keys() & now.keys()):
    if before[name] != now[name]:
      yield (f"{name}: its file has changed since this run was last started "
             f"({before[name][:12]} -> {now[name][:12]}); the run goes on with "
             "what is there now")
