"""Every public function inside other people's programs.

All functions of `dlrl.losses` and `dlrl.diffusion` run in one program per
environment: sharded, mapped, of other dtypes, and with JAX's strict settings.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from public_functions import PARTS
from public_functions import B
from public_functions import Inputs
from public_functions import N
from public_functions import T
from public_functions import inputs
from public_functions import objectives
from updates import FAST

from dlrl import losses
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo

pytestmark = pytest.mark.usefixtures("unoptimized")

SHARDS = 4
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


@pytest.mark.slow
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
