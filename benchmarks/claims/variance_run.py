"""Measures the parts of the gradient's variance, over the training of a run."""

import dataclasses
import pathlib
from collections.abc import Callable
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
from dlrl import tasks
from dlrl import update
from dlrl import validate
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

PROMPTS, COMPLETIONS, DRAWS = 64, 2, 2
PROCESSES = ("balanced", "stratified", "continuous")
STEPS = (0, 80, 160)  # at which the run's parameters are looked at
_RUN = "variance"  # its workdir, among those of all runs
Gradients = Callable[[Any, update.Batch], jax.Array]


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
  run = trained(workdirs)
  settings = saved_params.settings(str(workdirs / _RUN))
  mesh_lib.split_cpu(1)
  cfg = validate.from_dict(settings)
  setup = setup_lib.make(cfg)
  assert run.warm is not None
  found = []
  with jax.set_mesh(setup.mesh):
    policies = [_policy(setup, run.warm, step, workdirs) for step in STEPS]
    cases = [(process, n) for process in PROCESSES for n in table.NS]
    for process, n in progress.watched(cases, "gradients"):
      gradients = gradients_of(setup, process, n)
      for step, (params, sets) in zip(STEPS, policies, strict=True):
        squares = split(gradients, params, sets, cfg.rollout.group_size)
        found.append({
          "step": step, "process": process, "n": n,
          "variances": squares.variances(), "intervals": squares.intervals()})
  return sorted(found, key=lambda one: (
    one["step"], PROCESSES.index(one["process"]), one["n"]))


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
  cfg = setup.cfg
  group, width = cfg.rollout.group_size, cfg.task.prompt_length
  source = rollout.examples(setup)
  rows = data.eval_rows(source, setup.tokenizer, setup.prompt, items=PROMPTS,
                        prompt_length=width)
  prompt, length = (jnp.repeat(jnp.asarray(rows[key]), group, 0)
                    for key in ("prompt_ids", "prompt_length"))
  keys = jax.random.split(jax.random.key(number), PROMPTS * group)
  completion = denoise.decode(
    setup.model, params, prompt, length, keys, sampler=cfg.rollout.sampler,
    eos_id=setup.tokenizer.eos_id).completion
  asked = [source[i] for i in np.repeat(rows["position"], group).tolist()]
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


def gradients_of(setup: setup_lib.Setup, process: str, n: int) -> Gradients:
  """A jitted function that returns a prompt's gradients, [draws, parameters].
  """
  cfg, group = setup.cfg, setup.cfg.rollout.group_size
  learn = dataclasses.replace(
    cfg.learn, n_mc=n, forward_process=process, micro_batch=group)

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
