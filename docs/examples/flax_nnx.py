"""A Flax NNX module trained with UniGRPO, a loss of tokens."""

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import losses
from dlrl.diffusion import method_processes
from dlrl.diffusion import montecarlo

MASK, N_MC = 10, 8
completion = jnp.array([[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]])  # good, bad
rows = losses.Responses(
  jnp.array([1.0, -0.1]), valid=completion >= 0, tokens=jnp.full(2, 6.0))
rngs = nnx.Rngs(0)
definition, params = nnx.split(nnx.Sequential(  # params: a tree of arrays
  nnx.Embed(11, 32, rngs=rngs), nnx.MultiHeadAttention(
    2, 32, decode=False, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)))

def logps_of(params, mask):
  logits = nnx.merge(definition, params)(jnp.where(mask, MASK, completion))
  return jnp.take_along_axis(
    jax.nn.log_softmax(logits), completion[..., None], -1)[..., 0]

@jax.jit
def step(params, key):
  def score(params, j):
    draw = method_processes.random_ratio(  # a key per completion
      jax.random.split(key, 2), rows.valid, j, N_MC)
    logps = logps_of(params, draw.mask)
    scored = losses.Scored(logps, jax.lax.stop_gradient(logps), None, *draw)
    return scored, {"logp": logps.mean(-1)}
  (_, metrics), grads = montecarlo.value_and_grad(
    losses.unigrpo_objective(), score, rows, params, N_MC)
  return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), metrics

for i in range(60):
  params, metrics = step(params, jax.random.key(i))
print("log-prob per token, good and bad:", metrics["logp"])
