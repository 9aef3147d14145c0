"""A run: a config, settings that differ from it, and a seed."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

Settings = tuple[tuple[str, Any], ...]  # sorted, so that equal ones are equal

# Settings of all runs. Few steps, because many runs are worth more than long
# ones; the config's schedule decays over them. One device, so that two runs
# take turns at nothing: what is compared at equal steps needs no timing.
COMMON: Mapping[str, Any] = {
  "steps": 160,
  "mesh.cpu_devices": 1,
  "sft.steps": 0,  # all methods of a seed begin with one fine-tuned model
  "eval.every": 40,
}
# How a run is watched and logged changes no number of it.
UNWATCHED: Mapping[str, Any] = {
  "log_every": 40,
  "sample_every": 160,
  "checkpoint_every": 40,
  # Runs of low priority may wait for others as long as those take.
  "watchdog.times": 0,
}
# By task, the config whose fine-tuning all its runs begin with.
WARM_STARTS = {"sudoku": "configs/bgpo.py",
               "countdown": "configs/bgpo.py:countdown",
               "blocks": "configs/bgpo.py:blocks",
               "countdown4": "configs/bgpo.py:countdown4"}


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run.

  Attributes:
    config: its file and preset, as `--config` takes them.
    settings: those that differ from the config, without the seed.
    seed: the run's seed.
    warm: the run that it begins with; None for a warm start itself.
  """

  config: str
  settings: Settings
  seed: int
  warm: "Run | None" = None

  @functools.cached_property
  def name(self) -> str:
    """Names its files: the config, the seed, a checksum of all settings."""
    stem = re.sub(r"\W+", "_", self.config.removeprefix("configs/").replace(
      ".py", ""))
    of = json.dumps([self.config, self.settings, self.seed,
                     self.warm and self.warm.name])
    return f"{stem}-{self.seed}-{hashlib.sha256(of.encode()).hexdigest()[:8]}"

  def arguments(self, workdirs: pathlib.Path, **extra: Any) -> list[str]:
    """Returns the arguments of `python -m dlrl.main`, without its workdir.

    Args:
      workdirs: where the warm start has its workdir.
      **extra: settings beyond the run's.
    """
    settings = dict(UNWATCHED) | dict(self.settings) | {"seed": self.seed}
    if self.warm is not None:
      settings["init_from"] = self.warm.workdir(workdirs)
    return [f"--config={self.config}", *(
      f"--config.{k}={v}" for k, v in (settings | extra).items())]

  def workdir(self, workdirs: pathlib.Path) -> pathlib.Path:
    """Where it runs."""
    return workdirs / self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """A row of a table: runs that differ in their seeds alone.

  Attributes:
    claim: a key of `table.CLAIMS`.
    label: what the row is called, unique within its claim.
    config: see `Run`.
    overrides: settings that differ from the config and from `COMMON`.
    seeds: those that are run, in this order.
    task: a key of `WARM_STARTS`.
  """

  claim: str
  label: str
  config: str
  overrides: Mapping[str, Any]
  seeds: tuple[int, ...]
  task: str = "sudoku"

  def run(self, seed: int) -> Run:
    """The run of a seed."""
    return Run(self.config, _sorted({**COMMON, **self.overrides}), seed,
               warm_start(self.task, seed))

  @property
  def runs(self) -> list[Run]:
    """One per seed."""
    return [self.run(seed) for seed in self.seeds]


def warm_start(task: str, seed: int) -> Run:
  """The fine-tuning that all runs of a task and a seed begin with."""
  return Run(WARM_STARTS[task], _sorted({
    "job": "sft", "mesh.cpu_devices": COMMON["mesh.cpu_devices"]}), seed)


def _sorted(settings: Mapping[str, Any]) -> Settings:
  return tuple(sorted(settings.items()))
