"""The record of an RL run: one row, one line and some samples as it goes on.

A step's row is begun while its update runs on the device and finished when the
next step has started its rollout, so that the loop does not wait for numbers.
"""

from typing import Any

import jax

from dlrl import config
from dlrl import optimizer
from dlrl.costs import memory
from dlrl.run import utilization
from dlrl.runtime import clock as clock_lib
from dlrl.runtime import progress
from dlrl.storage import metrics as metrics_lib

_SHOWN = 100  # characters of a prompt or completion in a progress line


class StepLog:
  """The metrics of the step under way: written when its update is finished."""

  def __init__(self, cfg: config.Config, writer: metrics_lib.MetricsWriter,
               clock: clock_lib.Clock, work: utilization.Work | None = None):
    self._cfg, self._writer, self._clock = cfg, writer, clock
    self._work = work
    self._line = progress.Progress(cfg.steps, "rl")
    self._metrics: Any = None
    self._step: int | None = None
    self.row: dict[str, float] = {}

  def begin(self, step: int, row: dict[str, float], metrics: Any, sample):
    """Step `step` has started an update that will give `metrics`."""
    self._step, self.row, self._metrics = step, row, metrics
    self._sample, self._started = sample, clock_lib.now()

  def wait(self) -> None:
    """Reads the update's metrics, and so waits for it."""
    if self._metrics is None:
      return
    values = jax.device_get(self._metrics)
    self._metrics = None
    self.row |= {k if "/" in k else f"update/{k}": float(v)
                 for k, v in values.items()} | memory.in_use()
    self.row["time/update"] = clock_lib.now() - self._started
    for phase in ("rollout", "reward", "update"):
      self._clock.add(phase, self.row[f"time/{phase}"])

  def finish(self) -> float | None:
    """Writes the step's row; returns when its update ended, if one was open."""
    if self._step is None:
      return None
    self.wait()
    step, row, self._step = self._step, self.row, None
    ended = clock_lib.now()
    row |= utilization.rates(self._cfg, row, self._work)
    self._writer.write(step, row)
    self._line.tick()
    if step % self._cfg.log_every == 0 or "eval/solved" in row:
      shown: dict[str, float | str] = {
        "reward": row["reward/mean"], "solved": row["rollout/solved"],
        "elbo": row["update/score_mean"], "grad": row["update/grad_norm"]}
      if "eval/solved" in row:
        shown["held-out"] = f"{row['eval/solved']:.1%}"
      progress.say(self._line.line(step, **shown))
    if step % self._cfg.sample_every == 0:
      prompt, completion, reward = self._sample
      self._writer.sample(
        step, prompt=prompt, completion=completion, reward=reward)
      progress.say(
        f"    {_short(prompt)} -> {_short(completion)}  reward {reward:g}")
    optimizer.stop_if_stuck(
      step, row["update/nonfinite_in_a_row"], self._cfg.max_nonfinite)
    return ended


def _short(text: str) -> str:
  """The end of a text, on one line."""
  line = " ".join(text.split())
  return line if len(line) <= _SHOWN else f"... {line[-_SHOWN:]}"
