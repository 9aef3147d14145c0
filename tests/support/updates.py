"""A tiny model, batches and an optimizer for tests of the update."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax

from dlrl import config
from dlrl import update
from dlrl.models import transformer

B, T, P, N_MC, MASK = 8, 5, 6, 3, 2  # every prompt is shorter than P
# Compiles in two thirds of the time. Only LLVM does less: XLA plans the same
# operations and buffers.
FAST = {"xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True}
LEARN = config.LearnConfig(
  n_mc=N_MC, micro_batch=2, logps_chunk=5, forward_process="stratified")


def recorder():
  """SGD with learning rate 1 that keeps the gradient in its state."""
  return optax.apply_if_finite(optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params=None: (
      jax.tree.map(jnp.negative, grads), grads)), 2**31 - 1)


@functools.cache
def tiny():
  model = transformer.build(networks.TINY, MASK)
  return model, networks.random_params(model)


def first_state(params, tx):
  return update.TrainState(
    step=jnp.int32(0), params=params, opt_state=tx.init(params),
    key=jax.random.key_data(jax.random.key(0)))


def make_batch(seed=0, b=B, vocab=networks.TINY.vocab_size):
  rng = np.random.default_rng(seed)
  advantage = rng.normal(0.3, 1, b).astype(np.float32)
  # Three rows without a gradient: among the five others they fill one
  # micro-batch of two and half of another.
  advantage[[1, 4, 6]] = 0
  advantage[5] = -1
  maskable = rng.random((b, T)) < 0.8
  maskable[3] = True
  return update.Batch(
    prompt=jnp.asarray(rng.integers(3, vocab, (b, P)), jnp.int32),
    prompt_length=jnp.asarray(1 + rng.integers(0, 3, b), jnp.int32),
    completion=jnp.asarray(rng.integers(3, vocab, (b, T)), jnp.int32),
    maskable=jnp.asarray(maskable),
    advantage=jnp.asarray(advantage),
    keys=jax.random.split(jax.random.key(seed + 100), b))


def assert_same(a, b, rtol=1e-5):
  """Trees agree to `rtol` of each leaf's largest entry."""
  def one(path, x, y):
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(
      x, y, rtol=0, atol=rtol * max(np.abs(y).max(), 1e-3),
      err_msg=networks.path_of(path))

  jax.tree.map_with_path(one, a, b)


@functools.cache
def jitted(learn):
  return jax.jit(
    update.make(tiny()[0], learn, recorder()), compiler_options=FAST)


def run(batch, learn=LEARN, params=None):
  """(gradient, metrics, new state) of one call."""
  params = tiny()[1] if params is None else params
  state, metrics = jitted(learn)(first_state(params, recorder()), batch)
  return state.opt_state.inner_state, jax.device_get(metrics), state


def take(batch, rows):
  return jax.tree.map(lambda x: x[np.asarray(rows)], batch)
