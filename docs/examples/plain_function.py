"""A model that is a plain function, trained with dlrl's BGPO."""

import jax
import jax.numpy as jnp

from dlrl import losses
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo

MASK, N_MC = 10, 8
completion = jnp.array([[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]])  # good, bad
rows = losses.Responses(
  jnp.array([1.0, -0.1]), valid=completion >= 0, tokens=jnp.full(2, 6.0))

def logits(params, ids):  # [b, t] -> [b, t, v]
  seen = params["embed"][ids]
  return jnp.tanh(seen + params["mix"] @ seen) @ params["head"]

def score(params, j, key):
  keys = jax.random.split(key, 2)  # one per completion
  draw = forward_process.stratified(keys, rows.valid, j, N_MC)
  noisy = jnp.where(draw.mask, MASK, completion)
  logps = jax.nn.log_softmax(logits(params, noisy))
  logps = jnp.take_along_axis(logps, completion[..., None], -1)[..., 0]
  old = jax.lax.stop_gradient(logps)  # one update per rollout: old is current
  scored = losses.Scored(logps, old, None, draw.mask, draw.weight / 6)
  return scored, {"elbo": scored.score(logps)}

@jax.jit
def step(params, key):
  (_, metrics), grads = montecarlo.value_and_grad(
    losses.bgpo_objective(), lambda p, j: score(p, j, key), rows, params, N_MC)
  return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), metrics

draws = (0.1 * jax.random.normal(jax.random.key(i), s)
         for i, s in enumerate([(11, 32), (6, 6), (32, 10)]))
params = dict(zip(("embed", "mix", "head"), draws, strict=True))
for i in range(100):
  params, metrics = step(params, jax.random.key(i))
print("ELBO per token, good and bad:", metrics["elbo"])
