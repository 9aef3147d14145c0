"""A run that goes on: which settings may have changed since its last start.

Each setting says so itself, by its `config.Restart`. What changed is printed
and recorded, in `starts.jsonl` with the step from which it holds.
"""

import pathlib
from collections.abc import Collection
from collections.abc import Iterator
from typing import Any

from dlrl import config
from dlrl import optimizer
from dlrl import strict
from dlrl.config import Restart
from dlrl.own_code import sources
from dlrl.runtime import goodput
from dlrl.runtime import own_files
from dlrl.runtime import progress
from dlrl.runtime import software
from dlrl.storage import checkpoint
from dlrl.storage import workdir as workdir_lib
from dlrl.strict import nested

_ALLOWED = {name: field.metadata["restart"]
            for name, field, _ in strict.knobs(config.Config())}
_DEFAULTS = {name: value for name, _, value in strict.knobs(config.Config())}


def length(cfg: config.Config) -> tuple[str, int]:
  """The setting that ends the run, and its value."""
  return ("steps", cfg.steps) if cfg.job == "rl" else (
    "sft.steps", cfg.sft.steps)


def free(cfg: config.Config) -> list[str]:
  """The settings that may differ from those of the last start."""
  return [name for name, allowed in _ALLOWED.items()
          if allowed in (Restart.FREE, Restart.ROUNDING)
          or name == length(cfg)[0]]


def lasting(cfg: config.Config, *parts: str) -> dict[str, Any]:
  """Settings that identify what a run has made, whoever goes on with it.

  Those in `parts`, sections or names, that differ from their defaults, so that
  a setting that did not exist yet does not matter.
  """
  return {name: value for name, _, value in strict.knobs(cfg)
          if name.partition(".")[0] in parts and value != _DEFAULTS[name]
          and _ALLOWED[name] in (Restart.FIXED, Restart.LENGTH)}


def recorded(root: pathlib.Path) -> dict[str, Any]:
  """The settings of the last start; {} if no step was made.

  Raises:
    strict.FlagError: this version of dlrl lacks some of them.
  """
  if not workdir_lib.begun(root):
    return {}
  try:
    found = own_files.read_object(root / "config.json")
  except ValueError:
    return {}  # `workdir.claim` reads it again and reports what is wrong
  problems = strict.Problems()
  for name, value in nested.flat(found):
    with problems.catch():
      strict.find(config.Config, name, value)
  strict.require(not problems.found, "workdir", str(root), "\n  ".join([
    "its run has settings that this version of dlrl lacks; go on with the "
    "version that began it, or, where they mean the same here, rename or "
    "remove them in its config.json:", *map(str, problems.found)]),
    strict.FlagError)
  return found


def newer(
  cfg: config.Config, found: dict[str, Any], typed: Collection[str]
) -> dict[str, Any]:
  """Values for settings that did not exist when the run began.

  They are the defaults, which mean what was. A config file may set others, for
  runs that begin.

  Args:
    cfg: the settings of this start.
    found: those of the last one, from `recorded`; {}: there was none.
    typed: the names of settings on the command line, which stay as they are.

  Returns:
    By dotted names, what differs from `cfg`.
  """
  there = {name for name, _ in nested.flat(found)}
  values = {}
  for name, _, value in strict.knobs(cfg) if found else ():
    # In sections such as `learn.loss_args`, the parts have names.
    old = any(f"{other}.".startswith(f"{name}.") for other in there)
    if not old and name not in typed and value != _DEFAULTS[name]:
      values[name] = _DEFAULTS[name]
      progress.say(
        f"the run is older than the setting {name}, which is {value!r} here; "
        f"it goes on with {_DEFAULTS[name]!r}, as it began")
  return values


def finished(cfg: config.Config, summary: dict[str, Any] | None) -> bool:
  """Whether a run with this summary has all steps that `cfg` asks for."""
  if summary is None:
    return False
  steps = length(cfg)[1]
  return bool(summary.get("steps", steps) == steps)


def begin(claimed: workdir_lib.Workdir, cfg: config.Config,
          summary: dict[str, Any] | None) -> None:
  """Records this start and what it changes; says what that means.

  Args:
    claimed: the run's directory.
    cfg: the settings of this start.
    summary: of a run that was finished with fewer steps, or None.

  Raises:
    strict.ConfigError: the run has as many steps as `cfg` asks for, or lacks
      the checkpoint to go on from.
  """
  made = max(checkpoint.steps(claimed.path / "checkpoints"), default=0)
  field, steps = length(cfg)
  if field in claimed.changed and workdir_lib.begun(claimed.path):
    done = max(made, (summary or {}).get("steps", 0))
    strict.require(
      steps > done, field, steps, f"the run in --workdir={claimed.path} has "
      f"made {done} steps already; set more, or choose another --workdir")
    strict.require(
      made == done or not summary, "workdir", str(claimed.path), "lacks the "
      f"checkpoint of step {done}, after which it would go on; restore it, or "
      "choose another --workdir", strict.FlagError)
  for text in _lines(claimed.changed, cfg, made):
    progress.say(text)
  code = sources.of(cfg)
  before = goodput.start(claimed.path, code, {
    "step": made, "software": software.found()} | (
    {"changed": claimed.changed} if claimed.changed else {}))
  for text in sources.changes(before, code):
    progress.say(text)
  # After the record: a start that dies in between is recorded twice.
  if claimed.resumed:
    workdir_lib.write_json(claimed.path / "config.json", strict.to_json(cfg))


def _lines(changed: dict[str, tuple[Any, Any]], cfg: config.Config, made: int
           ) -> Iterator[str]:
  if changed:
    yield f"changed after step {made}: " + ", ".join(
      f"{name} {old!r} -> {new!r}" + (
        " (equal up to rounding)"
        if _ALLOWED.get(name) == Restart.ROUNDING else "")
      for name, (old, new) in changed.items())
  field, steps = length(cfg)
  if field not in changed or not made:
    return
  part, section, updates = (
    (cfg.learn.optimizer, "learn", optimizer.rl_updates(cfg))
    if cfg.job == "rl" else (cfg.sft.optimizer, "sft", steps))
  if part.schedule == "constant":
    return
  each = updates // steps
  before, after = (float(optimizer.schedule(part, n * each)(made * each))
                   for n in (changed[field][0], steps))
  yield (
    f"{section}.optimizer.schedule = {part.schedule!r} now ends at step "
    f"{steps}: the rate of step {made + 1} is {after:.3g}, and would have been "
    f"{before:.3g}. The numbers are not those of a run that had {steps} steps "
    "from the beginning")
