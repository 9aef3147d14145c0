"""Steps of the optimizer in every dtype, against optax's own in fp32."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import updates

from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl.models import transformer

CFG = config.OptimizerConfig(learning_rate=1e-2, clip_norm=100.0)
PARAMS = {"kernel": jnp.linspace(-1, 1, 12).reshape(3, 4),
          "norm": {"scale": jnp.ones(4)}}


def grads(i):
  return jax.tree.map(
    lambda p: jnp.cos(3 * p + i) * (1 + 10 * (i == 3)), PARAMS)


def states(tx, params, n):
  """States and parameters after each of n steps."""
  state, found = tx.init(params), []
  step = jax.jit(tx.update)
  for i in range(n):
    steps, state = step(grads(i), state, params)
    params = optax.apply_updates(params, steps)
    found.append((state, params))
  return found


@pytest.mark.parametrize(("name", "plain"), [
  ("adamw", optax.adamw(1e-2, b1=0.9, b2=0.99, weight_decay=0.0)),
  ("lion", optax.lion(1e-2, b1=0.9, b2=0.99, weight_decay=0.0))])
def test_a_name_stands_for_its_steps(name, plain):
  tx = optimizer.make(dataclasses.replace(CFG, name=name), 10)
  for (_, got), (_, want) in zip(
      states(tx, PARAMS, 4), states(plain, PARAMS, 4), strict=True):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                 got, want)


def adamw(params, gradients, cfg):
  """Parameters after a step for each of `gradients`; a dict of arrays."""
  params = {k: np.asarray(p, np.float64) for k, p in params.items()}
  m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
  for t, g in enumerate(gradients, 1):
    norm = math.sqrt(sum((x.astype(np.float64)**2).sum() for x in g.values()))
    assert norm > 2 * cfg.clip_norm  # it binds
    for k, p in params.items():
      clipped = g[k] * (cfg.clip_norm / norm)
      m[k] = cfg.b1 * m[k] + (1 - cfg.b1) * clipped
      v[k] = cfg.b2 * v[k] + (1 - cfg.b2) * clipped**2
      step = m[k] / (1 - cfg.b1**t) / (np.sqrt(v[k] / (1 - cfg.b2**t)) + 1e-8)
      vector = k.endswith(("scale", "bias"))
      decay = 0 if vector else cfg.weight_decay
      params[k] = p - cfg.learning_rate * (step + decay * p)
  return params


def test_steps_are_those_of_adamw_by_hand_and_vectors_do_not_decay():
  cfg = config.OptimizerConfig(
    learning_rate=3e-2, b1=0.7, b2=0.95, weight_decay=0.5, clip_norm=0.3)
  model = transformer.build(dataclasses.replace(
    networks.TINY, qkv_bias=True, qk_norm=True), updates.MASK)
  params = networks.random_params(model)
  names = [networks.path_of(path)
           for path, _ in jax.tree.leaves_with_path(params)]
  assert [name.rpartition("/")[0] for name in names
          if name.endswith("scale")] == [
    "layers/attention/k_norm", "layers/attention/q_norm",
    "layers/attention_norm", "layers/mlp_norm", "norm"]
  assert {name.rpartition("/")[2] for name in names} == {
    "bias", "embedding", "kernel", "scale"}

  tx = optimizer.make(cfg, 10)
  state, gradients = tx.init(params), []
  first = dict(zip(names, jax.tree.leaves(params), strict=True))
  step = jax.jit(tx.update)
  for seed in range(3):
    # Small in some parameters: a clip of each by itself would show.
    grads = jax.tree.map(lambda g, by=seed: g * 0.2**by,
                         networks.random_params(model, seed + 1))
    gradients.append(dict(zip(
      names, map(np.asarray, jax.tree.leaves(grads)), strict=True)))
    change, state = step(grads, state, params)
    params = optax.apply_updates(params, change)
  for (name, value), leaf in zip(
      adamw(first, gradients, cfg).items(), jax.tree.leaves(params),
      strict=True):
    np.testing.assert_allclose(leaf, value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_the_rate_is_of_the_next_update_and_skipped_ones_do_not_count(name):
  cfg = dataclasses.replace(CFG, name=name, warmup_steps=2, schedule="cosine")
  tx = optimizer.make(cfg, 4)
  state, found = tx.init(PARAMS), []
  for scale in (1, np.nan, 1, 1, 1):
    found.append(float(optimizer.rate(cfg, 4, state)))
    _, state = tx.update(
      jax.tree.map(lambda g, by=scale: g * by, grads(0)), state, PARAMS)
  np.testing.assert_allclose(found, [0, 5e-3, 5e-3, 1e-2, 5e-3], rtol=1e-6)


def test_a_warm_up_is_optax_s_own():
  cfg = dataclasses.replace(CFG, warmup_steps=4, schedule="cosine")
  own = optimizer.schedule(cfg, 12)
  want = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 4, 12)
  np.testing.assert_allclose(
    [own(i) for i in range(14)], [want(i) for i in range(14)], rtol=1e-6,
    atol=1e-9)
  assert own(0) == 0


def test_lion_keeps_half_of_what_adamw_keeps():
  sizes = {}
  for name in optimizer.OPTIMIZERS:
    for dtype in ("float32", "bfloat16"):
      tx = optimizer.make(
        dataclasses.replace(CFG, name=name, moment_dtype=dtype), 10)
      sizes[name, dtype] = sum(
        x.nbytes for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim)
  n = 16
  assert sizes == {
    ("adamw", "float32"): 8 * n, ("adamw", "bfloat16"): 6 * n,
    ("lion", "float32"): 4 * n, ("lion", "bfloat16"): 2 * n}


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("moment_dtype", ["float32", "bfloat16"])
def test_moments_have_their_dtypes_and_values(param_dtype, moment_dtype):
  want = states(optimizer.make(CFG, 10), PARAMS, 5)
  tx = optimizer.make(dataclasses.replace(CFG, moment_dtype=moment_dtype), 10)
  params = jax.tree.map(lambda p: p.astype(param_dtype), PARAMS)
  for (got, new), (expected, _) in zip(
      states(tx, params, 5), want, strict=True):
    assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype(param_dtype)}
    for moment, dtype, rtol in (("mu", moment_dtype, 2**-6),
                                ("nu", "float32", 1e-6)):
      a, b = (optax.tree.get(s, moment)["kernel"] for s in (got, expected))
      assert a.dtype == dtype
      np.testing.assert_allclose(
        np.asarray(a, np.float32), b, rtol=0 if rtol > 1e-3 else rtol,
        atol=rtol * np.abs(b).max())


def test_small_steps_are_lost_in_bf16_parameters_and_not_in_fp32_ones():
  # Each step is the learning rate: a ten millionth of the parameters.
  tx = optimizer.make(dataclasses.replace(CFG, learning_rate=1e-7), 10)
  moved = {}
  for dtype in ("float32", "bfloat16"):
    params = {"kernel": jnp.ones((3, 4), dtype)}
    state = tx.init(params)
    steps, _ = jax.jit(tx.update)({"kernel": jnp.ones((3, 4))}, state, params)
    np.testing.assert_allclose(steps["kernel"], -1e-7, rtol=1e-4)
    new = optax.apply_updates(params, steps)["kernel"]
    moved[dtype] = np.asarray(new != params["kernel"])
  assert moved["float32"].all()
  assert not moved["bfloat16"].any()


@pytest.mark.parametrize("dtypes", [
  {"compute_dtype": "bfloat16"},
  {"compute_dtype": "bfloat16", "param_dtype": "bfloat16"}])
def test_an_update_keeps_the_dtypes_of_its_state(dtypes):
  model = transformer.build(
    dataclasses.replace(networks.TINY, **dtypes), updates.MASK)
  tx = optimizer.make(dataclasses.replace(CFG, moment_dtype="bfloat16"), 10)
  state = jax.eval_shape(
    lambda key: updates.first_state(model.init(key), tx), jax.random.key(0))
  new, _ = jax.eval_shape(
    update.make(model, updates.LEARN, tx), state, updates.make_batch())
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), state))
