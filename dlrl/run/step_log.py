"""The record of an RL run: a row, a progress line and samples per step.

A step's row begins while its update runs on the devices and is finished once
the next step has started its rollout, so that the loop never waits for numbers.
"""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Self

import jax
import numpy as np

from dlrl import config
from dlrl import optimizer
from dlrl.costs import memory
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.run import utilization
from dlrl.runtime import clock as clock_lib
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.storage import metrics as metrics_lib
from dlrl.storage import samples as samples_lib
from dlrl.tasks import prompts

_UNKNOWN = "not known"
_NO_ENTROPY = 1e-3  # nats per token
_SAMPLES = 4  # completions of a step that are logged and shown


class StepLog:
  """Metrics of the step under way; written once its update has finished.

  While it is entered, the terminal shows how far the run is.

  Attributes:
    row: the step's metrics so far; may be added to until `finish`.

  Args:
    cfg: the run's settings.
    writer: gets the rows and some completions.
    clock: gets the seconds per phase.
    work: the FLOPs of a step, if known.
    done: number of the last step before.
  """

  def __init__(self, cfg: config.Config, writer: metrics_lib.MetricsWriter,
               clock: clock_lib.Clock, work: utilization.Work | None = None,
               done: int = 0) -> None:
    self._cfg, self._writer, self._clock = cfg, writer, clock
    self._work = work
    self._line = progress.Progress(cfg.steps, "rl", done=done)
    self._metrics: Any = None
    self._step: int | None = None
    self._warned: set[str] = set()
    self.row: dict[str, float] = {}

  def begin(self, step: int, row: dict[str, float], metrics: Any,
            samples: Sequence[samples_lib.Sample]) -> None:
    """Opens the row of step `step`, whose update will return `metrics`."""
    self._step, self.row, self._metrics = step, row, metrics
    self._samples, self._started = samples, clock_lib.now()

  def watch(self, done: grading.Answers) -> None:
    """Warns once of a collapse: completions that should differ are identical.

    Each process looks only at the completions that it grades.
    """
    by_prompt: dict[str, set[str]] = {}
    for prompt, text in zip(done.prompts, done.texts, strict=True):
      by_prompt.setdefault(prompts.as_text(prompt), set()).add(text)
    if len(by_prompt) > 1 and len(set.union(*by_prompt.values())) == 1:
      self._warn("identical", "the completions of all "
                 f"{len(by_prompt)} prompts are identical")
    elif by_prompt and all(len(texts) == 1 for texts in by_prompt.values()):
      self._warn("entropy", "all completions of each prompt are identical")

  def _warn(self, kind: str, text: str) -> None:
    if kind not in self._warned:
      self._warned.add(kind)
      progress.say(f"warning: {text}; the policy has collapsed, or has nothing "
                   "left to learn from these prompts")

  def wait(self) -> None:
    """Waits for the update and adds its metrics to the row."""
    if self._metrics is None:
      return
    values = jax.device_get(self._metrics)
    self._metrics = None
    self.row |= {k if "/" in k else f"update/{k}": float(v)
                 for k, v in values.items()} | memory.in_use()
    self.row["time/update"] = clock_lib.now() - self._started
    for phase in ("rollout", "reward", "resampling", "update"):
      if f"time/{phase}" in self.row:
        self._clock.add(phase, self.row[f"time/{phase}"])

  def finish(self) -> float | None:
    """Writes the open row, if any; returns when its update ended."""
    if self._step is None:
      return None
    self.wait()
    step, row, self._step = self._step, self.row, None
    ended = clock_lib.now()
    row |= utilization.rates(self._cfg, row, self._work)
    self._writer.write(step, row)
    self._line.tick()
    if row["update/computed"] and row["update/entropy"] < _NO_ENTROPY:
      self._warn(
        "entropy", f"entropy is {row['update/entropy']:.1e} nats per token")
    self._line.show(step, says=step % self._cfg.log_every == 0,
                    stays="eval/items" in row, **_shown(row))
    # Even a run that is shorter than the interval leaves samples.
    if step % self._cfg.sample_every == 0 or step == self._cfg.steps:
      self._writer.samples(step, self._samples)
      progress.say(f"completions of step {step}")
      for line in samples_lib.table(self._samples, terminal.width()):
        terminal.write(line)
    optimizer.stop_if_stuck(
      step, row["update/nonfinite_in_a_row"], self._cfg.max_nonfinite)
    return ended

  def __enter__(self) -> Self:
    self._line.__enter__()
    return self

  def __exit__(self, *exc: object) -> None:
    self._line.__exit__(*exc)


def rollout_row(
  setup: setup_lib.Setup, done: grading.Answers, share: processes.Share,
  prompts_of_step: dict[str, Any],
) -> dict[str, float]:
  """Mean metrics of a rollout, and how many of its prompts were cut."""
  row = {f"rollout/{k}": float(np.mean(v))
         for k, v in grading.metrics(setup, done, share).items() if v}
  if "truncated" in prompts_of_step:
    row["rollout/truncated_prompts"] = float(
      np.sum(prompts_of_step["truncated"]))
  return row


def samples(done: grading.Answers, share: processes.Share, reward: np.ndarray
            ) -> list[samples_lib.Sample]:
  """This process's first completions; process 0 logs them."""
  return [
    samples_lib.Sample(prompts.as_text(prompt), text, float(reward[place]))
    for prompt, text, place in zip(
      done.prompts[:_SAMPLES], done.texts, share.places, strict=False)]


def _shown(row: Mapping[str, float]) -> dict[str, float | str]:
  """The values of a step that its progress line shows."""
  reward, solved = row["reward/mean"], row.get("rollout/solved")
  shown: dict[str, float | str] = {}
  idle = row["update/zero_groups"] == 1 and row["update/grad_norm"] == 0
  if idle:
    shown["no gradient:"] = (
      "no reward is known" if math.isnan(reward) else "equal rewards")
  shown |= {"reward": _UNKNOWN if math.isnan(reward) else reward,
            "solved": _UNKNOWN if solved is None else solved}
  if not idle:  # else no forward pass was made, so there is no ELBO either
    shown |= {
      "elbo": row["update/score_mean"], "grad": row["update/grad_norm"]}
  if "eval/items" in row:
    shown["held-out"] = (f"{row['eval/solved']:.1%}" if "eval/solved" in row
                         else _UNKNOWN)
  return shown
