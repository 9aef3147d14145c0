"""A tiny network and batch on which every objective can be evaluated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import losses
from dlrl.diffusion import method_processes

# D is large enough that arrays of draw indices do not count as memory.
B, T, D, V = 6, 6, 64, 7

# Each loss: its paper's forward process, and settings that all take effect.
METHODS = {
  "bgpo": ("stratified", {}),
  "bgpo_clipped": ("stratified", {"clip_low": 0.1, "clip_high": 0.1}),
  "coupled_grpo": ("coupled", {"clip_high": 0.2, "kl_coef": 0.1}),
  "diffu_grpo": ("all_masked", {"clip_low": 0.2, "kl_coef": 0.1}),
  "ebpo": ("quadrature", {"clip_low": 0.1}),
  "elbo_reinforce": ("continuous", {}),
  "espo": ("complementary", {"clip_low": 0.1, "kl_coef": 0.1}),
  "gdsd": ("exact_k", {"clip": 0.9, "psi": 0.1, "kl_coef": 0.1}),
  "spg": ("block", {"mix": 0.7}),
  "stable_drl": ("complementary", {"clip_low": 0.01, "group_size": 3}),
  "trace_rl": ("left_to_right", {"kl_coef": 0.2}),
  "unigrpo": ("random_ratio", {"kl_coef": 0.1}),
  "vrpo_offline": ("stratified", {"beta": 0.5}),
  "vrpo_online": ("stratified", {}),
}
KNOBS = {"block": {"block_length": 3}}


@functools.cache
def problem():
  """(targets, responses, params of the policy, the rollout, the reference)."""
  rng = np.random.default_rng(0)
  targets = jnp.asarray(rng.integers(0, V, (B, T)))
  valid = jnp.asarray(np.arange(T) < np.array([6, 4, 6, 5, 6, 3])[:, None])
  advantage = jnp.asarray([1.0, -0.5, -0.5, 0.8, -0.8, 0.0], jnp.float32)
  tokens = jnp.full(B, valid.sum() / B, jnp.float32)
  params = {
    "embed": jnp.asarray(rng.normal(size=(V + 1, D)), jnp.float32),
    "head": jnp.asarray(rng.normal(size=(D, V)) / D**0.5, jnp.float32)}
  moved = [jax.tree.map(
    lambda x: x + 0.15 * jnp.asarray(rng.normal(size=x.shape), x.dtype),
    params) for _ in range(2)]
  return targets, losses.Responses(advantage, valid, tokens), params, *moved


def logps_of(params, targets, mask):
  """Log-probs of a network that adds the mean embedding to every position."""
  seen = params["embed"][jnp.where(mask, V, targets)]
  hidden = jnp.tanh(seen + jnp.mean(seen, 1, keepdims=True))
  logps = jax.nn.log_softmax(hidden @ params["head"])
  picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
  return jnp.where(mask, picked, 0.0)


def scorer(name, n, old=None, ref=None):
  """`montecarlo.Score` on the loss's own forward process; old None: params."""
  targets, rows, *_ = problem()
  process = functools.partial(
    method_processes.PROCESSES[METHODS[name][0]],
    **KNOBS.get(METHODS[name][0], {}))
  keys = jax.random.split(jax.random.key(1), B)

  def score(params, j):
    mask, weight = process(keys, rows.valid, j, n)
    logps, *others = (
      None if p is None else logps_of(p, targets, mask)
      for p in (params, old, ref))
    others[0] = jax.lax.stop_gradient(logps) if old is None else others[0]
    scored = losses.Scored(logps, *others, mask, weight)
    return scored, {"score": scored.score(logps)}

  return score


def made(name):
  return losses.OBJECTIVES[name](**METHODS[name][1])
