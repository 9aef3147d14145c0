"""Public losses refuse arguments of other shapes than they document."""

import inspect

import jax
import jax.numpy as jnp
import pytest

from dlrl import losses
from dlrl import strict
from dlrl.diffusion import montecarlo
from dlrl.losses import advantages
from dlrl.losses import ratio
from dlrl.losses.diffu_grpo import token_terms
from dlrl.strict import shapes

N, B, T, K = 2, 4, 3, 5
SIZES = {"n": N, "b": B, "t": T, "k": K}
SCORES = {"score": "nb", "old_score": "nb", "advantage": "b"}
TOKENS = {"logps": "nbt", "old_logps": "nbt", "advantage": "b", "mask": "nbt"}
# Axes of the arguments, as the docstrings state them, and what else it takes.
FUNCTIONS = {
  losses.bgpo: (SCORES, {}),
  losses.bgpo_clipped: (SCORES, {"clip": 0.2, "dual_clip": 3.0}),
  losses.bgpo_statistic: (
    {"score": "b", "old_score": "b", "advantage": "b"}, {}),
  losses.coupled_grpo: (
    TOKENS | {"weight": "nbt", "mask": "bt", "ref_logps": "nbt"},
    {"clip": 0.2, "kl_coef": 0.1}),
  losses.diffu_grpo: (
    TOKENS | {"ref_logps": "nbt"}, {"clip": 0.2, "kl_coef": 0.1}),
  losses.elbo_reinforce: ({"score": "nb", "advantage": "b"}, {}),
  losses.espo: (
    SCORES | {"ref_score": "nb", "length": "b"},
    {"clip": 0.2, "kl_coef": 0.1}),
  losses.gdsd: (
    SCORES | {"ref_score": "nb", "length": "b"},
    {"clip": 0.2, "kl_coef": 0.1}),
  losses.spg: (
    {"logps": "nbt", "weight": "nbt", "advantage": "b", "mask": "bt"},
    {"beta": 1.5, "mix": 0.5}),
  losses.stable_drl: (
    SCORES | {"length": "b"}, {"clip": 0.2, "group_size": 2}),
  losses.trace_rl: (TOKENS, {"clip": 0.2}),
  losses.unigrpo: (
    TOKENS | {"ref_logps": "nbt"}, {"clip": 0.2, "kl_coef": 0.1}),
  losses.vrpo_offline: (
    dict.fromkeys(("chosen", "rejected", "ref_chosen", "ref_rejected"), "nb"),
    {"beta": 0.2}),
  losses.vrpo_offline_outer: (
    {"chosen": "b", "rejected": "b"}, {"beta": 0.2}),
  losses.vrpo_online: (SCORES, {}),
  losses.wd1: (
    {"logps": "nbt", "advantage": "b", "mask": "nbt"}, {"group_size": 2}),
  losses.centered: ({"reward": "b"}, {"group_size": 2}),
  losses.normalized: ({"reward": "b"}, {"group_size": 2}),
  losses.leave_one_out: ({"reward": "b"}, {"group_size": 2}),
  advantages.softmax_centered: ({"reward": "b"}, {"group_size": 2}),
  losses.softmax_weights: ({"advantage": "b"}, {"group_size": 2}),
  losses.damp_negative: ({"advantage": "b"}, {"weight": 0.5}),
  losses.decoupled: (
    {"rewards": "bk"}, {"group_size": 2, "weights": (1.0,) * K}),
  losses.kl: ({"logp": "nb", "ref": "nb"}, {"kind": "k2"}),
  token_terms: (
    TOKENS | {"ref_logps": "nbt"}, {"clip": 0.2, "kl_coef": 0.1}),
}
# Of any shape that is that of another argument, or broadcastable to it.
FREE = {(losses.kl, "logp"), (token_terms, "mask")}
CASES = [(function, name) for function, (axes, _) in FUNCTIONS.items()
         for name in axes if (function, name) not in FREE]


def array(name, axes):
  shape = tuple(SIZES[x] for x in axes)
  return jnp.ones(shape, bool if name == "mask" else jnp.float32)


def arrays(function):
  return {name: array(name, axes)
          for name, axes in FUNCTIONS[function][0].items()}


def named(value):
  return getattr(value, "__name__", value)


def test_every_public_function_of_arrays_is_here():
  public = {
    name for name in losses.__all__
    if inspect.isfunction(function := getattr(losses, name))
    and function.__module__.startswith("dlrl.")
    and not name.endswith("_objective")}
  assert public <= {f.__name__ for f in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=named)
def test_the_documented_shapes_are_accepted(function):
  jax.eval_shape(lambda given: function(**given, **FUNCTIONS[function][1]),
                 arrays(function))


@pytest.mark.parametrize(("function", "name"), CASES, ids=named)
@pytest.mark.parametrize("wrong", ["fewer", "more", "longer"])
def test_an_argument_of_another_shape_is_named_with_its_shape(
    function, name, wrong):
  axes, others = FUNCTIONS[function]
  good = array(name, axes[name])
  # Another rank that broadcasts, or one more row, token or reward.
  bad = {"fewer": good[0], "more": good[None][:, None],
         "longer": jnp.concatenate([good, good[..., :1]], -1)}[wrong]
  given = arrays(function) | {name: bad}
  if wrong == "longer" and len(given) == 1 and axes[name] == "b":
    return  # nothing says how many responses there are
  if wrong == "fewer" and name == "length":
    return  # may be a scalar
  if wrong == "fewer" and axes[name] == "nbt" and function in (
      losses.diffu_grpo, losses.spg, losses.wd1) and name in ("logps", "mask"):
    return  # one draw without its axis, and one mask for all draws
  if function is token_terms and name == "logps":
    name = "old_logps"  # which is then the one that differs
  with pytest.raises(strict.ArgumentError) as error:
    jax.eval_shape(lambda given: function(**given, **others), given)
  message = str(error.value)
  assert message.startswith(f"{function.__name__}(")
  assert "its shape must be [" in message or "a scalar" in message
  shown = {f"({key}={value.shape})" for key, value in given.items()}
  assert any(x in message for x in shown)
  if wrong != "longer":  # which of two arguments has a row too many?
    assert f"({name}={tuple(given[name].shape)})" in message


def test_a_score_without_draws_is_not_taken_for_draws():
  score, advantage = jnp.ones(B), jnp.ones(B)
  with pytest.raises(strict.ArgumentError) as error:
    losses.bgpo(score, score, advantage)
  assert str(error.value) == (
    "bgpo(score=(4,)): its shape must be [n, b]: n draws, b responses")
  with pytest.raises(strict.ArgumentError) as error:
    losses.bgpo(jnp.ones((N, B)), jnp.ones((N, B)), jnp.ones(N))
  assert str(error.value) == (
    "bgpo(advantage=(2,)): its shape must be [b] with b = 4, as in score")


def test_shapes_are_checked_under_jit_grad_and_vmap():
  score, advantage = jnp.ones((N, B)), jnp.ones(B)
  grad = jax.grad(lambda *args: losses.elbo_reinforce(*args)[0].sum())
  for transformed in (jax.jit(losses.elbo_reinforce), grad):
    transformed(score, advantage)
    with pytest.raises(strict.ArgumentError, match=r"score=\(4,\)"):
      transformed(score[0], advantage)
  mapped = jax.vmap(losses.elbo_reinforce)
  mapped(score[None], advantage[None])
  with pytest.raises(strict.ArgumentError, match=r"score=\(4,\)"):
    mapped(score, jnp.ones((N, B)))


def test_axes_are_read_as_they_are_written():
  known = shapes.require("f", x=(jnp.ones((2, 3)), "nb"), y=(None, "nb"))
  assert {k: v[0] for k, v in known.items()} == {"n": 2, "b": 3}
  shapes.require("f", known, z=(1.0, "|b"), w=(jnp.ones((7, 2, 3)), "*nb"))
  for problem, wrong in (
      ("[n, b] or [b]: n draws, b responses", (1.0, "nb|b")),
      ("[..., b]", (1.0, "*b")), ("a scalar or [b]", (jnp.ones((3, 3)), "|b")),
      ("[b] with b = 3, as in x", (jnp.ones(2), "b"))):
    with pytest.raises(strict.ArgumentError) as error:
      shapes.require("f", known, z=wrong)
    assert problem in str(error.value)


def test_a_clip_takes_advantages_that_do_not_make_ratios_larger():
  ratio.clipped(jnp.ones((N, B)), jnp.ones((1, B)), 0.2)
  with pytest.raises(strict.ArgumentError, match=r"clipped\(advantage=\(2, 4"):
    ratio.clipped(jnp.ones((1, B)), jnp.ones((N, B)), 0.2)


def value_and_grad(objective, logps=(B, T), **rows):
  given = {"advantage": jnp.ones(B), "valid": jnp.ones((B, T), bool),
           "tokens": jnp.ones(B)} | rows
  ones = jnp.ones((B, T))

  def score(params, j):
    return losses.Scored(params, ones, None, ones > 0, ones), {}

  return jax.eval_shape(lambda: montecarlo.value_and_grad(
    objective, score, losses.Responses(**given), jnp.ones(logps), N))


@pytest.mark.parametrize("objective", [
  losses.bgpo_objective(), losses.vrpo_online_objective()],
  ids=["separable", "joint"])
def test_draws_and_responses_have_their_shapes(objective):
  value_and_grad(objective)
  with pytest.raises(strict.ArgumentError, match=r"Scored\(logps=\(4,\)\)"):
    value_and_grad(objective, logps=(B,))
  with pytest.raises(strict.ArgumentError, match=(
      r"Responses\(advantage=\(4, 1\)\): its shape must be \[b\]")):
    value_and_grad(objective, advantage=jnp.ones((B, 1)))
  with pytest.raises(strict.ArgumentError, match=r"Responses\(tokens=\(\)\)"):
    value_and_grad(objective, tokens=jnp.float32(3))


@pytest.mark.parametrize(("loss", "said"), [
  (lambda draw, rows: (draw.logps, {}), r"the loss with the shape \(4, 3\)"),
  (lambda draw, rows: (draw.logps.mean(), {}), r"the loss with the shape \(\)"),
  (lambda draw, rows: (draw.logps[:, 0], {"x": draw.logps}), "metric 'x'"),
  (lambda draw, rows: draw.logps[:, 0], "dict of metrics"),
])
def test_an_objective_returns_one_number_for_each_response(loss, said):
  for objective in (
      losses.Separable(loss),
      losses.Joint(lambda draw, rows: draw, lambda draw, rows: loss(
        losses.Scored(*draw), rows))):
    with pytest.raises(ValueError, match=said):
      value_and_grad(objective)
