"""Evaluations during a run decode block-diffusion models block by block."""

import dataclasses

import jax
import numpy as np
import pytest

from dlrl import config
from dlrl import validate
from dlrl.evaluation import held_out
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.sampling import block_decode

pytestmark = pytest.mark.usefixtures("unoptimized")

PUZZLE = "1034041221430021"


def load(data_dir, split, difficulty, *, field):
  return [{"puzzle": PUZZLE, "index": i, "difficulty": 5, "split": split}
          for i in range(8)]


def test_held_out_rows_stop_at_every_end(monkeypatch):
  seen = []

  def metrics(prompts, completions, **columns):
    seen.append(completions)
    return {"solved": [0.0] * len(prompts)}

  values = config.default()
  values.model.update(layers=1, width=32, mlp_width=32)
  values.mesh.data, values.mesh.fsdp = 4, 2
  values.eval.update(size=8, batch_size=8)
  values.eval.sampler.update(gen_length=8, block_length=4, steps=8)
  setup = setup_lib.make(validate.from_dict(values))
  model = transformer.build(
    dataclasses.replace(setup.cfg.model, block_length=4),
    setup.tokenizer.mask_id)
  ends = frozenset({1, 4, 9})
  setup = dataclasses.replace(
    setup, model=model, task=dataclasses.replace(
      setup.task, load=load, metrics=metrics))
  monkeypatch.setattr(
    type(setup.tokenizer), "ends", property(lambda self: ends))
  calls = []
  decode = block_decode.decode

  def recorded(*args, **options):
    calls.append(options["eos_ids"])
    return decode(*args, **options)

  monkeypatch.setattr(block_decode, "decode", recorded)
  with jax.set_mesh(setup.mesh):
    params = jax.jit(model.init)(jax.random.key(0))
    found = held_out.make(setup)(params, ends=False)
  assert found["eval/solved"] == 0
  assert calls == [(1, 4, 9)]
  assert len(seen[0]) == 8
  assert len(np.unique(seen[0])) == 1  # the same puzzle, greedily
