"""Held-out accuracy of parameters, with 95% intervals."""

import functools
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import config
from dlrl import data
from dlrl import keys as keys_lib
from dlrl import tasks
from dlrl.evaluation import table
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.sampling import denoise
from dlrl.sampling import speed
from dlrl.tasks import reward_calls


def make(setup: setup_lib.Setup) -> Callable[..., dict[str, float]]:
  """Returns `evaluate(params, *, ends) -> {"eval/M": mean, ...}`.

  Every metric M has `eval/M`, `eval/M_low` and `eval/M_high`, on items of
  `config.eval.split`; it is absent where it is not known of any item. Beside
  them are `eval/items`, the number of items, and `eval/infrastructure_errors`,
  of how many of them a metric is not known. With `ends=True`, which is for the
  time before the first step and after the last, the result has the same of the
  test split as `test/M`, unless users' files have none: nothing that is decided
  during a run may depend on test items. The items, their order and the random
  keys are fixed, so that two evaluations differ only by their parameters.

  Raises:
    strict.ConfigError: a split has no rows, or one that cannot be asked.
  """
  cfg = setup.cfg.eval
  items = _narrowed(
    {split: _items(setup, split) for split in _splits(setup.cfg)},
    setup.cfg.task.prompt_length)

  @functools.partial(
    jax.jit, out_shardings=mesh_lib.batch_sharding(setup.mesh))
  def evaluation(params, prompt, prompt_length, places):
    keys = jax.vmap(lambda place: jax.random.fold_in(jax.random.fold_in(
      jax.random.key(0), place[0]), place[1]))(places)
    decoded = denoise.decode(
      setup.model, params, prompt, prompt_length, keys, sampler=cfg.sampler,
      eos_id=setup.tokenizer.eos_id, ends=tuple(setup.tokenizer.ends))
    return decoded.completion, speed.tokens_per_forward(
      decoded.completion, decoded.trace, setup.tokenizer.ends)

  def on_split(params: Any, split: str) -> dict[str, float]:
    source, arrays = items[split]
    size = len(arrays["position"])
    rows_of_batch = mesh_lib.batch_rows(setup.mesh, size, cfg.batch_size)
    pending = []
    for start in range(0, size, rows_of_batch):
      # The last batch wraps around, so that all have one shape and program.
      index = np.arange(start, start + rows_of_batch) % size
      places = np.stack([np.full_like(index, keys_lib.Seed[split.upper()]),
                         index], 1).astype(np.uint32)
      rows = setup.put_batch((arrays["prompt_ids"][index],
                              arrays["prompt_length"][index], places))
      pending.append(evaluation(params, *rows))
    share, *answers = _local(pending, size, split)
    asked = [source[i] for i in arrays["position"][share.places].tolist()]
    done = grading.read(setup, asked, *answers)
    found = grading.metrics(setup, done, share)
    return _summary(found, size, setup.task.unbounded)

  def evaluate(params: Any, *, ends: bool) -> dict[str, float]:
    found = {"eval": on_split(params, cfg.split)}
    if ends and "test" in items:
      found["test"] = (found["eval"] if cfg.split == "test"
                       else on_split(params, "test"))
    return {f"{prefix}/{name}": value for prefix, row in found.items()
            for name, value in row.items()}

  return evaluate


def check(setup: setup_lib.Setup) -> None:
  """Checks the held-out items before anything else begins.

  Raises:
    strict.ConfigError: see `make`; or a metric is a reward function that cannot
      take the columns of a split.
  """
  cfg = setup.cfg
  for split in _splits(cfg):
    source = setup.task.load(
      cfg.task.data_dir, split, cfg.eval.difficulty, field="eval.difficulty")
    _rows(setup, source)
    if tasks.FILES in cfg.task.name.split("+"):
      reward_calls.check(setup.rewards, tasks.columns(data.samples(source)))


def _splits(cfg: config.Config) -> list[str]:
  """Names the split of `config.eval`, and the test split if there is one."""
  own = tasks.FILES in cfg.task.name.split("+")
  tested = ["test"] if cfg.task.test_files or not own else []
  return list(dict.fromkeys([cfg.eval.split, *tested]))


def _local(batches: Sequence[tuple[jax.Array, jax.Array]], size: int,
           split: str) -> tuple[processes.Share, np.ndarray, np.ndarray]:
  """This process's share of the first `size` rows, their tokens and speed."""
  places: list[int] = []
  rows, start = [], 0
  for batch in progress.watched(batches, f"evaluation on {split}: batches"):
    share, found = processes.local(*batch)
    kept = [i for i, place in enumerate(share.places) if start + place < size]
    places += [start + share.places[i] for i in kept]
    rows.append([array[kept] for array in found])
    start += share.total
  ids, speeds = map(np.concatenate, zip(*rows, strict=True))
  return processes.Share(places, size), ids, speeds


def _items(setup: setup_lib.Setup, split: str
           ) -> tuple[tasks.Examples, dict[str, np.ndarray]]:
  """The rows of a split and the result of `data.eval_rows`."""
  cfg = setup.cfg
  source = setup.examples(split, cfg.eval.difficulty, field="eval.difficulty")
  arrays = _rows(setup, source)
  size = len(arrays["position"])
  if size < cfg.eval.size:
    progress.say(f"{split} has {len(source)} examples, of which {size} are "
                 f"evaluated instead of eval.size = {cfg.eval.size}")
  if cut := int(arrays.get("truncated", np.zeros(1)).sum()):
    progress.say(f"{cut} of {size} {split} prompts are truncated")
  return source, arrays


def _narrowed(
  items: dict[str, tuple[tasks.Examples, dict[str, np.ndarray]]],
  prompt_length: int,
) -> dict[str, tuple[tasks.Examples, dict[str, np.ndarray]]]:
  """With prompts of one width for all splits, which share a program."""
  width = data.width(np.concatenate(
    [rows["prompt_length"] for _, rows in items.values()]), prompt_length)
  return {split: (source, rows | {"prompt_ids": rows["prompt_ids"][:, :width]})
          for split, (source, rows) in items.items()}


def _rows(setup: setup_lib.Setup, source: tasks.Examples
          ) -> dict[str, np.ndarray]:
  cfg = setup.cfg
  return data.eval_rows(
    source, setup.tokenizer, setup.prompt, items=cfg.eval.size,
    prompt_length=cfg.task.prompt_length, truncate=cfg.task.truncates)


def _summary(found: dict[str, list[float]], items: int,
             unbounded: Collection[str]) -> dict[str, float]:
  """The mean of each metric and its interval, and how much is not known."""
  # Where any metric is not known, `solved` is not.
  row: dict[str, float] = {
    "items": items, "infrastructure_errors": items - len(found["solved"])}
  for name, values in found.items():
    if not values:
      continue  # its grader failed on every completion
    row[name] = float(np.mean(values))
    low, high = table.interval(values, share=name not in unbounded)
    if low is not None and high is not None:
      row |= {f"{name}_low": low, f"{name}_high": high}
  return row
