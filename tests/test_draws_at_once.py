"""Several draws of a completion in one forward pass."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from updates import FAST
from updates import LEARN
from updates import MASK
from updates import assert_same
from updates import first_state
from updates import jitted
from updates import make_batch
from updates import recorder
from updates import tiny

from configs import bgpo
from dlrl import config
from dlrl import scoring
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.costs import hlo
from dlrl.diffusion import montecarlo
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib

SIX = dataclasses.replace(LEARN, n_mc=6)


@pytest.mark.parametrize("process", ["balanced", "coupled", "complementary"])
@pytest.mark.parametrize("norm", ["token", "none"])
def test_draws_are_those_of_one_at_a_time(process, norm):
  learn = dataclasses.replace(
    SIX, forward_process=process, prompt_noise=0.3, score_norm=norm)
  (model, params), batch = tiny(), make_batch()

  def of(j):
    return scoring.draw_logps(model, learn, params, batch, j)

  draws, tokens = jax.jit(of, compiler_options=FAST)(jnp.array([4, 1, 2]))
  one = jax.jit(of, compiler_options=FAST)
  for i, j in enumerate((4, 1, 2)):
    draw, alone = one(jnp.int32(j))
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b),
                 draws, draw)
    jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(
      a[i], b, rtol=0, atol=1e-5), tokens, alone)
  assert (draws.mask[0] != draws.mask[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "changes"), [
  ("bgpo", {}),
  ("espo", {"loss_args": strict.Knobs(kl_coef=0.5), "score_norm": "none"}),
  ("diffu_grpo", {"score_norm": "none", "updates_per_rollout": 2}),
  ("bgpo", {"prompt_noise": 0.2, "forward_process": "exact_k"}),
])
def test_an_update_is_that_of_one_at_a_time(loss, changes):
  """Separable and joint losses, on-policy, off-policy, with a reference."""
  learn = dataclasses.replace(SIX, loss=loss, **changes)
  (model, params), batch = tiny(), make_batch()
  ref = networks.random_params(model, seed=1) if loss == "espo" else None
  start = dataclasses.replace(first_state(params, recorder()), ref_params=ref)
  want, want_metrics = jitted(learn)(start, batch)
  for k in (2, 6):
    state, metrics = jitted(dataclasses.replace(learn, draws_at_once=k))(
      start, batch)
    assert_same(state, want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5), metrics, want_metrics)
  assert metrics["grad_norm"] > 1e-3


def compiled(model, learn, place=lambda tree, of_params: tree):
  """The gradients of an update of 16 completions."""
  def gradients(params, rows):
    return update.batch_grads(model, learn, params, rows)

  b, t, p = 16, 16, 20
  rows = jax.eval_shape(lambda: update.Batch(
    prompt=jnp.zeros((b, p), "int32"), prompt_length=jnp.zeros(b, "int32"),
    completion=jnp.zeros((b, t), "int32"), maskable=jnp.zeros((b, t), bool),
    advantage=jnp.zeros(b), keys=jax.random.split(jax.random.key(0), b)))
  return jax.jit(gradients).lower(
    place(networks.shapes_of(model), True), place(rows, False)).compile(FAST)


@pytest.mark.slow
def test_memory_grows_with_the_draws_at_once_and_not_with_all():
  model = transformer.build(config.ModelConfig(), MASK)

  def temporaries(n_mc, k):
    learn = config.LearnConfig(n_mc=n_mc, draws_at_once=k, micro_batch=16)
    return compiled(model, learn).memory_analysis().temp_size_in_bytes

  four = temporaries(8, 4)
  assert temporaries(64, 4) <= 1.02 * four
  assert four > 2 * temporaries(8, 1)


@pytest.mark.slow
def test_parameters_are_gathered_and_gradients_summed_once_for_all_at_once():
  setup = setup_lib.make(config.Config(
    model=networks.SHARDED, mesh=config.MeshConfig(1, 8, 1)))

  def place(tree, of_params):
    shardings = setup.param_shardings if of_params else jax.tree.map(
      lambda _: mesh_lib.batch_sharding(setup.mesh), tree)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=where), tree, shardings)

  def received(k):
    learn = config.LearnConfig(n_mc=8, draws_at_once=k, micro_batch=16)
    with jax.set_mesh(setup.mesh):
      text = compiled(setup.model, learn, place).as_text()
    sizes = collections.Counter()
    for one in hlo.traffic(text).collectives:
      sizes[one.kind] += one.times * one.size
    return sizes

  alone, together = received(1), received(4)
  large = [kind for kind, size in alone.items()
           if size > sum(alone.values()) / 4]
  assert large
  for kind in large:
    assert together[kind] < 0.3 * alone[kind], (kind, alone, together)


def test_what_cannot_be_is_refused():
  cfg = bgpo.get_config("smoke")
  cfg.learn.draws_at_once = 3
  with pytest.raises(strict.ConfigError, match=(
      r"config\.learn\.draws_at_once = 3: must divide learn\.n_mc = 4")):
    validate.from_dict(cfg)
  with pytest.raises(ValueError, match="at_once is 4; choose a divisor of n"):
    montecarlo.draws(6, 4)
