"""The FLOPs of an update: passes over the draws, and no more.

Per draw, the forward pass takes F, the backward pass B, and recomputing layers
in the backward pass R. A separable loss takes F + R + B; a joint one at most F
more.
"""

import dataclasses
import functools

import jax
import networks
import pytest
import tiny_objectives
import updates

from dlrl import losses
from dlrl import strict
from dlrl import update
from dlrl.costs.flops import flops
from dlrl.diffusion import montecarlo
from dlrl.models import transformer

every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))


def is_joint(name):
  return isinstance(tiny_objectives.made(name), losses.Joint)


def on_policy(name, n):
  """A scorer whose old and reference log-probs are the policy's own."""
  scorer = tiny_objectives.scorer(name, n)

  def score(params, j):
    draw, metrics = scorer(params, j)
    return draw._replace(ref_logps=draw.old_logps), metrics

  return score


@every
@pytest.mark.parametrize("n", [4, 8])
def test_separable_losses_take_one_forward_per_draw_and_joint_ones_two(name, n):
  _, rows, params, *_ = tiny_objectives.problem()
  score = on_policy(name, n)

  def total(params):
    return score(params, 0)[0].logps.sum()

  forward = flops(total, params)
  backward = flops(jax.value_and_grad(total), params) - forward
  sizes = tiny_objectives
  assert forward == 2 * sizes.B * sizes.T * sizes.D * sizes.V
  assert backward == 2 * forward
  made = tiny_objectives.made(name)
  counted = flops(
    lambda p: montecarlo.value_and_grad(made, score, rows, p, n), params)
  assert counted == n * ((1 + is_joint(name)) * forward + backward)
  if is_joint(name):  # what constant memory costs
    stacked = flops(
      lambda p: montecarlo.stacked_value_and_grad(made, score, rows, p, n),
      params)
    assert counted == stacked + n * forward


@functools.cache
def network():
  """(model that recomputes its layers, parameters, batch)."""
  cfg = dataclasses.replace(networks.TINY, remat="full")
  model = transformer.build(cfg, updates.MASK)
  return model, networks.shapes_of(model), updates.make_batch()


def settings(name, **changes):
  """Settings of an update by the loss of `tiny_objectives`, without a KL."""
  process, knobs = tiny_objectives.METHODS[name]
  args = {k: v for k, v in knobs.items() if k != "kl_coef"}
  if "group_size" in args:
    args["group_size"] = updates.LEARN.micro_batch
  return dataclasses.replace(
    updates.LEARN, loss=name, loss_args=strict.Knobs(**args),
    forward_process=process,
    process_args=strict.Knobs(
      **({"block_length": updates.T} if process == "block" else {})),
    score_norm="none", **changes)


def state(ref=None):
  params = network()[1]
  return dataclasses.replace(
    jax.eval_shape(
      lambda p: updates.first_state(p, updates.recorder()), params),
    ref_params=ref)


def of_update(learn, ref=None):
  model, _, batch = network()
  return flops(
    update.make(model, learn, updates.recorder()), state(ref), batch)


@functools.cache
def of_a_draw():
  """(F, F + R + B) of one draw of every row."""
  model, params, batch = network()

  def total(params):
    _, (logps, _) = update.draw_logps(model, updates.LEARN, params, batch, 0)
    return logps.sum()

  return flops(total, params), flops(jax.value_and_grad(total), params)


def logits():
  """Number of logits in F: those of all positions, which fill whole chunks."""
  assert updates.LEARN.micro_batch * updates.T % updates.LEARN.logps_chunk == 0
  return updates.B * updates.T * networks.TINY.vocab_size


def head():
  """The unembedding's share of F."""
  return 2 * logits() * networks.TINY.width


def test_a_draw_takes_what_the_architecture_says():
  cfg = networks.TINY
  s, d, inner = updates.T + updates.P, cfg.width, cfg.heads * cfg.head_dim
  linear = 2 * s * d * (4 * inner + 3 * cfg.mlp_width)
  products = 2 * 2 * s * s * inner  # every position sees every other
  rows, layers = updates.B, cfg.layers
  forward, with_gradient = of_a_draw()
  assert forward == rows * layers * (linear + products) + head()
  # Everything is recomputed but each layer's last product: its output is only
  # added, so the backward pass does not need it.
  again = forward - rows * layers * 2 * s * d * cfg.mlp_width
  # The backward pass also recomputes entropies, which are products.
  assert with_gradient == forward + again + 2 * forward + 2 * logits()
  assert 3.7 * forward < with_gradient <= 4 * forward


@every
def test_an_update_takes_about_four_forwards_per_draw_and_joint_ones_one_more(
  name
):
  forward, with_gradient = of_a_draw()
  learn = settings(name, n_mc=4)
  needs_ref = losses.OBJECTIVES[name](**learn.loss_args).needs_ref
  counted = of_update(learn, network()[1] if needs_ref else None)
  assert counted % 4 == 0
  entropies = 2 * logits()  # a metric
  more = counted // 4 - with_gradient - needs_ref * forward - entropies
  if not is_joint(name):
    assert more == 0
  elif name == "spg":  # the derivative of its exp needs the log-probs again
    assert more == forward
  else:  # the second forward's logits are not used and not computed
    assert more == forward - head()


@pytest.mark.parametrize("name", ["bgpo", "espo"])
def test_an_update_is_linear_in_the_draws(name):
  few, many = (of_update(settings(name, n_mc=n)) for n in (4, 8))
  assert many == 2 * few > 0


@pytest.mark.parametrize("name", ["gdsd", "unigrpo", "espo"])
def test_old_and_reference_scores_take_a_forward_each(name):
  forward, n = of_a_draw()[0], 4
  learn, ref = settings(name, n_mc=n), network()[1]
  again = dataclasses.replace(learn, updates_per_rollout=2)
  alone = of_update(learn)
  assert of_update(again) == alone + n * forward
  assert of_update(again, ref) == alone + 2 * n * forward


def test_the_size_of_micro_batches_changes_nothing():
  learn = settings("espo", n_mc=4)
  small, large = (
    of_update(dataclasses.replace(learn, micro_batch=b)) for b in (1, 8))
  assert small == large == of_update(learn)
