"""What a loop holds while it runs: its files, and what watches over it."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

from dlrl import config
from dlrl import strict
from dlrl.runtime import clock as clock_lib
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import watchdog
from dlrl.storage import checkpoint
from dlrl.storage import metrics
from dlrl.storage import wandb_log


@dataclasses.dataclass(frozen=True)
class Session:
  """Released together when the loop ends.

  Attributes:
    notice: whether to save and stop.
    dog: ends the process if the loop hangs.
    checkpoints: of the loop.
    writer: of its metrics; in process 0 alone it writes.
  """

  notice: preemption.Notice
  dog: watchdog.Watchdog
  checkpoints: checkpoint.Checkpoints
  writer: metrics.MetricsWriter

  @contextlib.contextmanager
  def evaluation(self, clock: clock_lib.Clock) -> Iterator[None]:
    """Around one: it is timed, and watched apart from the steps."""
    self.dog.begin("evaluation")
    with clock.phase("evaluation"):
      yield


@contextlib.contextmanager
def start(cfg: config.Config, directory: pathlib.Path, *, tracked: bool
          ) -> Iterator[Session]:
  """Opens them.

  Args:
    cfg: of the run.
    directory: of the loop's metrics and checkpoints.
    tracked: whether Weights & Biases, if it is asked for, gets the metrics.
  """
  project = cfg.wandb if tracked else ""
  with (
    preemption.Notice() as notice,
    watchdog.Watchdog(cfg.watchdog) as dog,
    checkpoint.Checkpoints(
      directory / "checkpoints", keep=cfg.checkpoint_keep) as checkpoints,
    wandb_log.wandb(project, directory, strict.to_json(cfg)) as tracker,
    metrics.writer(
      directory, writes=processes.first(), also=tracker) as writer,
  ):
    yield Session(notice, dog, checkpoints, writer)
