"""Every public function of `dlrl.losses` and `dlrl.diffusion`, on one batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import losses
from dlrl.diffusion import elbo
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.diffusion import montecarlo
from dlrl.diffusion import pruning
from dlrl.diffusion import token_logps
from dlrl.diffusion import token_noise

B, N, T, D, V, G = 8, 6, 4, 3, 5, 2


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
    "replaced": token_noise.replaced(
      x.keys, x.ids, x.valid, jnp.int32(1), rate=0.4, mask_id=2, vocab_size=V),
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
      hidden, unembed.astype(hidden.dtype), x.ids, x.valid, chunk=6)
    return jnp.sum(out.logps + 0.5 * out.entropy), out

  (of_hidden, of_unembed), out = jax.grad(
    total, (0, 1), has_aux=True)(x.hidden, x.unembed)
  return {"rows": (out, of_hidden), "sum": of_unembed}


PARTS = {f.__name__: f for f in (
  objectives, public_losses, advantages, draws, memory, scores)}
