"""Decodes the completions of an evaluation and grades them.

Each process of a job grades the rows that its devices hold.
"""

import dataclasses
import functools
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import config
from dlrl import data
from dlrl import keys as keys_lib
from dlrl import tasks
from dlrl.evaluation.completions_log import Record
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.sampling import denoise
from dlrl.sampling import speed

Place = tuple[int, int]  # (sample, item): which completion of which item
# This process's share of a batch: tokens, commit steps, tokens per forward.
Decoded = tuple[processes.Share, list[np.ndarray]]


def lengths(cfg: config.Config) -> tuple[int, ...]:
  """The completion lengths to evaluate, in tokens."""
  return cfg.evaluation.lengths or (cfg.eval.sampler.gen_length,)


def sampler(cfg: config.Config, length: int) -> config.SamplerConfig:
  """`config.eval.sampler` at another length, with steps in proportion."""
  base = cfg.eval.sampler
  steps = (length // cfg.evaluation.tokens_per_step
           if cfg.evaluation.tokens_per_step
           else base.steps * length // base.gen_length)
  return dataclasses.replace(
    base, gen_length=length, steps=steps,
    block_length=min(base.block_length, length))


def missing(
  setup: setup_lib.Setup, params: Any, length: int, source: tasks.Examples,
  items: dict[str, np.ndarray], done: Collection[tuple[int, ...]],
) -> Iterator[list[Record]]:
  """Yields the records of the completions of a length, a batch at a time.

  Every process of a job iterates over all, and gets all.

  Args:
    setup: its `cfg.evaluation` says how many completions an item has.
    params: parameters of the policy.
    length: tokens of a completion.
    source: the examples of the split.
    items: `data.eval_rows` of `source`.
    done: (length, sample, item) of those that exist already.
  """
  cfg = setup.cfg
  todo = [(sample, item) for sample in range(cfg.evaluation.samples)
          for item in range(len(items["position"]))
          if (length, sample, item) not in done]
  if exist := sum(place[0] == length for place in done):
    progress.say(f"{exist} completions of length {length} exist already")
  size = cfg.eval.batch_size
  batches = [todo[i:i + size] for i in range(0, len(todo), size)]
  decoded = _decoded(setup, params, length, items, batches)
  with progress.Progress(len(batches), f"length {length}") as line:
    for number, (places, (share, arrays)) in enumerate(decoded, 1):
      # Rows that only fill up a short batch are dropped.
      mine = [i for i in share.places if i < len(places)]
      records = _records(
        setup, length, source, items, [places[i] for i in mine],
        [array[:len(mine)] for array in arrays]) if mine else []
      whole = processes.Share(mine, len(places)).whole({"record": records})
      yield whole["record"]
      line.tick(1)
      line.show(number, stays=number == len(batches), completions=len(places))


def _decoded(setup: setup_lib.Setup, params: Any, length: int,
             items: dict[str, np.ndarray], batches: Sequence[list[Place]]
             ) -> Iterator[tuple[list[Place], Decoded]]:
  """Yields batches with their completions.

  The device decodes the next batch while the host scores this one.
  """
  root = keys_lib.of(setup.root_key, keys_lib.Seed.EVALUATION)
  used = sampler(setup.cfg, length)

  @functools.partial(
    jax.jit, out_shardings=mesh_lib.batch_sharding(setup.mesh))
  def evaluation(params, prompt, prompt_length, places):
    keys = jax.vmap(lambda place: jax.random.fold_in(
      jax.random.fold_in(root, place[0]), place[1]))(places)
    decoded = denoise.decode(
      setup.model, params, prompt, prompt_length, keys, sampler=used,
      eos_id=setup.tokenizer.eos_id, ends=tuple(setup.tokenizer.ends))
    return decoded.completion, decoded.trace, speed.tokens_per_forward(
      decoded.completion, decoded.trace, setup.tokenizer.ends)

  # By all completions, not by those that a continued evaluation lacks.
  rows_of_batch = mesh_lib.batch_rows(
    setup.mesh, len(items["position"]) * setup.cfg.evaluation.samples,
    setup.cfg.eval.batch_size)
  width = data.width(items["prompt_length"], setup.cfg.task.prompt_length)
  begun: list[tuple[list[Place], tuple[jax.Array, ...]]] = []
  for places in batches:
    # A short batch is filled up by repetition: one shape needs one program.
    whole = np.resize(np.array(places, np.int32), (rows_of_batch, 2))
    rows = setup.put_batch((
      items["prompt_ids"][whole[:, 1], :width],
      items["prompt_length"][whole[:, 1]], whole))
    begun.append((places, evaluation(params, *rows)))
    if len(begun) > 1:
      yield _read(*begun.pop(0))
  if begun:
    yield _read(*begun.pop(0))


def _read(places: list[Place], decoded: Sequence[jax.Array]
          ) -> tuple[list[Place], Decoded]:
  return places, processes.local(*decoded)


def _records(setup: setup_lib.Setup, length: int, source: tasks.Examples,
             items: dict[str, np.ndarray], places: Sequence[Place],
             decoded: Sequence[np.ndarray]) -> list[Record]:
  """One record for each of `places`, whose tokens and steps are `decoded`."""
  ids, trace, speeds = decoded
  rows = [source[items["position"][item]] for _, item in places]
  done = grading.read(setup, rows, ids, speeds)
  raw: list[dict[str, str]] = [{} for _ in rows]
  if setup.cfg.evaluation.scorer != "sound":
    # Published scorers also read what follows the end-of-sequence token.
    raw = [{"generation": setup.tokenizer.decode_all(row)} for row in ids]
    done = dataclasses.replace(
      done, columns=done.columns | tasks.columns(raw))
  found = grading.each(setup.task, rows, done)
  return [{
    "length": length, "sample": sample, "item": item,
    "task": row.get("task", setup.cfg.task.name), "index": row["index"],
    "prompt": prompt, "completion": text,
    "answer": setup.task.answer(row, text), "scores": values,
    "out_of": {name: of(row) for name, of in setup.task.out_of.items()},
    "commit_steps": steps.tolist(), **more,
  } for (sample, item), row, prompt, text, more, values, steps in zip(
    places, rows, done.prompts, done.texts, raw, found, trace, strict=True)]
