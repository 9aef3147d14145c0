"""The RL loop: prompts, rollout, reward, advantage, update, log, save.

Two jitted programs. The host reads a step's tokens, which it must to reward
them, and the metrics of the update before, which are finished by then; it never
waits for the update it has just started, except where it evaluates or saves.
Whatever the update does not need of the completions is computed meanwhile.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlrl import config
from dlrl import data
from dlrl import losses
from dlrl import optimizer
from dlrl import prior
from dlrl import sft
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.diffusion import method_processes
from dlrl.diffusion import pruning
from dlrl.evaluation import held_out
from dlrl.run import grading
from dlrl.run import resume
from dlrl.run import session
from dlrl.run import setup as setup_lib
from dlrl.run import start_params
from dlrl.run import step_log
from dlrl.run import utilization
from dlrl.runtime import clock as clock_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import profile_window
from dlrl.runtime import progress
from dlrl.sampling import denoise
from dlrl.tasks import prompts


@flax.struct.dataclass
class Rollout:
  """Completions and what made them, one row each, groups contiguous."""

  prompt: jax.Array  # [b, p]
  prompt_length: jax.Array  # [b]
  index: jax.Array  # [g] of the prompts, their positions in the source
  completion: jax.Array  # [b, t]
  free: jax.Array  # [b, t] what the policy chose: masks of the first canvas
  trace: jax.Array  # [b, t] the denoising step that committed each token
  forwards: jax.Array  # scalar, forward passes it took
  draw_keys: jax.Array  # [b] for the update's Monte-Carlo draws


def make_programs(setup: setup_lib.Setup, tx, abstract: update.TrainState):
  """`(rollout, learn)`, the two jitted programs of a step.

  rollout: `(state, prompt [g, p], prompt_length [g], index [g],
    template [g, t]) -> Rollout`
  learn: `(state, Rollout, reward [b]) -> (state, metrics)`; takes over the
    memory of the state it is given. NaN is a reward that is not known.
  """
  step_update = update.make(setup.model, setup.cfg.learn, tx)
  return jax.jit(
    functools.partial(_rollout, setup), out_shardings=rollout_shardings(setup)
  ), jax.jit(
    functools.partial(_learn, setup, step_update), donate_argnums=0,
    out_shardings=(setup_lib.shardings_of(abstract), None))


def rollout_shardings(setup: setup_lib.Setup) -> Rollout:
  """Where a rollout's arrays lie."""
  split: Any = mesh_lib.batch_sharding(setup.mesh)
  whole: Any = mesh_lib.replicated(setup.mesh)
  return Rollout(
    prompt=split, prompt_length=split, index=whole, completion=split,
    free=split, trace=split, forwards=whole, draw_keys=split)


def _rollout(
  setup: setup_lib.Setup,
  state: update.TrainState,
  prompt,
  prompt_length,
  index,
  template,
) -> Rollout:
  cfg = setup.cfg
  # One key per prompt or completion, from its place in the global batch.
  prompts, group = prompt.shape[0], cfg.rollout.group_size
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  sample_keys, draw_keys, prior_keys = (
    jax.random.split(k, n) for k, n in zip(
      jax.random.split(key, 3), (prompts * group,) * 2 + (prompts,),
      strict=True))
  rows = jnp.arange(prompts * group) // group
  prompt, prompt_length, template = (
    mesh_lib.shard_batch(x[rows]) for x in (prompt, prompt_length, template))
  canvas = prior.canvases(
    setup.model, cfg.rollout, state, prior_keys[rows], prompt, prompt_length,
    index[rows], template)
  with jax.named_scope("rollout/denoise"):
    decoded = denoise.decode(
      setup.model, state.policy, prompt, prompt_length, sample_keys,
      sampler=cfg.rollout.sampler, canvas=canvas,
      eos_id=setup.tokenizer.eos_id)
  trace = decoded.trace
  if cfg.learn.forward_process == "forks":
    trace = method_processes.fork_steps(
      trace, decoded.confidence < cfg.rollout.sampler.threshold)
  return Rollout(
    prompt, prompt_length, index, decoded.completion,
    canvas == setup.model.mask_id, trace, decoded.forwards, draw_keys)


def _learn(setup: setup_lib.Setup, step_update, state: update.TrainState,
           rollout: Rollout, reward: jax.Array):
  cfg = setup.cfg
  advantage = losses.damp_negative(
    losses.ADVANTAGES[cfg.learn.advantage](reward, cfg.rollout.group_size),
    cfg.learn.negative_weight)
  if state.memory is not None:
    state = dataclasses.replace(state, memory=pruning.store(
      state.memory, rollout.index, rollout.completion, reward,
      cfg.rollout.prior.min_reward))
  rate = optimizer.rate(cfg.learn.optimizer, _updates(cfg), state.opt_state)
  state, metrics = step_update(state, update.Batch(
    prompt=rollout.prompt,
    prompt_length=rollout.prompt_length,
    completion=rollout.completion,
    # The whole canvas: what follows the end of an answer is generated too.
    maskable=rollout.free,
    advantage=advantage,
    keys=rollout.draw_keys,
    trace=rollout.trace,
  ))
  ends = jnp.cumsum(rollout.completion == setup.tokenizer.eos_id, 1) > 0
  return state, metrics | {
    "learning_rate": rate,
    "rollout/length": jnp.mean(jnp.sum(~ends, 1, dtype=jnp.float32)),
    "rollout/steps": jnp.mean(1.0 + jnp.max(rollout.trace, 1))}


def _updates(cfg: config.Config) -> int:
  """Of the whole run."""
  return cfg.steps * cfg.learn.epochs * cfg.learn.updates_per_rollout


def first_policy(
  setup: setup_lib.Setup, workdir: pathlib.Path, base: start_params.Base
):
  """`(what the model takes, seconds per phase)` that RL starts from."""
  cfg = setup.cfg
  if cfg.init_from:
    return setup.init_policy(base), {}
  name = strict.fingerprint(
    cfg.seed, cfg.task, cfg.model, cfg.sft, cfg.pretrained, cfg.lora)
  directory = workdir / "warm_start" / name
  directory.mkdir(parents=True, exist_ok=True)
  return sft.train(setup, directory, base)


def first_reference(cfg: config.Config, trained: Any) -> Any:
  """The state's `ref_params` if RL starts from `trained`."""
  if not losses.OBJECTIVES[cfg.learn.loss](**cfg.learn.loss_args).needs_ref:
    return None
  # Fresh adapters add nothing: the reference does without, and is the base.
  fresh = cfg.lora.rank and (cfg.init_from or not cfg.sft.steps)
  return {} if fresh else trained


def make_optimizer(cfg: config.Config) -> optax.GradientTransformation:
  """Of the updates, as many as there will be."""
  return optimizer.make(cfg.learn.optimizer, _updates(cfg))


def _state_parts(cfg: config.Config) -> dict[str, Any]:
  """What else than an optimizer the state has; see `Setup.state_maker`."""
  return {
    "reference": functools.partial(first_reference, cfg),
    "memory_slots": (
      cfg.rollout.prior.slots if cfg.rollout.prior.memory else 0)}


def abstract_state(setup: setup_lib.Setup) -> update.TrainState:
  """Shapes of the state, with shardings; nothing is allocated."""
  return setup.abstract_state(
    make_optimizer(setup.cfg), **_state_parts(setup.cfg))


def inputs(setup: setup_lib.Setup, batch: dict[str, Any],
           rows: Sequence[tasks.Example]) -> tuple[Any, ...]:
  """Of the rollout's program: prompts, their indices and templates."""
  return setup.put_whole((
    batch["prompt_ids"], batch["prompt_length"], batch["position"],
    prior.templates(
      setup.task, setup.tokenizer, rows,
      setup.cfg.rollout.sampler.gen_length, setup.model.mask_id)))


def input_shapes(setup: setup_lib.Setup) -> tuple[Any, ...]:
  """Of `inputs`, with their shardings."""
  cfg = setup.cfg
  prompts = cfg.rollout.prompts

  def shape(*sizes):
    return jax.ShapeDtypeStruct(
      sizes, "int32", sharding=mesh_lib.replicated(setup.mesh))

  return (shape(prompts, cfg.task.prompt_length), shape(prompts),
          shape(prompts), shape(prompts, cfg.rollout.sampler.gen_length))


def learn_shapes(setup: setup_lib.Setup, rollout, args: tuple[Any, ...]
                 ) -> tuple[Any, ...]:
  """Of the arguments of `learn`, with their shardings.

  Args:
    setup: of the run.
    rollout: the program.
    args: shapes of its arguments.
  """
  done = setup_lib.with_shardings(
    jax.eval_shape(rollout, *args), rollout_shardings(setup))
  return args[0], done, jax.ShapeDtypeStruct(
    done.completion.shape[:1], "float32",
    sharding=mesh_lib.batch_sharding(setup.mesh))


def prompt_rows(setup: setup_lib.Setup) -> tasks.Examples:
  """The rows that rollouts are of."""
  return setup.rows("train", setup.cfg.rollout.difficulty,
                    field="rollout.difficulty")


def prompt_batches(setup: setup_lib.Setup, source: tasks.Examples):
  """An endless iterator of a step's prompts, as of `data.rl_batches`."""
  cfg = setup.cfg
  return data.rl_batches(
    source, setup.tokenizer, setup.prompt, batch_size=cfg.rollout.prompts,
    prompt_length=cfg.task.prompt_length, seed=cfg.seed,
    truncate=cfg.task.truncates)


def _rollout_row(setup: setup_lib.Setup, batch, done: grading.Completions,
                 share: processes.Share) -> dict[str, float]:
  row = {f"rollout/{k}": float(np.mean(v))
         for k, v in grading.metrics(setup, done, share).items() if v}
  if "truncated" in batch:
    row["rollout/truncated_prompts"] = float(np.sum(batch["truncated"]))
  return row


def _sample(done: grading.Completions, share: processes.Share,
            reward: np.ndarray) -> tuple[str, str, float]:
  """The first prompt, completion and reward; process 0 always has some."""
  if not share.places:
    return "", "", 0.0
  return (prompts.as_text(done.prompts[0]), done.texts[0],
          float(reward[share.places[0]]))


def _step(setup: setup_lib.Setup, programs, state: update.TrainState,
          batch: dict[str, Any], rows: Sequence[tasks.Example], now: int,
          journal: step_log.StepLog) -> update.TrainState:
  """Step `now`, but for its update, which goes on while this returns."""
  rollout_fn, learn_fn = programs
  began = clock_lib.now()
  rollout = rollout_fn(state, *inputs(setup, batch, rows))
  began = journal.finish() or began
  share, (ids,) = processes.local(rollout.completion)
  free, forwards = jax.device_get((jnp.sum(rollout.free), rollout.forwards))
  rolled = clock_lib.now()
  group = setup.cfg.rollout.group_size
  with jax.profiler.TraceAnnotation("reward"):
    done = grading.read(setup, [rows[i // group] for i in share.places], ids)
    reward, row = grading.rewards(setup, done, share)
  rewarded = clock_lib.now()
  state, metrics = learn_fn(state, rollout, setup.put_batch(reward))
  row |= {"time/rollout": rolled - began, "time/reward": rewarded - rolled}
  journal.begin(now, row, metrics, _sample(done, share, reward))
  journal.row |= _rollout_row(setup, batch, done, share) | {
    "rollout/free": int(free) / rollout.free.size,
    "rollout/forwards": float(forwards)}
  return state


def train(setup: setup_lib.Setup, workdir: pathlib.Path) -> dict[str, float]:
  """Runs or continues the job; returns the seconds per phase."""
  cfg = setup.cfg
  tx = make_optimizer(cfg)
  make_state, abstract = setup.state_maker(tx, **_state_parts(cfg))
  base = setup.load_base()
  make = functools.partial(make_programs, tx=tx, abstract=abstract)
  programs = make(setup)
  work = utilization.work(setup, make, (abstract, *input_shapes(setup)))
  source, evaluator = prompt_rows(setup), held_out.make(setup)
  batches = prompt_batches(setup, source)

  with (
    session.start(cfg, workdir, tracked=True) as run,
    profile_window.Window(cfg.profile.steps, workdir / "profile") as window,
  ):
    restored = resume.restore(run.checkpoints, abstract, batches, base)
    if restored:
      state, clock, start = restored
      progress.say(f"continuing after step {start}")
      run.writer.truncate_after(start)
    else:
      policy, seconds = first_policy(setup, workdir, base)
      state, start, clock = make_state(policy), 0, clock_lib.Clock(seconds)
      run.writer.truncate_after(-1)
      with run.evaluation(clock):
        run.writer.write(0, evaluator(state.policy, ends=True))
    journal = step_log.StepLog(cfg, run.writer, clock, work)

    for now in range(start + 1, cfg.steps + 1):
      run.dog.begin("step")
      window.begin(now, state)
      batch = next(batches)
      rows = [source[i] for i in batch["position"].tolist()]
      state = _step(setup, programs, state, batch, rows, now, journal)

      last = now == cfg.steps
      if last or now % cfg.eval.every == 0:
        journal.wait()
        with run.evaluation(clock):
          journal.row |= evaluator(state.policy, ends=last)
      stops = run.notice.reached() and not last
      if stops or last or now % cfg.checkpoint_every == 0:
        journal.finish()
        resume.save(run, now, state, batches, clock, base)
      if stops:
        raise preemption.Preempted(f"step {now} is saved")
    journal.finish()
  return clock.totals
