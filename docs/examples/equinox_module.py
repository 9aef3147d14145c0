"""An Equinox module trained with VRPO-OL, a joint loss, in constant memory."""

import equinox as eqx
import jax
import jax.numpy as jnp

from dlrl import losses
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo

MASK, N_MC = 10, 8
completion = jnp.array([[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]])  # good, bad
rows = losses.Responses(
  jnp.array([1.0, -0.1]), valid=completion >= 0, tokens=jnp.full(2, 6.0))
net = (eqx.nn.Embedding(11, 32, key=jax.random.key(0)),
       eqx.nn.MultiheadAttention(2, 32, key=jax.random.key(1)),
       eqx.nn.Linear(32, 10, key=jax.random.key(2)))
params, static = eqx.partition(net, eqx.is_inexact_array)
old_params = params

def logps_of(params, ids, mask):  # of one completion, [t]
  embed, attend, head = eqx.combine(params, static)
  x = jax.vmap(embed)(jnp.where(mask, MASK, ids))
  logps = jax.nn.log_softmax(jax.vmap(head)(attend(x, x, x)))
  return jnp.take_along_axis(logps, ids[:, None], -1)[:, 0]

@jax.jit
def step(params, key):
  def score(params, j):
    draw = forward_process.balanced(
      jax.random.split(key, 2), rows.valid, j, N_MC)  # a key per completion
    both = (jax.vmap(logps_of, (None, 0, 0))(p, completion, draw.mask)
            for p in (params, old_params))
    return losses.Scored(*both, None, draw.mask, draw.weight / 6), {}
  (_, metrics), grads = montecarlo.value_and_grad(
    losses.vrpo_online_objective(), score, rows, params, N_MC)
  return jax.tree.map(lambda p, g: p - 0.03 * g, params, grads), metrics
for i in range(60):
  params, metrics = step(params, jax.random.key(i))
print("ratio per token, good and bad:", metrics["ratio"])
