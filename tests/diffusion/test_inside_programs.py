"""Every public function inside other people's programs.

All functions of `dlrl.losses` and `dlrl.diffusion` run in one program per
environment: sharded, mapped, of other dtypes, and with JAX's strict settings.
"""

import contextlib
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from updates import FAST

from dlrl import losses
from dlrl.diffusion import elbo
from dlrl.diffusion import forward_process
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.diffusion import montecarlo
from dlrl.diffusion import pruning
from dlrl.diffusion import token_logps

pytestmark = pytest.mark.usefixtures("unoptimized")

B, N, T, D, V, G = 8, 6, 4, 3, 5, 2
SHARDS = 4


class Inputs(NamedTuple):
  """Arrays [b, ...]; the last two, weights of a network, belong to no row."""

  logps: jax.Array  # [b, n, t]
  old: jax.Array
  ref: jax.Array
  mask: jax.Array  # [b, n, t] bool
  valid: jax.Array  # [b, t] bool
  reward: jax.Array  # [b]
  tokens: jax.Array  # [b]
  keys: jax.Array  # [b]
  ids: jax.Array  # [b, t] int32
  steps: jax.Array  # [b, t] int32
  length: jax.Array  # [b] int32
  hidden: jax.Array  # [b, t, d]
  scale: jax.Array  # [t]
  unembed: jax.Array  # [d, v]


def inputs():
  rng = np.random.default_rng(0)
  three = -rng.exponential(size=(3, B, N, T)).astype(np.float32)
  valid = np.arange(T) < rng.integers(2, T + 1, B)[:, None]
  return Inputs(
    *map(jnp.asarray, three), jnp.asarray(rng.random((B, N, T)) < 0.6),
    jnp.asarray(valid), jnp.asarray(rng.integers(0, 2, B), jnp.float32),
    jnp.full(B, 3.25, jnp.float32), jax.random.split(jax.random.key(0), B),
    jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32),
    jnp.asarray(rng.integers(0, T, (B, T)), jnp.int32),
    jnp.asarray(rng.integers(0, T, B), jnp.int32),
    jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32),
    jnp.asarray(1 + rng.random(T), jnp.float32),
    jnp.asarray(rng.normal(size=(D, V)), jnp.float32))


ALSO = {"espo": {"kl_coef": 0.1, "kl": "k3"}, "gdsd": {"clip": 0.3},
        "stable_drl": {"group_size": G}}


def objectives(x):
  """((loss, metrics), gradients) of every objective, by draws of the mask."""
  rows = losses.Responses(
    losses.centered(x.reward, G), x.valid, x.tokens)

  def score(scale, j):
    mask = x.mask[:, j]
    logps, old, ref = (a[:, j] for a in (x.logps, x.old, x.ref))
    draw = losses.Scored(logps * scale[None], old, ref, mask,
                         mask.astype(jnp.float32) * 1.5)
    return draw, {"score": draw.score(old), "up": rows.advantage > 0}

  return {name: montecarlo.value_and_grad(
    of(**ALSO.get(name, {})), score, rows, x.scale, N)
    for name, of in losses.OBJECTIVES.items()}


def public_losses(x):
  """(losses [b], gradients [b, n, t]) of every public loss."""
  advantage = x.reward
  logps, old, ref, mask = (
    jnp.moveaxis(a, 1, 0) for a in (x.logps, x.old, x.ref, x.mask))
  clip = 0.3

  def score(a):
    return jnp.sum(a, -1)

  each = {
    "bgpo": lambda a: losses.bgpo(score(a), score(old), advantage),
    "bgpo_clipped": lambda a: losses.bgpo_clipped(
      score(a), score(old), advantage, clip=clip, dual_clip=3.0),
    "coupled_grpo": lambda a: losses.coupled_grpo(
      a, old, mask, advantage, x.valid, clip=clip, ref_logps=ref,
      kl_coef=0.1),
    "diffu_grpo": lambda a: losses.diffu_grpo(
      a, old, advantage, mask, clip=clip, ref_logps=ref, kl_coef=0.1),
    "elbo_reinforce": lambda a: losses.elbo_reinforce(score(a), advantage),
    "espo": lambda a: losses.espo(
      score(a), score(old), advantage, length=T, clip=clip,
      ref_score=score(ref), kl_coef=0.1),
    "espo of lengths": lambda a: losses.espo(
      score(a), score(old), advantage, length=x.length + 1, clip=clip),
    "gdsd": lambda a: losses.gdsd(
      score(a), score(old), advantage, length=T, clip=clip,
      ref_score=score(ref), kl_coef=0.1),
    "kl": lambda a: (losses.kl(score(a)[0], score(ref)[0], "k1"), {}),
    "spg": lambda a: losses.spg(
      a, mask, advantage, x.valid, beta=1.5, mix=0.4),
    "stable_drl": lambda a: losses.stable_drl(
      score(a), score(old), advantage, length=T, clip=clip, group_size=G),
    "trace_rl": lambda a: losses.trace_rl(
      a, old, advantage, mask, clip=clip, kl_coef=0.1),
    "unigrpo": lambda a: losses.unigrpo(
      a, old, advantage, mask, clip=clip, ref_logps=ref, kl_coef=0.1),
    "vrpo_offline": lambda a: losses.vrpo_offline(
      score(a), score(old), score(ref), score(ref), beta=0.2),
    "vrpo_online": lambda a: losses.vrpo_online(
      score(a), score(old), advantage),
    "wd1": lambda a: losses.wd1(a, advantage, mask, group_size=G),
    "elbo": lambda a: (elbo.score(
      a[0], mask[0].astype(jnp.float32), x.length + 1), {}),
  }

  def with_slope(loss):
    def total(logps):
      out = loss(logps)
      return jnp.sum(out[0]), out

    slope, out = jax.grad(total, has_aux=True)(logps)
    return out, jnp.moveaxis(slope, 0, 1)

  return {name: with_slope(loss) for name, loss in each.items()}


def advantages(x):
  return {
    **{name: of(x.reward, G) for name, of in losses.ADVANTAGES.items()},
    "weights": losses.softmax_weights(x.reward, G, psi=2.0),
    "damped": losses.damp_negative(x.reward, 0.5)}


def draws(x):
  """One draw of every process, and what is made of draws."""
  knobs = {"block": {"block_length": 2}}
  steps = method_processes.fork_steps(x.steps, x.mask[:, 0])
  order = {name: of(x.keys, x.logps[:, 0])
           for name, of in pruning.REMASK.items()}
  return {
    **{name: of(x.keys, x.valid, jnp.int32(1), N, **knobs.get(name, {}))
       for name, of in method_processes.PROCESSES.items()},
    "trace": method_processes.trace(x.steps, x.valid, jnp.int32(1), N),
    "forks": method_processes.forks(steps, x.valid, jnp.int32(1), N),
    "noise": method_processes.prompt_noise(
      x.keys, x.valid, jnp.int32(1), N, 0.4),
    "input": model_input.assemble(x.ids, x.ids, x.length),
    **{name: pruning.keep(o, x.valid, 0.5) for name, o in order.items()}}


def memory(x):
  """Completions stored by prompts and recalled by others."""
  kept = pruning.store(
    pruning.empty(3, T), jnp.arange(B // G, dtype=jnp.int32), x.ids, x.reward,
    0.5)
  return {"kept": kept, "recalled": pruning.recall(kept, x.length),
          "annealed": pruning.annealed(0.5, jnp.int32(3), 8)}


def scores(x):
  """Log-probs and entropies, and their gradients to both factors."""
  def total(hidden, unembed):
    out = token_logps.token_logps(
      hidden, unembed.astype(hidden.dtype), x.ids, x.valid, chunk=3)
    return jnp.sum(out.logps + 0.5 * out.entropy), out

  (of_hidden, of_unembed), out = jax.grad(
    total, (0, 1), has_aux=True)(x.hidden, x.unembed)
  return {"rows": (out, of_hidden), "sum": of_unembed}


PARTS = {f.__name__: f for f in (
  objectives, public_losses, advantages, draws, memory, scores)}
parts = pytest.mark.parametrize("part", sorted(PARTS))


@functools.cache
def wanted(part):
  return jax.jit(PARTS[part], compiler_options=FAST)(inputs())


def numbers(x):
  x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key
                                               ) else x
  return np.asarray(x, np.float64)


def close(got, want, rtol=1e-5):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    numbers(a), numbers(b), rtol=rtol,
    atol=rtol * max(1.0, abs(numbers(b)).max())), got, want)


def run(part, x):
  return jax.jit(PARTS[part], compiler_options=FAST)(x)


def of_dtypes(got, want):
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    assert a.dtype == b.dtype


@parts
@pytest.mark.parametrize("setting", [
  "strict promotion", "x64", "debug nans"])
def test_settings_of_jax_change_nothing(part, setting):
  want = wanted(part)
  with {"strict promotion": lambda: jax.numpy_dtype_promotion("strict"),
        "x64": lambda: jax.enable_x64(True),
        "debug nans": lambda: jax.debug_nans(True)}[setting]():
    got = run(part, inputs())
    close(got, want)
  of_dtypes(got, want)


@pytest.mark.parametrize(
  "part", ["objectives", "public_losses", "advantages", "memory"])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_rewards_may_be_integers_or_bools(part, dtype):
  x = inputs()
  with jax.numpy_dtype_promotion("strict"):
    got = run(part, x._replace(reward=x.reward.astype(dtype)))
  close(got, wanted(part))
  of_dtypes(got, wanted(part))


@parts
def test_bf16_is_computed_in_fp32(part):
  def cast(dtype, x):
    return jax.tree.map(
      lambda a: a.astype(dtype) if a.dtype == jnp.float32 else a, x)

  rounded = cast(jnp.bfloat16, inputs())
  with jax.numpy_dtype_promotion("strict"):
    got = run(part, rounded)
  close(got, run(part, jax.tree.map(
    lambda a: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a,
    rounded)), rtol=2e-2)
  if part != "scores":  # all but the gradients of bf16 arrays
    outs = jax.tree.leaves(got if part != "public_losses" else {
      name: out for name, (out, _) in got.items()})
    assert jnp.bfloat16 not in {a.dtype for a in outs}


@parts
def test_vmap(part):
  x = inputs()
  other = x._replace(logps=2 * x.logps, hidden=-x.hidden, keys=x.keys[::-1])
  got = jax.jit(jax.vmap(PARTS[part]), compiler_options=FAST)(
    jax.tree.map(lambda *a: jnp.stack(a), x, other))
  close(jax.tree.map(lambda a: a[0], got), wanted(part))


SPEC = Inputs(*[P("data")] * 12, P(), P())
# What their shapes say about a batch is what they say about a device's rows.
OF_BATCH = {"coupled_grpo", "diffu_grpo", "spg"}


def on(mesh, x):
  return jax.tree.map(
    lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), x, SPEC)


def per_device(part):
  """A part as the body of `shard_map`, and its specs."""
  def body(x):
    out = PARTS[part](x)
    if part == "objectives":
      return {name: ((jax.lax.pmean(loss, "data"), metrics), grads / SHARDS)
              for name, ((loss, metrics), grads) in out.items()}
    return out

  spec = {"objectives": ((P(), P("data")), P()),
          "scores": {"rows": P("data"), "sum": P()}}.get(part, P("data"))
  return body, dict.fromkeys(
    losses.OBJECTIVES, spec) if part == "objectives" else spec


# A memory is of the whole batch.
@pytest.mark.parametrize("part", sorted(PARTS.keys() - {"memory"}))
@pytest.mark.parametrize("axis", [AxisType.Auto, AxisType.Explicit])
def test_shard_map(part, axis):
  mesh = jax.make_mesh((SHARDS,), ("data",), axis_types=(axis,))
  body, spec = per_device(part)
  got = run_on(mesh, jax.shard_map(
    body, mesh=mesh, in_specs=(SPEC,), out_specs=spec))
  want = dict(wanted(part))
  if part == "public_losses":
    for name in OF_BATCH:
      got.pop(name)
      want.pop(name)
  close(got, want)


def run_on(mesh, function):
  return jax.jit(function, compiler_options=FAST)(on(mesh, inputs()))


@parts
@pytest.mark.parametrize("current", [True, False], ids=["set_mesh", "alone"])
def test_explicit_meshes(part, current):
  mesh = jax.make_mesh((SHARDS,), ("data",))  # Explicit by default
  want = wanted(part)
  with jax.set_mesh(mesh) if current else contextlib.nullcontext():
    close(run_on(mesh, PARTS[part]), want)


def test_gradients_of_parameters_that_vary_are_each_device_s_own():
  mesh = jax.make_mesh((SHARDS,), ("data",))

  def body(x):
    scale = jax.lax.pcast(x.scale, "data", to="varying")
    return {name: jax.lax.pmean(grads, "data") for name, (_, grads)
            in objectives(x._replace(scale=scale)).items()}

  got = run_on(mesh, jax.shard_map(
    body, mesh=mesh, in_specs=(SPEC,), out_specs=P()))
  close(got, {name: grads for name, (_, grads) in wanted("objectives").items()})


@pytest.mark.parametrize("name", sorted(losses.ADVANTAGES))
def test_unknown_rewards_are_no_nans_on_the_way(name):
  reward = jnp.array([1.0, 0.0, jnp.nan, 1.0, jnp.nan, jnp.nan])
  want = losses.ADVANTAGES[name](reward, 2)
  with jax.debug_nans(True):  # looks at the result of every operation
    got = losses.ADVANTAGES[name](reward, 2)
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(got[2:], 0)


@pytest.mark.parametrize("name", ["bgpo", "espo"])  # separable, joint
@pytest.mark.parametrize("value_and_grad", [
  montecarlo.value_and_grad, montecarlo.stacked_value_and_grad])
def test_no_draws_and_no_responses_are_refused(name, value_and_grad):
  def of(b, n):
    rows = losses.Responses(
      jnp.ones(b), jnp.ones((b, T), bool), jnp.full(b, float(T)))

    def score(logps, j):
      return losses.Scored(
        logps, logps, None, rows.valid, jnp.ones((b, T))), {}

    return value_and_grad(
      losses.OBJECTIVES[name](), score, rows, jnp.zeros((b, T)), n)

  of(1, 1)
  for n in (0, -1):
    with pytest.raises(ValueError, match=f"n is {n}; .* at least one draw"):
      of(2, n)
  with pytest.raises(ValueError, match=r"no responses: .*\(0,\)"):
    of(0, 2)


def test_losses_of_no_draws_are_refused():
  x = jnp.zeros((0, B))
  for loss in (lambda: losses.bgpo(x, x, jnp.ones(B)),
               lambda: losses.espo(x, x, jnp.ones(B), length=T, clip=0.2),
               lambda: losses.vrpo_offline(x, x, x, x, beta=0.2),
               lambda: losses.diffu_grpo(
                 jnp.zeros((0, B, T)), jnp.zeros((0, B, T)), jnp.ones(B),
                 jnp.ones((0, B, T), bool), clip=0.2)):
    with pytest.raises(ValueError, match="n = 0 draws"):
      loss()


def test_groups_have_to_be_whole():
  for advantage in losses.ADVANTAGES.values():
    with pytest.raises(ValueError, match="group_size 3 does not divide 4"):
      advantage(jnp.ones(4), 3)


def test_processes_refuse_no_draws():
  with pytest.raises(ValueError, match="tiled: n is 0"):
    forward_process.tiled(inputs().keys, inputs().valid, 0, 0)


def test_the_number_of_draws_may_be_traced():
  x = inputs()
  got = jax.jit(forward_process.stratified)(x.keys, x.valid, 1, N)
  close(got, forward_process.stratified(x.keys, x.valid, 1, N))
