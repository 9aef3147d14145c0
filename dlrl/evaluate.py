"""Held-out accuracy of parameters, with a 95% interval."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dlrl import data
from dlrl import setup as setup_lib
from dlrl.runtime import progress
from dlrl.runtime import stats
from dlrl.sampling import denoise


def make(setup: setup_lib.Setup) -> Callable[[Any], dict[str, float]]:
  """`params -> {"eval/M": mean, "eval/M_low": ..., "eval/M_high": ...}`.

  The items, their order and the decoding are fixed, so that two evaluations
  differ by their parameters alone.

  Raises:
    strict.ConfigError: there are fewer held-out rows than `eval.size`.
  """
  cfg = setup.cfg.eval
  source = setup.task.load(
    setup.cfg.task.data_dir, "test", cfg.difficulty, field="eval.difficulty")
  rows = data.eval_rows(
    source, setup.tokenizer, cfg.size, setup.cfg.task.prompt_length,
    setup.cfg.task.truncates)
  if any(cut := rows.get("truncated", np.zeros(1))):
    progress.say(f"{sum(cut)} of {cfg.size} held-out prompts are cut")
  keys = jax.random.split(jax.random.key(0), cfg.batch_size)

  @jax.jit
  def decode(params, prompt, prompt_length):
    return denoise.decode(
      setup.model, params, prompt, prompt_length, keys, sampler=cfg.sampler,
      eos_id=setup.tokenizer.eos_id).completion

  def evaluate(params) -> dict[str, float]:
    pending = []
    for start in range(0, cfg.size, cfg.batch_size):
      # The last batch wraps around: one shape, one program.
      index = np.arange(start, start + cfg.batch_size) % cfg.size
      prompt, length = setup.put_batch(
        (rows["prompt_ids"][index], rows["prompt_length"][index]))
      pending.append(decode(params, prompt, length))
    ids = np.concatenate(jax.device_get(pending))[:cfg.size]
    texts = [setup.tokenizer.decode(row) for row in ids]
    columns = {k: v.tolist() for k, v in rows.items() if v.ndim == 1}
    prompts = columns.pop("prompt")
    scores = setup.task.metrics(prompts, texts, **columns)
    row: dict[str, float] = {}
    for name, values in scores.items():
      if set(values) <= {0.0, 1.0}:
        low, high = stats.wilson(round(sum(values)), cfg.size)
      else:
        low, high = stats.mean_interval(values)
      row |= {f"eval/{name}": float(np.mean(values)),
              f"eval/{name}_low": low, f"eval/{name}_high": high}
    return row

  return evaluate
