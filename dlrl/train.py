"""The RL loop: rollout, rewards, update; log, evaluate, save.

Two jitted programs make a step. The host waits for a rollout's tokens, which it
must read to reward them, and for the metrics of the update before, which is
finished by then. It never waits for the update that it has just started, except
where it evaluates or saves; the rest of the host's work happens meanwhile.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import optax

from dlrl import rollout as rollout_lib
from dlrl import sft
from dlrl import update
from dlrl.evaluation import held_out
from dlrl.run import rounds
from dlrl.run import session
from dlrl.run import setup as setup_lib
from dlrl.run import step_log
from dlrl.run import train_state
from dlrl.run import utilization
from dlrl.runtime import clock

Programs = tuple[rollout_lib.Program, update.Learn]


def make_programs(
  setup: setup_lib.Setup, tx: optax.GradientTransformation,
  abstract: update.TrainState,
) -> Programs:
  """`(rollout, learn)`, the two jitted programs of a step.

  rollout: see `rollout.make`.
  learn: see `update.make_learn`; it takes over the memory of its state.
  """
  learn = update.make_learn(setup.model, setup.cfg, tx, setup.tokenizer.ends)
  return rollout_lib.make(setup), jax.jit(
    learn, donate_argnums=0,
    out_shardings=(setup_lib.shardings_of(abstract), None))


def learn_shapes(
  setup: setup_lib.Setup, rollout: rollout_lib.Program, args: tuple[Any, ...]
) -> tuple[Any, ...]:
  """Shapes of the arguments of `learn`, with shardings.

  Args:
    setup: the run's fixed parts.
    rollout: the program.
    args: shapes of the rollout's arguments.
  """
  state, _, _, index, _ = args
  batch, _ = rollout_lib.output_shapes(setup, rollout, args)
  return state, batch, index, *update.reward_shapes(
    setup.cfg.rollout, batch.completion.sharding)


def _draw(setup: setup_lib.Setup, rollout: rollout_lib.Program, source: Any,
          run: session.Session, state: update.TrainState) -> rounds.Drawn:
  """Starts a rollout of the next prompts."""
  prompts = next(run.batches)
  examples = [source[i] for i in prompts["position"].tolist()]
  batch, forwards = rollout(
    state, *rollout_lib.inputs(setup, prompts, examples))
  return rounds.Drawn(prompts, examples, batch, forwards)


def _step(setup: setup_lib.Setup, programs: Programs, run: session.Session,
          source: Any, state: update.TrainState, now: int,
          log: step_log.StepLog, measure: rollout_lib.Measure
          ) -> update.TrainState:
  """Step `now`; its update still runs on the devices when this returns."""
  rollout, learn = programs
  draw = functools.partial(_draw, setup, rollout, source, run)

  def again(number: int) -> rounds.Drawn:
    run.dog.begin("resampling")
    return draw(dataclasses.replace(state, key=rounds.key(setup, number)))

  began = clock.now()
  drawn = draw(state)
  # Dispatched, so that the devices are busy while the step before is logged.
  graded = rounds.grade(setup, drawn, log.finish() or began)
  arguments, more = rounds.learned(setup, drawn, graded, again)
  samples = step_log.samples(graded.done, graded.share, graded.rewards.total)
  measured = measure(now, state, drawn.batch)
  state, metrics = learn(state, *arguments)
  log.begin(now, graded.row | more, metrics | measured, samples)
  # From here on the host works while the update runs.
  log.watch(graded.done)
  log.row |= step_log.rollout_row(
    setup, graded.done, graded.share, drawn.prompts)
  return state


def train(setup: setup_lib.Setup, workdir: pathlib.Path) -> dict[str, float]:
  """Runs or continues the job; returns the seconds per phase."""
  cfg = setup.cfg
  tx, make_state, abstract = train_state.for_rl(setup)
  base = setup.load_base()
  make = functools.partial(make_programs, tx=tx, abstract=abstract)
  programs = make(setup)
  work = utilization.work(
    setup, make, (abstract, *rollout_lib.input_shapes(setup)))
  rollout_lib.compile_ahead(setup, programs[0], abstract)
  measure = rollout_lib.measurements(setup)
  source, evaluator = rollout_lib.examples(setup), held_out.make(setup)
  batches = rollout_lib.prompt_batches(setup, source)

  with session.start(cfg, workdir, batches, base, setup.task.checksum,
                     tracked=True, profiled=cfg.profile.steps) as run:
    restored = run.restore(abstract)
    if restored:
      state, start = restored
    else:
      policy, seconds = sft.warm_start(setup, workdir, base)
      state, start = make_state(policy), 0
      run.begin(seconds)
      with run.evaluation():
        run.writer.write(0, evaluator(state.policy, ends=True))
    with step_log.StepLog(cfg, run.writer, run.clock, work, start) as log:
      for now in range(start + 1, cfg.steps + 1):
        run.begin_step(now, state)
        state = _step(
          setup, programs, run, source, state, now, log, measure)
        last = now == cfg.steps
        if last or now % cfg.eval.every == 0:
          log.wait()
          with run.evaluation():
            log.row |= evaluator(state.policy, ends=last)
        stops = run.notice.reached() and not last
        if stops or last or now % cfg.checkpoint_every == 0:
          log.finish()
          run.save(now, state, stops=stops)
      log.finish()
  return run.clock.totals
