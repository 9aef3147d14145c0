"""The record of an RL run: a row, a progress line and samples per step.

A step's row begins while its update runs on the devices and is finished once
the next step has started its rollout, so that the loop never waits for numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

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
from dlrl.storage import metrics as metrics_lib
from dlrl.tasks import prompts

Sample = tuple[str, str, float]  # prompt, completion, reward

_UNKNOWN = "not known"
_NO_ENTROPY = 1e-3  # nats per token
_SHOWN = 100  # characters of a prompt or completion in a progress line


class StepLog:
  """Metrics of the step under way; written once its update has finished.

  Attributes:
    row: the step's metrics so far; may be added to until `finish`.
  """

  def __init__(self, cfg: config.Config, writer: metrics_lib.MetricsWriter,
               clock: clock_lib.Clock, work: utilization.Work | None = None):
    self._cfg, self._writer, self._clock = cfg, writer, clock
    self._work = work
    self._line = progress.Progress(cfg.steps, "rl")
    self._metrics: Any = None
    self._step: int | None = None
    self._warned: set[str] = set()
    self.row: dict[str, float] = {}

  def begin(self, step: int, row: dict[str, float], metrics: Any,
            sample: Sample) -> None:
    """Opens the row of step `step`, whose update will return `metrics`."""
    self._step, self.row, self._metrics = step, row, metrics
    self._sample, self._started = sample, clock_lib.now()

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
    if step % self._cfg.log_every == 0 or "eval/items" in row:
      progress.say(self._line.line(step, **_shown(row)))
    # A run that is shorter than the interval leaves a sample, too.
    if step % self._cfg.sample_every == 0 or step == self._cfg.steps:
      prompt, completion, reward = self._sample
      self._writer.sample(
        step, prompt=prompt, completion=completion, reward=reward)
      progress.say(
        f"    {_short(prompt)} -> {_short(completion)}  reward {reward:g}")
    optimizer.stop_if_stuck(
      step, row["update/nonfinite_in_a_row"], self._cfg.max_nonfinite)
    return ended


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


def sample(done: grading.Answers, share: processes.Share, reward: np.ndarray
           ) -> Sample:
  """This process's first completion; process 0, which logs it, has one."""
  if not share.places:
    return "", "", 0.0
  return (prompts.as_text(done.prompts[0]), done.texts[0],
          float(reward[share.places[0]]))


def _shown(row: Mapping[str, float]) -> dict[str, float | str]:
  """The values of a step that its progress line shows."""
  reward, solved = row["reward/mean"], row.get("rollout/solved")
  shown: dict[str, float | str] = {
    "reward": _UNKNOWN if math.isnan(reward) else reward,
    "solved": _UNKNOWN if solved is None else solved}
  if row["update/zero_groups"] == 1 and row["update/grad_norm"] == 0:
    # No forward pass was made, so there is no ELBO either.
    shown["no gradient:"] = (
      "no reward is known" if math.isnan(reward) else "all groups equal")
  else:
    shown |= {
      "elbo": row["update/score_mean"], "grad": row["update/grad_norm"]}
  if "eval/items" in row:
    shown["held-out"] = (f"{row['eval/solved']:.1%}" if "eval/solved" in row
                         else _UNKNOWN)
  return shown


def _short(text: str) -> str:
  """The end of a text, on one line."""
  line = " ".join(text.split())
  return line if len(line) <= _SHOWN else f"... {line[-_SHOWN:]}"
