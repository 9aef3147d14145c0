"""Users' own rows: JSON Lines or Parquet files with a column `prompt`.

A prompt is a text, or chat messages with `role` and `content`; a last message
of the assistant is the beginning of its answer. Other columns may hold anything
and reach rewards as they are, nested ones as Python lists and dicts: TRL's and
verl's files are read unchanged. Two names have a meaning: an int `difficulty`
selects rows, a text `solution` is what fine-tuning learns.

All rows are checked first; later each is read from its file when it is needed.
"""

import dataclasses
import glob
import hashlib
import math
import operator
import os
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrl import strict
from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import messages
from dlrl.tasks.user_files import tables

BAD_ROWS = ("error", "skip")
DIFFICULTIES = (0, 2**31 - 1)
_ANY = -1  # the difficulty of rows that do not say it
# Arguments of rewards, and columns that are made here.
_TAKEN = frozenset({"prompts", "completions", "index", "task"})


@dataclasses.dataclass(frozen=True, eq=False)
class FileExamples(Sequence[task_lib.Example]):
  """Rows of one or more files, with `index` and `difficulty`.

  Attributes:
    tables: the files.
    places: int64 [n, 4], each row's table, place, difficulty and index.
    columns: of any row; a row without one has None there.
    skipped: how many malformed rows were left out.
    problem: of the first of them.
  """

  tables: tuple[tables.Table, ...]
  places: np.ndarray
  columns: tuple[str, ...]
  skipped: int = 0
  problem: str = ""

  def __len__(self) -> int:
    return len(self.places)

  def __getitem__(self, position):
    if isinstance(position, slice):
      return dataclasses.replace(self, places=self.places[position])
    table, place, difficulty, index = self.places[
      operator.index(position)].tolist()
    row = dict.fromkeys(self.columns) | self.tables[table].row(place)
    return row | {"prompt": messages.checked(row["prompt"]), "index": index,
                  "difficulty": max(difficulty, 0)}


@dataclasses.dataclass(frozen=True)
class Files:
  """The files of each split; called as `load` of a task.

  Attributes:
    train: paths, separated by commas; `*`, `?`, `[]` and `**` are patterns.
    validation: as `train`.
    test: as `train`.
    bad_rows: what is done with malformed rows, of `BAD_ROWS`.
  """

  train: str = ""
  validation: str = ""
  test: str = ""
  bad_rows: str = "error"

  def of(self, split: str) -> str:
    """The paths of `train`, `validation` or `test`."""
    return {"train": self.train, "validation": self.validation,
            "test": self.test}[split]

  def __call__(self, data_dir: str, split: str, difficulty: tuple[int, int], *,
               field: str = "difficulty") -> FileExamples:
    """The rows of a split that have a difficulty in the range, or have none."""
    del data_dir
    patterns = self.of(split)
    rows = load(patterns, bad_rows=self.bad_rows, field=f"task.{split}_files")
    low, high = difficulty
    said = rows.places[:, 2]
    kept = (said == _ANY) | ((low <= said) & (said <= high))
    strict.require(bool(kept.any()), field, difficulty,
                   f"no row of {patterns!r} has such a difficulty")
    return dataclasses.replace(rows, places=rows.places[kept])


def task(source: Files, rewards: Mapping[str, task_lib.Reward]
         ) -> task_lib.Task:
  """The files as a task that asks what is in their column `prompt`.

  Args:
    source: of the rows.
    rewards: users' own, by the names they are logged under.

  Raises:
    strict.ConfigError: a file cannot be found.
  """
  return task_lib.Task(
    load=source,
    prompts={"bare": task_lib.Prompt(lambda row: row["prompt"], _solution)},
    rewards=rewards,
    metrics=metrics(rewards),
    difficulties=DIFFICULTIES,
    version="1.0.0",
    checksum=checksum(source))


def metrics(rewards: Mapping[str, task_lib.Reward]) -> task_lib.Metrics:
  """The rewards, NaN where not known, and `solved`: all of them at least 1."""
  def measure(prompts: Sequence[task_lib.Text], completions: Sequence[str],
              **columns: Any) -> dict[str, list[float]]:
    values = {name: [math.nan if value is None else float(value) for value
                     in reward(prompts, completions, **columns)]
              for name, reward in rewards.items()}
    solved = [float(all(value >= 1 for value in row))
              for row in zip(*values.values(), strict=True)]
    return {**values, "solved": solved}

  return measure


def checksum(source: Files) -> str:
  """SHA-256 of the contents of all files, in hex."""
  digest = hashlib.sha256()
  for split in task_lib.SPLITS:
    digest.update(split.encode())
    patterns = source.of(split)
    for path in _paths(patterns, f"task.{split}_files") if patterns else ():
      with open(path, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()


def load(patterns: str, *, bad_rows: str, field: str) -> FileExamples:
  """The rows of all files, in the order of the files.

  Args:
    patterns: paths, separated by commas, as in `Files`.
    bad_rows: `error`, or `skip`: they are left out and counted.
    field: the config field that `patterns` came from, for messages.

  Raises:
    strict.ConfigError: no file, one that cannot be read, a malformed row (says
      its file and line), none but such, or a column whose name is taken.
  """
  strict.require(bad_rows in BAD_ROWS, "task.bad_rows", bad_rows,
                 f"choose from {', '.join(map(repr, BAD_ROWS))}")
  paths = _paths(patterns, field)
  opened = [tables.open_file(path, field) for path in paths]
  places: list[tuple[int, int, int, int]] = []
  columns: dict[str, None] = {}
  skipped, problem = 0, ""
  for which, path in enumerate(paths):
    for number, place, read in tables.scan(opened[which], path, field):
      try:
        row = read()
        difficulty = _check(row)
      except messages.Problem as error:
        strict.require(
          bad_rows == "skip", field, f"{path}:{number}",
          f"{error}; mend it, or leave out such rows by task.bad_rows='skip'")
        skipped, problem = skipped + 1, problem or f"{path}:{number}: {error}"
      else:
        places.append((which, place, difficulty, len(places)))
        columns |= dict.fromkeys(row)
  strict.require(bool(places), field, patterns,
                 f"there are no rows. {problem}".strip())
  taken = sorted(_TAKEN & columns.keys())
  strict.require(not taken, field, patterns,
                 f"has a column {taken}, a name that is taken; rename it")
  return FileExamples(tuple(opened), np.array(places, np.int64), tuple(columns),
              skipped, problem)


def _solution(row: task_lib.Example) -> str:
  text = row.get("solution")
  strict.require(isinstance(text, str), "task.name", "files",
                 f"fine-tuning needs a text `solution`; a row has {text!r}")
  return row["solution"]


def _paths(patterns: str, field: str) -> list[str]:
  found: list[str] = []
  for pattern in patterns.split(","):
    pattern = os.path.expanduser(pattern.strip())
    paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
    strict.require(bool(paths), field, patterns,
                   f"{pattern!r} is no file; name .jsonl or .parquet files")
    found += paths
  strict.require(len(set(found)) == len(found), field, patterns,
                 "names a file twice")
  return found


def _check(row: Mapping[str, Any]) -> int:
  """The difficulty, or `_ANY`; raises `Problem`."""
  if "prompt" not in row:
    raise messages.Problem(f"has no prompt, only {sorted(row)}")
  messages.checked(row["prompt"])
  difficulty = row.get("difficulty")
  if difficulty is None:
    return _ANY
  if type(difficulty) is not int or not 0 <= difficulty < 2**31:
    raise messages.Problem(f"difficulty is {difficulty!r}, not an int from 0")
  return difficulty
