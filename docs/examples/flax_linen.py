"""A Flax Linen module trained with ESPO, a joint loss, in constant memory."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from dlrl import losses
from dlrl.diffusion import forward_process
from dlrl.diffusion import montecarlo

MASK, N_MC = 10, 8
completion = jnp.array([[1, 2, 3, 1, 2, 3], [4, 5, 6, 4, 5, 6]])  # good, bad
rows = losses.Responses(
  jnp.array([1.0, -0.1]), valid=completion >= 0, tokens=jnp.full(2, 6.0))
net = nn.Sequential([nn.Embed(11, 32), nn.SelfAttention(2), nn.Dense(10)])
params = old_params = net.init(jax.random.key(0), completion)
tx = optax.adam(3e-3)

def logps_of(params, mask):
  logits = net.apply(params, jnp.where(mask, MASK, completion))
  picked = jnp.take_along_axis(
    jax.nn.log_softmax(logits), completion[..., None], -1)
  return picked[..., 0]

@jax.jit
def step(params, opt_state, key):
  def score(params, j):
    keys = jax.random.split(key, 2)  # one per completion
    draw = forward_process.complementary(keys, rows.valid, j, N_MC)
    both = (logps_of(p, draw.mask) for p in (params, old_params))
    return losses.Scored(*both, None, *draw), {}
  (_, metrics), grads = montecarlo.value_and_grad(
    losses.espo_objective(), score, rows, params, N_MC)
  updates, opt_state = tx.update(grads, opt_state)
  return optax.apply_updates(params, updates), opt_state, metrics
opt_state = tx.init(params)
for i in range(60):
  params, opt_state, metrics = step(params, opt_state, jax.random.key(i))
print("ratio per token, good and bad:", metrics["ratio"])
