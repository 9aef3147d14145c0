"""Everything a loop holds while it runs: its files, clock and watchers."""

import contextlib
import dataclasses
import operator
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from dlrl import config
from dlrl import strict
from dlrl import update
from dlrl.run import save_pace
from dlrl.run import start_params
from dlrl.runtime import clock as clock_lib
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import profile_window
from dlrl.runtime import progress
from dlrl.runtime import watchdog
from dlrl.storage import checkpoint
from dlrl.storage import metrics
from dlrl.storage import wandb_log


@dataclasses.dataclass(frozen=True)
class Data:
  """Identifies the data that a run learns from.

  Attributes:
    task: name of the task.
    checksum: of the task's data.
  """

  task: str
  checksum: str

  def check(self, saved: str | None) -> None:
    """Checks that a run continues on the data that it began with.

    Args:
      saved: the checksum in the checkpoint; None in those of older versions.

    Raises:
      strict.ConfigError: the data are others.
    """
    strict.require(
      saved in (None, self.checksum), "task.name", self.task,
      "its data are not those that the run in this --workdir began with: their "
      f"checksum was {str(saved)[:12]} and is {self.checksum[:12]}. Restore "
      "the files of train, validation and test, or start again in another "
      "--workdir")


@dataclasses.dataclass
class Session:
  """A running loop; `start` opens it and releases everything at the end.

  Attributes:
    notice: tells whether to save and stop.
    dog: ends the process if the loop hangs.
    window: traces some of the steps.
    checkpoints: of the loop's state.
    writer: writes the loop's metrics, in process 0 only.
    batches: the loop's iterator, whose position is saved.
    base: frozen parameters beneath adapters, whose fingerprint is saved.
    data: identifies the task and the data that it reads.
    clock: seconds per phase, over all restarts.
    steps: what a step is called in messages.
    pace: warns if a checkpoint takes longer than the steps to the next.
  """

  notice: preemption.Notice
  dog: watchdog.Watchdog
  window: profile_window.Window
  checkpoints: checkpoint.Checkpoints
  writer: metrics.MetricsWriter
  batches: Any
  base: start_params.Base
  data: Data
  clock: clock_lib.Clock
  steps: str
  pace: save_pace.SavePace

  def begin_step(self, step: int, state: update.TrainState) -> None:
    """Tells the watchers that step `step` begins; `state` is the one before."""
    self.dog.begin("step")
    self.window.begin(step, state)

  @contextlib.contextmanager
  def evaluation(self) -> Iterator[None]:
    """Times an evaluation, and watches it apart from the steps."""
    self.dog.begin("evaluation")
    with self.clock.phase("evaluation"):
      yield

  def begin(self, seconds: Mapping[str, float] = {}) -> None:
    """Starts from nothing: drops metrics that a killed attempt left.

    Args:
      seconds: per phase, spent before.
    """
    self.clock = clock_lib.Clock(seconds)
    self.writer.truncate_after(-1)

  def restore(
    self, abstract: update.TrainState
  ) -> tuple[update.TrainState, int] | None:
    """`(state, step)` of the newest checkpoint, or None if there is none.

    The iterator moves to its saved position, the clock goes on, and metrics
    that were written after the checkpoint are dropped.

    Args:
      abstract: the state's shapes with shardings.

    Raises:
      strict.ConfigError: the adapters were trained on another base, or the data
        have changed.
      ValueError: the checkpoint is of another model.
    """
    restored = self.checkpoints.restore_latest(abstract.saved, self.batches)
    if restored is None:
      return None
    state, meta, step = restored
    self.base.check(meta["base"])
    self.data.check(meta.get("data"))
    self.clock = clock_lib.Clock(meta["seconds"])
    self.writer.truncate_after(step)
    progress.say(f"continuing after {self.steps} {step}")
    return dataclasses.replace(state, base=self.base.params), step

  def save(self, step: int, state: update.TrainState, *, stops: bool) -> None:
    """Begins a checkpoint; of the base it holds only the fingerprint.

    Args:
      step: the number of finished steps.
      state: after them.
      stops: whether the loop ends here because it was told to.

    Raises:
      preemption.Preempted: `stops`.
    """
    self.dog.begin("checkpoint")
    # Metrics first: a checkpoint that exists has all the rows up to it.
    self.writer.flush()
    self.pace.wait(step, self.checkpoints.wait)
    self.checkpoints.save(
      step, state.saved, self.batches,
      {"seconds": self.clock.totals, "base": self.base.id,
       "data": self.data.checksum})
    if stops:
      raise preemption.Preempted(f"{self.steps} {step} is saved")


@contextlib.contextmanager
def start(
  cfg: config.Config, directory: pathlib.Path, batches: Any,
  base: start_params.Base, data: str, *, tracked: bool, profiled: str = "",
  steps: str = "step", interval: str = "checkpoint_every",
) -> Iterator[Session]:
  """Opens a loop's session.

  Args:
    cfg: the run's settings.
    directory: for the loop's metrics and checkpoints.
    batches: the loop's iterator.
    base: frozen parameters beneath adapters.
    data: the checksum of the task's data.
    tracked: whether Weights & Biases, if configured, gets the metrics.
    profiled: first and last step to trace, into `directory`/profile; "": none.
    steps: what a step is called in messages.
    interval: the setting that says how many steps lie between checkpoints.
  """
  project = cfg.wandb if tracked else ""
  with (
    preemption.Notice() as notice,
    watchdog.Watchdog(cfg.watchdog) as dog,
    profile_window.Window(profiled, directory / "profile") as window,
    checkpoint.Checkpoints(
      directory / "checkpoints", keep=cfg.checkpoint_keep) as checkpoints,
    wandb_log.wandb(project, directory, strict.to_json(cfg)) as tracker,
    metrics.writer(
      directory, writes=processes.first(), also=tracker) as writer,
  ):
    yield Session(
      notice, dog, window, checkpoints, writer, batches, base,
      Data(cfg.task.name, data), clock_lib.Clock(), steps,
      save_pace.SavePace(interval, operator.attrgetter(interval)(cfg)))
