"""The commits of what a run reads from the Hugging Face Hub.

A branch moves: were its name kept, the processes of a job could read different
commits, and a run that continues another one than it began with.
"""

import dataclasses
import functools
import operator
import os
import pathlib
from typing import Any

import ml_collections

from dlrl import config
from dlrl import strict
from dlrl.hub import snapshots
from dlrl.runtime import own_files
from dlrl.runtime import processes
from dlrl.runtime import progress

FIELDS = ("pretrained", "task.train_files", "task.validation_files",
          "task.test_files")


def keep(values: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Gives names on the Hub the commits that the run in `workdir` began with.

  Only to those without a revision, so that the same command continues a run
  whatever was published meanwhile.

  Args:
    values: the settings, not checked yet; changed in place.
    workdir: of the run; need not exist.
  """
  if not (workdir / "config.json").exists():
    return
  try:
    begun = own_files.read_object(workdir / "config.json")
  except ValueError:
    return  # whoever claims the directory says what is wrong with it
  for field in FIELDS:
    old, new = _get(begun, field), _get(values.to_dict(), field)
    if (isinstance(old, str) and isinstance(new, str) and _on_hub(field, new)
        and snapshots.without_commits(old) == _joined(new)):
      values.update_from_flattened_dict({field: old})


def _get(values: Any, field: str) -> Any:
  for key in field.split("."):
    values = values.get(key) if isinstance(values, dict) else None
  return values


def fixed(cfg: config.Config) -> config.Config:
  """The settings with ORG/NAME@COMMIT in place of each name on the Hub.

  Process 0 asks the Hub, for all of them; paths stay as they are.

  Raises:
    strict.ConfigError: there is no such model, data set or revision, or it is
      neither in the cache nor can be downloaded.
  """
  found = processes.by_first(lambda: [
    _fixed(field, operator.attrgetter(field)(cfg)) for field in FIELDS])
  for field, value in zip(FIELDS, found, strict=True):
    if value != operator.attrgetter(field)(cfg):
      progress.say(f"config.{field} is {value}")
  pretrained, train, validation, test = found
  return dataclasses.replace(cfg, pretrained=pretrained, task=(
    dataclasses.replace(cfg.task, train_files=train,
                        validation_files=validation, test_files=test)))


def _on_hub(field: str, value: str) -> bool:
  if field == "pretrained":
    return snapshots.model(value) is not None
  return not os.path.exists(value) and any(
    name.startswith(snapshots.SCHEME) for name in _joined(value).split(","))


def _joined(value: str) -> str:
  return ",".join(name.strip() for name in value.split(","))


def _fixed(field: str, value: str) -> str:
  if not _on_hub(field, value):
    return value
  refuse = functools.partial(strict.ConfigError, field, value)
  repo = snapshots.model(value) if field == "pretrained" else None
  if repo:
    return str(snapshots.at_commit(repo, refuse))
  return ",".join(
    snapshots.data_at_commit(name, refuse)
    if name.startswith(snapshots.SCHEME) else name
    for name in _joined(value).split(","))
