"""Metrics and samples of a run on disk, as JSON lines and for TensorBoard.

    workdir/metrics.jsonl   one object per step
    workdir/samples.jsonl   logged completions
    workdir/tensorboard/    event files, with both

Rows are not buffered in the process, so that a killed process loses none. A
loop that writes the row of step s before it saves checkpoint s finds all rows
up to s after a restart from s.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from tensorboardX import event_file_writer
from tensorboardX import summary as summary_lib
from tensorboardX.proto import event_pb2
from tensorboardX.proto import summary_pb2

from dlrl import strict
from dlrl.buckets import mirror
from dlrl.runtime import own_files
from dlrl.storage import samples as samples_lib
from dlrl.storage import wandb_log
from dlrl.storage import workdir as workdir_lib

_METRICS, _SAMPLES = "metrics.jsonl", "samples.jsonl"
_EVENTS = "tensorboard"


class MetricsWriter:
  """Appends to the files above; the caller has claimed the directory.

  Args:
    workdir: an existing directory.
    tensorboard: whether to write event files.
    also: gets the same rows and samples.
  """

  def __init__(self, workdir: str | os.PathLike[str], tensorboard: bool = True,
               also: wandb_log.Tracker = wandb_log.NOWHERE) -> None:
    self._also = also
    self._root = pathlib.Path(workdir)
    self._tensorboard = tensorboard
    self._last = -1
    self._events: event_file_writer.EventsWriter | None = None
    self._open(purge=None)

  def write(self, step: int, values: Mapping[str, float | str]) -> None:
    """Appends the row of `step`; numbers that are not finite become null.

    TensorBoard does not get text values.

    Raises:
      ValueError: a row of this or a later step exists.
    """
    if step <= self._last:
      raise ValueError(f"row of step {step} after the row of step {self._last}")
    row = {name: _plain(value) for name, value in values.items()}
    _append(self._metrics, {"step": step, **row})
    self._last = step
    if self._tensorboard:
      self._scalars(step, row)
    self._also.row(step, row)

  def samples(self, step: int, samples: Sequence[samples_lib.Sample]) -> None:
    """Appends completions of `step`; any number, any number of times.

    TensorBoard and W&B get them as a table, escaped.
    """
    for sample in samples:
      _append(self._samples, {
        "step": step, **sample._asdict(), "reward": _plain(sample.reward)})
    if self._tensorboard:
      # As code: in Markdown, which TensorBoard makes HTML of, an indented line
      # is shown as it is.
      self._event(step, summary_lib.text("samples", "\n".join(
        f"    {line}" for line in samples_lib.table(samples))))
    self._also.samples(step, samples)

  def truncate_after(self, step: int) -> None:
    """Deletes rows and samples after `step`, which a resumed run rewrites.

    Pass -1 if the run starts from the beginning.
    """
    kept = {name: [row for row in _read(self._root / name)
                   if row["step"] <= step] for name in (_METRICS, _SAMPLES)}
    self.close()
    for name, rows_of in kept.items():
      text = "".join(json.dumps(row) + "\n" for row in rows_of)
      workdir_lib.write_text(self._root / name, text)
    self._open(purge=step + 1)

  def flush(self) -> None:
    """Syncs everything written to disk; call it before saving a checkpoint.

    If the directory is the local copy of one in a bucket, uploads the files.

    Raises:
      FileNotFoundError: the files have been removed.
      objects.BucketError: the bucket cannot be used, or has other files.
    """
    if not os.fstat(self._metrics).st_nlink:
      raise FileNotFoundError(
        errno.ENOENT, "removed while the run wrote to it",
        str(self._root / _METRICS))
    os.fsync(self._metrics)
    os.fsync(self._samples)
    if self._events is not None:
      self._events.flush()
    for name in (_METRICS, _SAMPLES, _EVENTS):
      mirror.push(self._root / name)

  def close(self) -> None:
    """Flushes and closes the files; closes them also if flushing fails."""
    with contextlib.ExitStack() as stack:
      for file in (self._metrics, self._samples):
        stack.callback(os.close, file)
      if self._events is not None:
        stack.callback(self._events.close)
      self.flush()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()

  def _open(self, purge: int | None) -> None:
    self._metrics = _open_whole_lines(self._root / _METRICS)
    self._samples = _open_whole_lines(self._root / _SAMPLES)
    old = rows(self._root)
    self._last = old[-1]["step"] if old else -1
    self._purge = purge
    self._events = None

  def _scalars(self, step: int, row: dict[str, Any]) -> None:
    self._event(step, summary_pb2.Summary(value=[
      summary_pb2.Summary.Value(tag=name, simple_value=value)
      for name, value in row.items() if isinstance(value, float)]))

  def _event(self, step: int, summary: summary_pb2.Summary) -> None:
    # Not tensorboardX's SummaryWriter: on a full disk its thread dies, and the
    # next row waits for that thread for ever.
    if self._events is None:
      root = self._root / _EVENTS
      root.mkdir(exist_ok=True)
      # File names hold host and second. Without the suffix, a writer opened in
      # the same second would overwrite the older file. TensorBoard itself hides
      # what older files hold of the purged steps.
      self._events = event_file_writer.EventsWriter(
        str(root / "events"), f".{len(list(root.glob('*')))}")
      if self._purge is not None:
        self._events.write_event(event_pb2.Event(
          wall_time=time.time(), step=self._purge,
          session_log=event_pb2.SessionLog(
            status=event_pb2.SessionLog.SessionStatus.START)))
    self._events.write_event(event_pb2.Event(
      wall_time=time.time(), step=step, summary=summary))


class _Nowhere(MetricsWriter):
  """Discards everything; for processes other than the first."""

  def __init__(self) -> None:
    pass

  def write(self, step: int, values: Mapping[str, float | str]) -> None:
    pass

  def samples(self, step: int, samples: Sequence[samples_lib.Sample]) -> None:
    pass

  def truncate_after(self, step: int) -> None:
    pass

  def flush(self) -> None:
    pass

  def close(self) -> None:
    pass


def writer(workdir: str | os.PathLike[str], *, writes: bool,
           also: wandb_log.Tracker = wandb_log.NOWHERE) -> MetricsWriter:
  """A `MetricsWriter`, or one that discards everything unless `writes`."""
  return MetricsWriter(workdir, also=also) if writes else _Nowhere()


def rows(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The metrics rows so far, also of a running or killed run.

  An incomplete last line is ignored.

  Raises:
    strict.FlagError: another line is damaged; the message names file and line.
  """
  return _read(pathlib.Path(workdir) / _METRICS)


def samples(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The logged completions; reads like `rows`."""
  return _read(pathlib.Path(workdir) / _SAMPLES)


def _plain(value: Any) -> float | str | None:
  if isinstance(value, str):
    return value
  number = float(value)
  return number if math.isfinite(number) else None


def _append(fd: int, row: dict[str, Any]) -> None:
  data = (json.dumps(row, allow_nan=False) + "\n").encode()
  while data:
    data = data[os.write(fd, data):]


def _open_whole_lines(path: pathlib.Path) -> int:
  fd = own_files.open_fd(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
  # Cuts an incomplete last line: appending to it would damage two rows.
  os.ftruncate(fd, path.read_bytes().rfind(b"\n") + 1)
  return fd


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  found = []
  lines = path.read_bytes().split(b"\n")
  for number, line in enumerate(lines[:-1], 1):  # the last is incomplete
    try:
      row = own_files.parsed(line)
      if type(row.get("step")) is not int:
        raise ValueError("no step")
    except ValueError as e:
      raise strict.FlagError(
        "workdir", str(path.parent), f"{path}:{number} is not JSON with a step "
        f"({e}): {line[:80]!r}. Mend or delete the line, or start again in "
        "another --workdir") from e
    found.append(row)
  return found
