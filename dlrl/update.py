"""The second half of a step: from rewards to new parameters.

    rewards -> advantages -> draws -> scores -> loss -> gradients -> optimizer

One program. The draws of the forward process are regenerated from their keys
inside a scan, so memory does not depend on their number
(`diffusion.montecarlo`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import scoring
from dlrl.diffusion import batch as batch_lib
from dlrl.diffusion import montecarlo
from dlrl.diffusion import pruning
from dlrl.diffusion.batch import Batch
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.own_code import imported
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand
from dlrl.scoring import batch_logps
from dlrl.scoring import draw_logps

Metrics = dict[str, jax.Array]  # scalars


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes and a checkpoint keeps.

  Attributes:
    step: scalar int32, finished steps.
    params: nested dicts, the trained parameters: an adapter, or all of them.
    opt_state: the optimizer's state.
    key: the run's root key, as data; constant.
    ref_params: the reference policy's parameters, constant, in place of
      `params`. {}, no adapter, if the reference is the base; None if the loss
      has no KL to a reference.
    memory: completions that later rollouts may start from, or None.
    base: frozen parameters beneath an adapter; None if all are trained.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  key: jax.Array
  ref_params: Any = None
  memory: pruning.Memory | None = None
  base: Any = None

  @property
  def policy(self) -> Any:
    """The policy's parameters, as the model takes them."""
    return lora.join(self.base, self.params)

  @property
  def saved(self) -> "TrainState":
    """The part that checkpoints keep: a base is loaded or made again."""
    return dataclasses.replace(self, base=None)


Update = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Learn = Callable[..., tuple[TrainState, Metrics]]


def objective(cfg: config.LearnConfig) -> losses.Objective:
  """The objective of `learn.loss`, which may be a user's."""
  made: losses.Objective = imported.find(
    losses.OBJECTIVES, cfg.loss, "learn.loss")(**cfg.loss_args)
  return made


def make_learn(
  model: transformer.Model, cfg: config.Config,
  tx: optax.GradientTransformation, ends: Collection[int],
) -> Learn:
  """`(state, batch, index, *rewards) -> (state, metrics)`, to be jitted.

  `batch` comes from a rollout, `index` [g] int32 identifies its prompts, and
  `rewards` are as in `reward_shapes`, NaN where they are not known. The first
  of `ends` in a completion ends its text.
  """
  step = make(model, cfg.learn, tx, cfg.rollout.group_size)
  rule, group = losses.ADVANTAGES[cfg.learn.advantage], cfg.rollout.group_size

  def update(
    state: TrainState, batch: Batch, index: jax.Array, reward: jax.Array,
    parts: jax.Array | None = None,
  ) -> tuple[TrainState, Metrics]:
    advantage = losses.damp_negative(
      rule(reward, group) if parts is None else losses.decoupled(
        parts, group, rule=rule, weights=cfg.rollout.reward_weights),
      cfg.learn.negative_weight)
    if state.memory is not None:
      state = dataclasses.replace(state, memory=pruning.store(
        state.memory, index, batch.completion, reward,
        cfg.rollout.prior.min_reward))
    rate = optimizer.rate(
      cfg.learn.optimizer, optimizer.rl_updates(cfg), state.opt_state)
    # A completion's length is that of its text; what the sampler wrote after
    # the end does not count.
    end = jnp.isin(batch.completion, np.array(sorted(ends), np.int32))
    ended = jnp.cumsum(end, 1)
    counted = batch.maskable
    if cfg.learn.tokens == "until_eos":
      # The token that ends a text is part of it.
      counted &= (ended == 0) | ((ended == 1) & end)
    state, metrics = step(state, dataclasses.replace(
      batch, advantage=advantage, counted=counted))
    return state, metrics | {
      "learning_rate": rate,
      "rollout/length": jnp.mean(jnp.sum(ended == 0, 1, dtype=jnp.float32)),
      "rollout/steps": jnp.mean(1.0 + jnp.max(batch.trace, 1))}

  return update


def reward_shapes(
  cfg: config.RolloutConfig, sharding: jax.sharding.Sharding | None = None
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """The rewards that `make_learn` takes, fp32: their weighted sum [b].

  With `normalize` "each" also all k rewards without their weights, [b, k].
  """
  rows = cfg.prompts * cfg.group_size
  sizes = [(rows,)] + [(rows, len(cfg.rewards))] * (cfg.normalize == "each")
  return tuple(jax.ShapeDtypeStruct(size, jnp.float32, sharding=sharding)
               for size in sizes)


def make(
  model: transformer.Model, cfg: config.LearnConfig,
  tx: optax.GradientTransformation, group: int = 1,
) -> Update:
  """`(state, batch) -> (state, metrics)`, to be jitted; scalars as metrics.

  Args:
    model: the policy's model.
    cfg: the update's settings.
    tx: the optimizer.
    group: completions of each prompt, after one another in a batch.
  """

  def one(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    reference = None if state.ref_params is None else lora.join(
      state.base, state.ref_params)
    metrics, grads = batch_grads(
      model, cfg, state.policy, batch, group, reference)
    with jax.named_scope("optimizer"):
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
    metrics |= {
      "grad_norm": optimizer.global_norm(grads),
      "nonfinite_in_a_row": opt_state.notfinite_count,
      "nonfinite_total": opt_state.total_notfinite,
    }
    state = dataclasses.replace(state, params=params, opt_state=opt_state)
    return state, metrics

  def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rows = batch.completion.shape[0] // cfg.updates_per_rollout
    updates = cfg.epochs * cfg.updates_per_rollout

    def with_old_logps(batch: Batch) -> Batch:
      # By the policy that made the rollout, before any of its updates. With a
      # single update that is the policy trained, and no pass is needed.
      if updates == 1:
        return batch
      others = objective(cfg).others
      old, scores, routing = batch_logps(
        model, cfg, state.policy, batch, group, others=others,
        records=cfg.replay_routing)
      return dataclasses.replace(
        batch, old_logps=old, routing=routing,
        old_scores=scores if others == "means" else None)

    batches = jax.lax.map(with_old_logps, batch_lib.epochs(batch, cfg.epochs))
    parts = jax.tree.map(
      lambda x: x.reshape(updates, rows, *x.shape[2:]), batches)
    if updates == 1:
      state, metrics = one(state, jax.tree.map(lambda x: x[0], parts))
      return dataclasses.replace(state, step=state.step + 1), metrics
    state, metrics = jax.lax.scan(one, state, parts)
    metrics = {
      k: v[-1] if k.startswith("nonfinite") else jnp.mean(v)
      for k, v in metrics.items()
    }
    return dataclasses.replace(state, step=state.step + 1), metrics

  return update


def micro_batch_grads(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, onto: Any,
  batch: Batch, live: jax.Array, tokens: jax.Array, *, share: int,
) -> tuple[Metrics, Any]:
  """`(metrics summed over live rows, onto + gradients)` of a micro-batch.

  Args:
    model: the policy's model.
    cfg: the update's settings.
    params: the policy's parameters; only the trained part has gradients.
    onto: gradients that these are added to.
    batch: rows that are processed together; the loss is their mean.
    live: [b] bool, the rows that have a gradient.
    tokens: [b] fp32, see `losses.Responses`.
    share: see `scoring.prepare`.
  """
  base, trained = lora.split(params)
  found = objective(cfg)
  averaged = found.others == "means"

  def prepare(trained: Any) -> Any:
    return scoring.prepare(
      model, cfg, lora.join(base, trained), batch, share)

  def score(trained: Any, shared: Any, j: jax.Array
            ) -> tuple[losses.Scored, Metrics]:
    draw, (logps, entropy) = draw_logps(
      model, cfg, lora.join(base, trained), batch, j, shared)

    def of_draws(x: jax.Array | None) -> jax.Array | None:
      # [b, ...], or of several draws [k, b, ...].
      return None if x is None else jnp.moveaxis(x[:, j], 0, jnp.ndim(j))

    old, ref = (
      jnp.broadcast_to(x, logps.shape) if averaged and x is not None
      else of_draws(x) for x in (batch.old_logps, batch.ref_logps))
    # On-policy the old log-probs are these, as constants.
    old = jax.lax.stop_gradient(logps) if old is None else old
    scored = losses.Scored(logps, old, ref, *draw)
    value, before = scored.score(logps), of_draws(batch.old_scores)
    # Metrics only; the objective takes what it needs from `scored`.
    delta = value - (scored.score(old) if before is None else before)
    return scored, {"score_mean": value, "square": value**2,
                    "delta": abs(delta), "delta_square": delta**2,
                    "entropy": jnp.sum(entropy, -1),
                    "scored": jnp.sum(draw.weight > 0, -1, dtype=jnp.float32)}

  (loss, means), grads = montecarlo.shared_value_and_grad(
    found, score, prepare,
    losses.Responses(batch.advantage, batch.valid, tokens), trained,
    cfg.n_mc, onto, at_once=cfg.draws_at_once)
  var = jnp.maximum(means.pop("square") - means["score_mean"] ** 2, 0)
  means["score_std"] = jnp.sqrt(var)
  sums = {k: jnp.sum(v * live) for k, v in means.items()}
  return {"loss": loss, "live": jnp.sum(live), **sums}, grads


def batch_grads(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, batch: Batch,
  group: int = 1, reference: Any = None,
) -> tuple[Metrics, Any]:
  """`(metrics, gradients)` of the mean loss of all rows.

  Gradients are accumulated over micro-batches; those in which no row has a
  gradient are skipped. Each device has an accumulator of its own for its rows:
  they are summed once per update. Only of parameters that `mesh.fsdp` splits,
  all of them being trained, would it not fit, and devices sum their gradients
  layer by layer. See `micro_batch_grads` for the arguments, and
  `scoring.batch_logps` for `group`. Log-probs of the parameters `reference`, if
  there are any, exist for one micro-batch at a time.
  """
  share = scoring.shared_rows(
    model, min(cfg.micro_batch, batch.completion.shape[0]), group)
  found = objective(cfg)
  live = (batch.advantage != 0) | (not found.skips_zero)
  tokens = _tokens(cfg, batch)
  # Rows that teach nothing go last, so that whole micro-batches of them exist.
  # Rows that the objective takes together, or that share their prompt, stay
  # together.
  together = math.lcm(found.together, share)
  alive = jnp.any(live.reshape(-1, together), -1)
  order = (jnp.argsort(~alive)[:, None] * together
           + jnp.arange(together)[None]).reshape(-1)
  parts = jax.tree.map(lambda x: x[order], (batch, live, tokens))
  parts = batch_lib.split(parts, cfg.micro_batch)
  n, rows = parts[1].shape
  taught = jnp.any(parts[1], -1)

  policies = params, reference
  specs = tuple(map(layers.specs, policies))
  total: Callable[..., tuple[Metrics, Any]] = functools.partial(
    _accumulated, model, cfg, group, share, specs)
  devices = mesh_lib.batch_parts(rows)
  # Rows that belong together may be those of two devices.
  if devices > 1 and rows // devices % found.together == 0:
    n *= devices
    total = by_hand.run(
      total, (specs, P(None, mesh_lib.BATCH), P()),
      (P(), lora.split(specs[0])[1]))
  sums, grads = total(policies, parts, taught)
  loss, count = sums.pop("loss"), jnp.maximum(sums.pop("live"), 1)
  metrics = {k: v / count for k, v in sums.items()}
  metrics["entropy"] /= jnp.maximum(metrics.pop("scored"), 1e-6)  # per token
  metrics["delta_rms"] = jnp.sqrt(metrics.pop("delta_square"))
  metrics |= {"loss": loss / n,
              "computed": jnp.mean(taught, dtype=jnp.float32)}
  return metrics, jax.tree.map(lambda g: g / n, grads)


def _accumulated(
  model: transformer.Model, cfg: config.LearnConfig, group: int, share: int,
  specs: Any, policies: Any, parts: Any, taught: jax.Array,
) -> tuple[Metrics, Any]:
  """`(metrics, gradients)`, summed over micro-batches and devices.

  By hand, of a device's rows and with what it has of parameters. `policies`
  with `specs` are the policy's and the reference's, which may be None; `parts`
  the batch, `live` and `tokens` of `micro_batch_grads`, [n, rows, ...]; and
  `taught` [n] bool says which of these n micro-batches have a gradient.
  """
  dtype = None if cfg.reduce_dtype == "auto" else cfg.reduce_dtype
  params, reference = by_hand.split(policies, specs, dtype)

  @functools.partial(jax.jit, inline=True)  # thus traced once, not twice
  def grads_of(
    onto: Any, batch: Batch, live: jax.Array, tokens: jax.Array
  ) -> tuple[Metrics, Any]:
    return micro_batch_grads(
      model, cfg, params, onto, _with_reference(
        model, cfg, reference, batch, group), live, tokens, share=share)

  zeros = montecarlo.zeros(lora.split(params)[1])
  sums, _ = jax.eval_shape(
    grads_of, zeros, *jax.tree.map(lambda x: x[0], parts))

  def step(total: Any, part: Any) -> tuple[Any, None]:
    taught, rows = part

    def compute() -> Any:
      sums, grads = grads_of(total[1], *rows)
      return montecarlo.add(total[0], sums), grads

    return jax.lax.cond(taught, compute, lambda: total), None

  (sums, grads), _ = jax.lax.scan(
    step, (montecarlo.zeros(sums), zeros), (taught, parts))
  return by_hand.summed(sums, P()), by_hand.summed(
    grads, lora.split(specs[0])[1], dtype)


def _tokens(cfg: config.LearnConfig, batch: Batch) -> jax.Array:
  """`losses.Responses.tokens` of the whole batch, [b] fp32."""
  # Not of each micro-batch, or the loss would depend on how the batch is split.
  # Weights that are shares of a response are divided by none.
  tokens = jnp.float32(1.0) if cfg.score_norm == "step" else jnp.mean(
    jnp.sum(batch.valid, -1, dtype=jnp.float32))
  # Where no token counts, losses divide zero by it.
  return jnp.broadcast_to(
    jnp.maximum(tokens, 1e-9), batch.completion.shape[:1])


def _with_reference(
  model: transformer.Model, cfg: config.LearnConfig, reference: Any,
  batch: Batch, group: int,
) -> Batch:
  """The rows with log-probs of the reference's parameters; None: without."""
  # The reference chooses its own experts.
  return batch if reference is None else dataclasses.replace(
    batch, ref_logps=batch_logps(
      model, cfg, reference, dataclasses.replace(batch, routing=None), group,
      others=objective(cfg).others)[0])


def rows(cfg: config.Config) -> int:
  """The completions of an optimizer step."""
  return (cfg.rollout.prompts * cfg.rollout.group_size
          // cfg.learn.updates_per_rollout)


def micro_batch(cfg: config.Config) -> int:
  """Completions per forward pass: `learn.micro_batch`, or all there are."""
  return min(cfg.learn.micro_batch, rows(cfg))
