"""A mixture of experts learns, as one that computes all experts does."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import runs
import updates

from dlrl import config
from dlrl import update
from dlrl.models import transformer
from dlrl.models.mlp import experts

MIXTURE = {
  "model__layers": 2, "model__experts__number": 4,
  "model__experts__per_token": 2, "model__experts__width": 8,
  "model__experts__shared_width": 8, "model__experts__dense_layers": 1,
  "model__experts__router": "sigmoid", "model__experts__scale": 2.5,
  "model__block_length": 4, "sft__forward_process": "block_stratified",
  "rollout__sampler__block_length": 4, "eval__sampler__block_length": 4,
  "learn__forward_process": "block_exact", "learn__n_mc": 15,
  "rollout__expert_load_every": 2}


def all_experts(self, x, routing, live):
  """In place of `Mixture.routed`: every expert computes every token."""
  gate, up, down = (getattr(self.experts, name).kernel.get_value()
                    for name in ("gate", "up", "down"))
  hidden = jax.nn.silu(jnp.einsum("btd,edf->btef", x, gate)) * jnp.einsum(
    "btd,edf->btef", x, up)
  every = jnp.einsum("btef,efd->bted", hidden, down)
  weights = jnp.sum(routing.weights[..., None] * jax.nn.one_hot(
    routing.experts, len(gate)), -2)
  y = jnp.einsum("bted,bte->btd", every, weights)
  return y if live is None else y * live[..., None]


@pytest.mark.slow
@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_three_updates_are_those_of_all_experts(
    router, monkeypatch, unoptimized):
  cfg = dataclasses.replace(networks.TINY, experts=config.ExpertsConfig(
    6, 2, 12, router=router, shared_width=8))
  model = transformer.build(cfg, updates.MASK)
  params = networks.random_params(model)
  tx = optax.apply_if_finite(optax.sgd(0.1), 10)

  def trained():
    step = jax.jit(update.make(model, updates.LEARN, tx))
    state = updates.first_state(params, tx)
    for seed in range(3):
      state, metrics = step(state, updates.make_batch(seed))
    return state.params, metrics

  got, metrics = trained()
  monkeypatch.setattr(experts.Mixture, "routed", all_experts)
  want, expected = trained()
  updates.assert_same(got, want, rtol=1e-4)
  np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-3)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), got, params)
  kernel = moved["layers"]["mlp"]["experts"]["up"]["kernel"]
  assert kernel > 1e-3 and moved["layers"]["mlp"]["router"]["kernel"] > 1e-3


@pytest.mark.slow
def test_a_run_of_a_mixture_learns_logs_its_load_and_continues(
    sudoku_dir, tmp_path, monkeypatch):
  cfg = runs.tiny(
    sudoku_dir, **MIXTURE, sft__steps=30, sft__checkpoint_every=30, steps=5)
  _, rows = runs.run_here(cfg, tmp_path / "whole")
  logged = [row for row in rows if "experts/load" in row]
  assert [row["step"] for row in logged] == [1, 3, 5]
  for row in logged:
    assert 1 <= row["experts/load/01"] == row["experts/load"] <= 2
    assert 0 < row["experts/entropy/01"] <= np.log(4) + 1e-6
    assert row["experts/dropped"] == 0
  runs.cut(cfg, tmp_path / "cut", monkeypatch)
  assert runs.run_here(cfg, tmp_path / "cut")[1] == rows
