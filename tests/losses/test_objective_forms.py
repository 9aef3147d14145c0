"""Objectives against the public functions of the same losses.

The responses have unequal lengths, and every setting takes effect.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_objectives

from dlrl import losses

pytestmark = pytest.mark.usefixtures("unoptimized")

B, T = tiny_objectives.B, tiny_objectives.T
N = 6
CLIP = {"clip_low": 0.1, "clip_high": 0.2}
BOTH = {"clip": (0.1, 0.2)}


def in_pairs(new, ref, rows):
  """The rows of each pair by advantage, as `vrpo_offline` takes them."""
  pairs = jnp.asarray(rows.advantage).reshape(-1, 2)
  first = jnp.arange(0, B, 2) + pairs.argmax(1)
  other = jnp.arange(0, B, 2) + pairs.argmin(1)
  loss, metrics = losses.vrpo_offline(
    new[:, first], new[:, other], ref[:, first], ref[:, other], beta=0.7)
  return jax.tree.map(lambda x: jnp.repeat(x, 2), (loss, metrics))


# Settings of the objective; the public function of (draws, the draws' scores
# under the trained, the rollout's and the reference's parameters, responses).
FORMS = {
  "bgpo": ({}, lambda d, new, old, ref, rows: losses.bgpo(
    new, old, rows.advantage)),
  "bgpo_clipped": (
    CLIP | {"dual_clip": 1.3}, lambda d, new, old, ref, rows:
    losses.bgpo_clipped(new, old, rows.advantage, **BOTH, dual_clip=1.3)),
  "coupled_grpo": (
    CLIP | {"kl_coef": 0.3}, lambda d, new, old, ref, rows:
    losses.coupled_grpo(
      d.logps, d.old_logps, d.weight, rows.advantage, rows.valid, **BOTH,
      ref_logps=d.ref_logps, kl_coef=0.3)),
  "diffu_grpo": (
    CLIP | {"kl_coef": 0.3}, lambda d, new, old, ref, rows: losses.diffu_grpo(
      d.logps, d.old_logps, rows.advantage, d.weight > 0, **BOTH,
      ref_logps=d.ref_logps, kl_coef=0.3)),
  "ebpo": (CLIP, lambda d, new, old, ref, rows: losses.espo(
    new, old, rows.advantage, length=1, **BOTH, ref_score=ref, kl="k2")),
  "elbo_reinforce": ({}, lambda d, new, old, ref, rows: losses.elbo_reinforce(
    new, rows.advantage)),
  "espo": (
    CLIP | {"kl_coef": 0.3, "kl": "k3"}, lambda d, new, old, ref, rows:
    losses.espo(new, old, rows.advantage, length=T, **BOTH, ref_score=ref,
                kl_coef=0.3, kl="k3")),
  "gdsd": (
    {"clip": 0.3, "psi": 0.2, "kl_coef": 0.3}, lambda d, new, old, ref, rows:
    losses.gdsd(new, old, rows.advantage, length=T, clip=0.3, psi=0.2,
                ref_score=ref, kl_coef=0.3)),
  "spg": (
    {"beta": 1.3, "mix": 0.7}, lambda d, new, old, ref, rows: losses.spg(
      d.logps, d.weight, rows.advantage, rows.valid, beta=1.3, mix=0.7)),
  "stable_drl": (
    CLIP | {"group_size": 3}, lambda d, new, old, ref, rows: losses.stable_drl(
      new, old, rows.advantage, length=T, **BOTH, group_size=3)),
  "trace_rl": (
    CLIP | {"kl_coef": 0.3}, lambda d, new, old, ref, rows: losses.trace_rl(
      d.logps, d.old_logps, rows.advantage, d.weight > 0, **BOTH,
      kl_coef=0.3)),
  "unigrpo": (
    CLIP | {"kl_coef": 0.3}, lambda d, new, old, ref, rows: losses.unigrpo(
      d.logps, d.old_logps, rows.advantage, d.weight > 0, **BOTH,
      ref_logps=d.ref_logps, kl_coef=0.3)),
  "vrpo_offline": ({"beta": 0.7}, lambda d, new, old, ref, rows: in_pairs(
    new, ref, rows)),
  "vrpo_online": ({}, lambda d, new, old, ref, rows: losses.vrpo_online(
    new, old, rows.advantage)),
}

every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))


def case(name, process=None):
  """(objective, its draws stacked, responses)."""
  _, rows, params, old, ref = tiny_objectives.problem()
  lengths = np.asarray(rows.valid).sum(1)
  assert len(set(lengths)) > 2
  np.testing.assert_allclose(rows.tokens, lengths.mean())
  score = tiny_objectives.scorer(process or name, N, old=old, ref=ref)
  draws = [score(params, j)[0] for j in range(N)]
  objective = losses.OBJECTIVES[name](**FORMS[name][0])
  return objective, jax.tree.map(lambda *x: jnp.stack(x), *draws), rows


def by_draws(objective, draws, rows):
  """The loss and metrics [b] of an objective."""
  if isinstance(objective, losses.Separable):
    each = jax.vmap(objective.loss, (0, None))(draws, rows)
    return jax.tree.map(lambda x: jnp.mean(x, 0), each)
  each = jax.vmap(objective.statistic, (0, None))(draws, rows)
  return objective.outer(jax.tree.map(lambda x: jnp.mean(x, 0), each), rows)


def with_gradients(form, draws):
  """((loss, metrics) of a form, gradients of the mean loss)."""
  def mean(logps):
    out = form(draws._replace(logps=logps))
    return jnp.mean(out[0]), out

  grads, out = jax.grad(mean, has_aux=True)(draws.logps)
  return out, grads


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=1e-5, atol=1e-6 * max(1.0, abs(b).max())), got, want)


def test_every_objective_has_a_public_form():
  assert FORMS.keys() == losses.OBJECTIVES.keys()


@pytest.mark.parametrize(("name", "process"), [
  *((name, name) for name in sorted(FORMS)), ("diffu_grpo", "trace_rl")])
def test_an_objective_is_its_public_function_of_all_draws(name, process):
  objective, draws, rows = case(name, process)

  def public(draws):
    scores = (jnp.sum(x * draws.weight, -1) for x in (
      draws.logps, draws.old_logps, draws.ref_logps))
    return FORMS[name][1](draws, *scores, rows)

  want, slope = with_gradients(public, draws)
  got, grads = with_gradients(lambda d: by_draws(objective, d, rows), draws)
  if name == "bgpo":  # an update reports the changes of scores for every loss
    assert want[1].pop("delta").all()
  close((got, grads), (want, slope))
  assert abs(slope).max() > 1e-3
  for metric in ("clip", "kl"):  # or a setting has no effect
    assert metric not in want[1] or np.asarray(want[1][metric]).any()


@every
def test_a_loss_does_not_depend_on_the_rest_of_the_batch(name):
  objective, draws, rows = case(name)
  few = objective.together if objective.together > 1 else 3
  whole, _ = by_draws(objective, draws, rows)
  part, _ = by_draws(
    objective, jax.tree.map(lambda x: x[:, :few], draws),
    jax.tree.map(lambda x: x[:few], rows))
  close(part, whole[:few])


@pytest.mark.parametrize(
  "name", ["coupled_grpo", "diffu_grpo", "spg", "trace_rl", "unigrpo"])
def test_token_losses_ignore_tokens_that_do_not_count(name):
  objective, draws, rows = case(name)
  spoiled = draws._replace(
    weight=jnp.where(rows.valid, draws.weight, 2.0),
    logps=jnp.where(rows.valid, draws.logps, -1.5))
  want = with_gradients(lambda d: by_draws(objective, d, rows), draws)
  got = with_gradients(lambda d: by_draws(objective, d, rows), spoiled)
  close(got, want)
