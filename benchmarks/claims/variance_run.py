"""Measures the parts of the gradient's variance, over the training of a run."""

import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.claims import runner
from benchmarks.claims import runs
from benchmarks.claims import table
from benchmarks.claims import variance
from dlrl import data
from dlrl import losses
from dlrl import rollout
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl import validate
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

Gradients = Callable[[Any, update.Batch], jax.Array]
Draws = tuple[str, Mapping[str, Any]]  # a forward process and its arguments
PROMPTS, COMPLETIONS, DRAWS = 64, 2, 2
PROCESSES = ("balanced", "stratified", "continuous")
STEPS = (0, 80, 160)  # at which the run's parameters are looked at
# Parts of STP: whether clues are fixed, and the draws.
NOTHING = "nothing"
TRUNCATED: Draws = ("truncated", {"least": 0.4})  # as in configs/stp.py
PRUNINGS: Mapping[str, tuple[bool, Draws]] = {
  NOTHING: (False, ("balanced", {})),
  "template": (True, ("balanced", {})),
  "truncated draws": (False, TRUNCATED),
  "template and truncated draws": (True, TRUNCATED)}
PRUNED_NS = (1, 8)
_RUN = "variance"  # its workdir, among those of all runs


def trained(workdirs: pathlib.Path) -> runs.Run:
  """A run whose checkpoints are all in `_RUN`; trained unless it is there."""
  run = table.find(
    table.rows_at({}), "draws", "16 draws").run(0)
  runner.finish(run, workdirs, workdirs / _RUN, checkpoint_keep=99)
  return run


def measure(workdirs: pathlib.Path) -> list[dict[str, Any]]:
  """Variances by step, forward process and number of draws.

  Each entry has `step`, `process`, `n`, `variances` (see
  `variance.Squares.variances`) and `intervals` of their shares.
  """
  setup, policies = _policies(workdirs)
  found = []
  with jax.set_mesh(setup.mesh):
    cases = [(process, n) for process in PROCESSES for n in table.NS]
    for process, n in progress.watched(cases, "gradients"):
      gradients = gradients_of(setup, process, n)
      for step, (params, sets) in zip(STEPS, policies, strict=True):
        squares = split(
          gradients, params, sets, setup.cfg.rollout.group_size)
        found.append({
          "step": step, "process": process, "n": n,
          "variances": squares.variances(), "intervals": squares.intervals()})
  return sorted(found, key=lambda one: (
    one["step"], PROCESSES.index(one["process"]), one["n"]))


def measure_pruned(workdirs: pathlib.Path) -> list[dict[str, Any]]:
  """The same completions' variances with what STP prunes, relative to none.

  Each entry has `step`, `pruning`, `n`; `draws` and `whole`: `[ratio, low,
  high]` of the variance of draws, and of a step's gradient; and `signal`, the
  ratio of the squared mean gradients, None where either is lost in noise.
  """
  setup, policies = _policies(workdirs)
  found = []
  with jax.set_mesh(setup.mesh):
    free = jnp.asarray(blanks(setup))
    for n in progress.watched(PRUNED_NS, "gradients of pruned rollouts"):
      functions = {
        draws[0]: gradients_of(setup, draws[0], n, **draws[1])
        for _, draws in PRUNINGS.values()}
      for step, (params, sets) in zip(STEPS, policies, strict=True):
        squares = {pruning: split(
          functions[process], params, [
            dataclasses.replace(batch, maskable=free) if fixed else batch
            for batch in sets], setup.cfg.rollout.group_size)
          for pruning, (fixed, (process, _)) in PRUNINGS.items()}
        found += [{
          "step": step, "pruning": pruning, "n": n,
          "draws": variance.ratio(one, squares[NOTHING], ["draws"]),
          "whole": variance.ratio(one, squares[NOTHING]),
          "signal": _signals(one, squares[NOTHING])}
          for pruning, one in squares.items() if pruning != NOTHING]
  return sorted(found, key=lambda one: (one["step"], one["n"]))


def _signals(one: variance.Squares, other: variance.Squares) -> float | None:
  mine, theirs = (each.variances()["signal"] for each in (one, other))
  return mine / theirs if mine > 0 and theirs > 0 else None


def _policies(workdirs: pathlib.Path) -> tuple[
    setup_lib.Setup, list[tuple[Any, list[update.Batch]]]]:
  """The run's parameters at all `STEPS`, and their completions."""
  run = trained(workdirs)
  cfg = validate.from_dict(saved_params.settings(str(workdirs / _RUN)))
  setup = setup_lib.make(cfg)
  assert run.warm is not None
  with jax.set_mesh(setup.mesh):
    return setup, [_policy(setup, run.warm, step, workdirs) for step in STEPS]


def _policy(setup: setup_lib.Setup, warm: runs.Run, step: int,
            workdirs: pathlib.Path) -> tuple[Any, list[update.Batch]]:
  """The run's parameters at a step, and all sets of their completions."""
  at = (str(workdirs / _RUN), str(step)) if step else (
    str(warm.workdir(workdirs)), "latest")
  params, _ = saved_params.policy(setup, *at)
  return params, [completions(setup, params, c) for c in range(COMPLETIONS)]


def completions(setup: setup_lib.Setup, params: Any, number: int
                ) -> update.Batch:
  """Completions of all prompts with advantages; another set by `number`."""
  cfg, group = setup.cfg, setup.cfg.rollout.group_size
  rows, asked = _asked(setup)
  prompt, length = (jnp.repeat(jnp.asarray(rows[key]), group, 0)
                    for key in ("prompt_ids", "prompt_length"))
  keys = jax.random.split(jax.random.key(number), PROMPTS * group)
  completion = denoise.decode(
    setup.model, params, prompt, length, keys, sampler=cfg.rollout.sampler,
    eos_id=setup.tokenizer.eos_id).completion
  solved = setup.task.metrics(
    [setup.prompt.question(example) for example in asked],
    [setup.tokenizer.decode(row) for row in np.asarray(completion)],
    **tasks.columns(asked))["solved"]
  advantage = losses.damp_negative(
    losses.normalized(jnp.asarray(solved, jnp.float32), group),
    cfg.learn.negative_weight)
  return update.Batch(
    prompt=prompt, prompt_length=length, completion=completion,
    maskable=jnp.ones(completion.shape, bool), keys=keys, advantage=advantage)


def blanks(setup: setup_lib.Setup) -> np.ndarray:
  """[rows, t] bool: the tokens that the template leaves free.

  Right completions keep the clues, and failures have no weight: fixing the
  clues leaves the completions as they are.
  """
  return rollout.templates(
    setup.task, setup.tokenizer, _asked(setup)[1],
    setup.cfg.rollout.sampler.gen_length, setup.model.mask_id
  ) == setup.model.mask_id


def _asked(setup: setup_lib.Setup) -> tuple[Any, list[tasks.Example]]:
  """The prompts, and the example of each completion."""
  source = rollout.examples(setup)
  rows = data.eval_rows(source, setup.tokenizer, setup.prompt, items=PROMPTS,
                        prompt_length=setup.cfg.task.prompt_length)
  return rows, [source[i] for i in np.repeat(
    rows["position"], setup.cfg.rollout.group_size).tolist()]


def split(gradients: Gradients, params: Any, sets: list[update.Batch],
          group: int) -> variance.Squares:
  """The sums of squares of all prompts' gradients.

  Args:
    gradients: of a prompt's completions, from `gradients_of`.
    params: the policy's parameters.
    sets: completions of all prompts.
    group: completions of each prompt in a set.
  """
  sums = variance.Sums()
  for prompt in range(PROMPTS):
    here = slice(prompt * group, (prompt + 1) * group)
    sums.add(np.stack([gradients(
      params, jax.tree.map(lambda x, here=here: x[here], batch))
      for batch in sets]))
  return sums.squares()


def gradients_of(setup: setup_lib.Setup, process: str, n: int, **arguments: Any
                 ) -> Gradients:
  """A jitted function that returns a prompt's gradients, [draws, parameters].
  """
  cfg, group = setup.cfg, setup.cfg.rollout.group_size
  learn = dataclasses.replace(
    cfg.learn, n_mc=n, forward_process=process,
    process_args=strict.Knobs(arguments), micro_batch=group)

  @jax.jit
  def gradients(params: Any, batch: update.Batch) -> jax.Array:
    def one(number: jax.Array) -> jax.Array:
      keys = jax.vmap(jax.random.fold_in, (0, None))(batch.keys, number)
      _, grads = update.batch_grads(
        setup.model, learn, params, dataclasses.replace(batch, keys=keys),
        group)
      return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])

    return jax.lax.map(one, jnp.arange(DRAWS))

  return gradients
