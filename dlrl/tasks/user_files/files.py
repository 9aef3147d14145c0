"""Users' own examples: JSON Lines or Parquet files with a column `prompt`.

A prompt is a string, or chat messages with `role` and `content`; if the last
message is the assistant's, it is the beginning of the answer. Other columns may
hold anything and reach rewards unchanged, nested ones as Python lists and
dicts, so files of TRL and verl can be read as they are. Two columns have a
meaning: an int `difficulty` selects examples, and fine-tuning learns the string
`solution`.

All rows are checked at the start. Later each is read again from its file when
it is needed.
"""

import array
import collections
import dataclasses
import functools
import glob
import hashlib
import operator
import os
import typing
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrl import strict
from dlrl.hub import snapshots
from dlrl.tasks import reward_calls
from dlrl.tasks import task as task_lib
from dlrl.tasks.user_files import messages
from dlrl.tasks.user_files import tables

BAD_ROWS = ("error", "skip")
DIFFICULTIES = (0, 2**31 - 1)
_ANY = -1  # stands for the difficulty of rows that have none
# Arguments of rewards, and columns that dlrl adds.
_RESERVED = frozenset(
  {"prompts", "completions", "index", "task", reward_calls.COLUMN,
   reward_calls.MEASURED})


@dataclasses.dataclass(frozen=True, eq=False)
class FileExamples(Sequence[task_lib.Example]):
  """The examples in one or more files, with `index` and `difficulty`.

  Attributes:
    tables: the files.
    places: int64 [n, 4]: each example's table, place in it, difficulty (or
      `_ANY`) and index.
    columns: the union of all rows' columns; a row that lacks one has None.
    skipped: how many malformed rows were left out.
    problem: file, line and problem of the first of them.
  """

  tables: tuple[tables.Table, ...]
  places: np.ndarray
  columns: tuple[str, ...]
  skipped: int = 0
  problem: str = ""

  def __len__(self) -> int:
    return len(self.places)

  @typing.overload
  def __getitem__(self, position: int) -> task_lib.Example: ...

  @typing.overload
  def __getitem__(self, position: slice) -> "FileExamples": ...

  def __getitem__(
    self, position: int | slice
  ) -> "task_lib.Example | FileExamples":
    if isinstance(position, slice):
      return dataclasses.replace(self, places=self.places[position])
    table, place, difficulty, index = self.places[
      operator.index(position)].tolist()
    row = dict.fromkeys(self.columns) | self.tables[table].row(place)
    return row | {"prompt": messages.checked(row["prompt"]), "index": index,
                  "difficulty": max(difficulty, 0)}


  def where(self, position: int) -> str:
    """`FILE:LINE` of an example, for messages."""
    table, place, _, _ = self.places[position].tolist()
    return self.tables[table].where(place)


@dataclasses.dataclass(frozen=True)
class Files:
  """The files of each split, in the form of a task's `load`.

  Attributes:
    train: paths, separated by commas; `*`, `?`, `[]` and `**` are patterns,
      except in what exists by that very name. On the Hub they begin with
      `hf://datasets/ORG/NAME/` or `hf://datasets/ORG/NAME@REVISION/`.
    validation: same as `train`.
    test: same as `train`.
    bad_rows: "error" stops at a malformed row, "skip" leaves it out.
  """

  train: str = ""
  validation: str = ""
  test: str = ""
  bad_rows: str = "error"

  def patterns(self, split: str) -> str:
    """Returns the paths of `train`, `validation` or `test`."""
    return {"train": self.train, "validation": self.validation,
            "test": self.test}[split]

  def __call__(self, data_dir: str, split: str, difficulty: tuple[int, int], *,
               field: str = "difficulty") -> FileExamples:
    """Returns a split's examples whose difficulty is in the range, or unknown.
    """
    del data_dir
    patterns = self.patterns(split)
    examples = load(
      patterns, bad_rows=self.bad_rows, field=f"task.{split}_files")
    low, high = difficulty
    found = examples.places[:, 2]
    kept = (found == _ANY) | ((low <= found) & (found <= high))
    strict.require(
      bool(kept.any()), field, difficulty,
      f"no example of {patterns!r} has a difficulty in this range; theirs are "
      f"from {found.min()} to {found.max()}")
    return examples if kept.all() else dataclasses.replace(
      examples, places=examples.places[kept])


def task(source: Files, rewards: Mapping[str, task_lib.Reward]
         ) -> task_lib.Task:
  """Returns a task whose prompts are the column `prompt` of the files.

  Args:
    source: the files of each split.
    rewards: users' own functions, by the names under which they are logged.

  Raises:
    strict.ConfigError: a pattern matches no file, or a file matches twice.
  """
  return task_lib.Task(
    load=source,
    prompts={"bare": task_lib.Prompt(operator.itemgetter("prompt"), _solution)},
    rewards=rewards,
    metrics=metrics(rewards),
    unbounded=tuple(name for name in rewards if name != "solved"),
    difficulties=DIFFICULTIES,
    version="1.0.0",
    checksum=checksum(source))


def metrics(rewards: Mapping[str, task_lib.Reward]) -> task_lib.Metrics:
  """Returns metrics: the rewards, and `solved`, 1 if all are at least 1.

  Without rewards, and with one that is None, `solved` is not known: to count
  the others would find more failures where graders fail more often. Rewards
  that are a column already are not computed again.
  """
  def measure(
    prompts: Sequence[task_lib.Text], completions: Sequence[str],
    **columns: Any
  ) -> dict[str, list[float | None]]:
    known = columns.get(reward_calls.COLUMN) or reward_calls.each(
      rewards, prompts, completions, columns)
    values = {name: [one[name] for one in known] for name in rewards}
    return {**values, "solved": [
      _solved([one[name] for name in rewards]) for one in known]}

  return measure


def _solved(rewards: Sequence[float | None]) -> float | None:
  known = [value for value in rewards if value is not None]
  if not known or len(known) < len(rewards):
    return None
  return float(min(known) >= 1)


def checksum(source: Files) -> str:
  """Returns the SHA-256 of the contents of all files, by split, in hex."""
  digest = hashlib.sha256()
  for split in task_lib.SPLITS:
    digest.update(split.encode())
    patterns = source.patterns(split)
    for path in _paths(patterns, f"task.{split}_files") if patterns else ():
      with open(path, "rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
  return digest.hexdigest()


def load(patterns: str, *, bad_rows: str, field: str) -> FileExamples:
  """Returns the examples of all files, in the order of the files.

  Args:
    patterns: paths, separated by commas, same as in `Files`.
    bad_rows: what to do with malformed rows: "error", or "skip", which leaves
      them out and counts them.
    field: the config field of `patterns`, for messages.

  Raises:
    strict.ConfigError: a pattern matches no file, a file cannot be read or has
      a malformed row (the message has file and line), no row is valid, or a
      column has a reserved name.
  """
  strict.require(bad_rows in BAD_ROWS, "task.bad_rows", bad_rows,
                 f"choose from {', '.join(map(repr, BAD_ROWS))}")
  paths = _paths(patterns, field)
  stats = [os.stat(path) for path in paths]
  return _read(patterns, bad_rows, field, tuple(
    (path, stat.st_size, stat.st_mtime_ns)
    for path, stat in zip(paths, stats, strict=True)))


# A start needs the same rows several times: to check them, to fine-tune, for
# rollouts and for evaluations.
@functools.lru_cache(maxsize=4)
def _read(patterns: str, bad_rows: str, field: str,
          stamps: tuple[tuple[str, int, int], ...]) -> FileExamples:
  """`load`; `stamps` are the files, by path, size and time."""
  paths = [path for path, _, _ in stamps]
  opened = [tables.open_file(path, field) for path in paths]
  # Four numbers for each row: as Python objects they would take five times the
  # memory, which is gigabytes for large files.
  places = array.array("q")
  columns: dict[str, None] = {}
  skipped, problem = 0, ""
  for which, path in enumerate(paths):
    for number, place, read in tables.scan(opened[which], path, field):
      try:
        row = read()
        difficulty = _check(row)
      except messages.MalformedError as error:
        strict.require(
          bad_rows == "skip", field, f"{path}:{number}",
          f"{error}. Correct it, or skip malformed rows with "
          "--config.task.bad_rows=skip", tables.FileError)
        skipped, problem = skipped + 1, problem or f"{path}:{number}: {error}"
      else:
        places.extend((which, place, difficulty, len(places) // 4))
        columns |= dict.fromkeys(row)
  strict.require(bool(places), field, patterns,
                 f"no row is valid. {problem}" if problem else "has no rows")
  reserved = sorted(_RESERVED & columns.keys())
  strict.require(not reserved, field, patterns,
                 f"dlrl uses the column names {reserved} itself; rename them")
  return FileExamples(
    tuple(opened), np.frombuffer(places, np.int64).reshape(-1, 4),
    tuple(columns), skipped, problem)


def _solution(example: task_lib.Example) -> str:
  text = example.get("solution")
  strict.require(
    isinstance(text, str), "task.name", "files",
    "fine-tuning and worked examples need a string in the column `solution`; "
    f"example {example.get('index')} has {text!r}. Add the column, or set "
    "sft.steps=0 and task.few_shot=0")
  return example["solution"]


def _paths(patterns: str, field: str) -> list[str]:
  found: list[str] = []
  whole = os.path.expanduser(patterns.strip())
  for pattern in [whole] if os.path.isfile(whole) else patterns.split(","):
    pattern = os.path.expanduser(pattern.strip())
    local = pattern
    if pattern.startswith(snapshots.SCHEME):
      local = snapshots.data_files(
        pattern, functools.partial(strict.ConfigError, field, patterns))
    paths = sorted(filter(
      os.path.isfile, glob.glob(_literal(local), recursive=True)))
    what = f"{pattern!r} matches no file" if pattern else "names no file"
    strict.require(bool(paths), field, patterns,
                   f"{what}; give .jsonl or .parquet files")
    found += paths
  files = collections.defaultdict(list)
  for path in found:
    files[os.path.realpath(path)].append(path)
  twice = sorted({path for paths in files.values() if len(paths) > 1
                  for path in paths})
  strict.require(not twice, field, patterns,
                 f"names a file twice: {', '.join(map(repr, twice))}")
  return found


def _literal(pattern: str) -> str:
  """The pattern with its first folders escaped, as far as they exist."""
  parts = pattern.split(os.sep)
  for count in range(len(parts), 0, -1):
    start = os.sep.join(parts[:count])
    if os.path.exists(start):
      return os.sep.join([glob.escape(start), *parts[count:]])
  return pattern


def _check(row: Mapping[str, Any]) -> int:
  """Returns the difficulty, or `_ANY`; raises `MalformedError`."""
  if "prompt" not in row:
    raise messages.MalformedError(
      f"the column `prompt` is missing; the row has {sorted(row)}")
  messages.checked(row["prompt"])
  difficulty = row.get("difficulty")
  if difficulty is None:
    return _ANY
  # Not isinstance: True is an int as well.
  if type(difficulty) is not int or not 0 <= difficulty <= DIFFICULTIES[1]:
    raise messages.MalformedError(
      f"difficulty must be an integer from 0 to {DIFFICULTIES[1]}, got "
      f"{difficulty!r}")
  return difficulty
