"""Held-out items come from the split that the settings name."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from dlrl import config
from dlrl import validate
from dlrl.evaluation import held_out
from dlrl.run import setup as setup_lib
from dlrl.sampling import denoise
from dlrl.sampling import steps

PUZZLE = "1034041221430021"
# A metric with another value in each split.
VALUES = {"train": 0.125, "validation": 0.25, "test": 0.75}


def load(data_dir, split, difficulty, *, field):
  return [{"puzzle": PUZZLE, "index": i, "difficulty": 5, "split": split}
          for i in range(8)]


def metrics(prompts, completions, *, split, **columns):
  return {"solved": [VALUES[name] for name in split]}


def decode(model, params, prompt, *args, **kwargs):
  return steps.DecodeState(prompt, prompt, jnp.int32(0), prompt)


@pytest.mark.parametrize(("split", "ends", "expected"), [
  ("validation", False, {"eval": 0.25}),
  ("validation", True, {"eval": 0.25, "test": 0.75}),
  ("test", False, {"eval": 0.75}),
  ("test", True, {"eval": 0.75, "test": 0.75}),
])
def test_held_out_items_come_from_the_named_split(
    monkeypatch, split, ends, expected):
  values = config.default()
  values.model.layers = 1
  values.mesh.data, values.mesh.fsdp = 4, 2
  values.eval.update(split=split, size=8, batch_size=8)
  setup = setup_lib.make(validate.from_dict(values))
  setup = dataclasses.replace(setup, task=dataclasses.replace(
    setup.task, load=load, metrics=metrics))
  monkeypatch.setattr(denoise, "decode", decode)
  with jax.set_mesh(setup.mesh):
    found = held_out.make(setup)(jnp.zeros(()), ends=ends)
  assert {name.removesuffix("/solved"): value for name, value in found.items()
          if name.endswith("/solved")} == expected


@pytest.mark.parametrize(("size", "most", "rows"), [
  (3, 16, [8]), (8, 16, [8]), (9, 16, [16]), (9, 8, [8, 8]), (16, 512, [16])])
def test_few_items_are_decoded_in_small_batches(monkeypatch, size, most, rows):
  values = config.default()
  values.model.layers = 1
  values.mesh.data, values.mesh.fsdp = 4, 2
  values.eval.update(split="validation", size=size, batch_size=most)
  setup = setup_lib.make(validate.from_dict(values))
  asked = []

  def some(*args, **kwargs):
    return load(*args, **kwargs) * 2

  def measure(prompts, completions, **columns):
    asked.append(len(completions))
    return {"solved": [1.0] * len(completions)}

  setup = dataclasses.replace(setup, task=dataclasses.replace(
    setup.task, load=some, metrics=measure))
  seen = []

  def put(tree):
    seen.append(len(tree[0]))
    return jax.tree.map(jnp.asarray, tree)

  monkeypatch.setattr(denoise, "decode", decode)
  monkeypatch.setattr(setup_lib.Setup, "put_batch", lambda _, tree: put(tree))
  with jax.set_mesh(setup.mesh):
    found = held_out.make(setup)(jnp.zeros(()), ends=False)
  assert (seen, asked, found["eval/items"]) == (rows, [size], size)
