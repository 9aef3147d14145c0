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
Gradients = Callable[[Any, update.Batch], jax.Array]


def trained(workdirs: pathlib.Path) -> tuple[runs.Run, pathlib.Path]:
  """The default run with all checkpoints, trained unless it is there."""
  run = table.row("draws", "16 draws").run(0)
  workdir = workdirs / "variance"
  runner.finish(run, workdirs, workdir, checkpoint_keep=99)
  return run, workdir


def measure(workdirs: pathlib.Path) -> list[dict[str, Any]]:
  """Variances by step, forward process and number of draws.

  Each entry has `step`, `process`, `n`, `variances` (see
  `variance.Squares.variances`) and `intervals` of their shares.
  """
  run, workdir = trained(workdirs)
  settings = saved_params.settings(str(workdir))
  mesh_lib.split_cpu(1)
  setup = setup_lib.make(validate.from_dict(settings))
  assert run.warm is not None
  found = []
  with jax.set_mesh(setup.mesh):
    for step in STEPS:
      at = (str(run.warm.workdir(workdirs)), "latest") if not step else (
        str(workdir), str(step))
      params, _ = saved_params.policy(setup, *at)
      sets = [completions(setup, params, c) for c in range(COMPLETIONS)]
      cases = [(process, n) for process in PROCESSES for n in table.NS]
      for process, n in progress.watched(cases, f"gradients at step {step}"):
        squares = split(setup, params, sets, process, n)
        found.append({
          "step": step, "process": process, "n": n,
          "variances": squares.variances(), "intervals": squares.intervals()})
  return found


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


def split(setup: setup_lib.Setup, params: Any, sets: list[update.Batch],
          process: str, n: int) -> variance.Squares:
  """The sums of squares of all prompts' gradients from n draws."""
  group = setup.cfg.rollout.group_size
  gradients, sums = gradients_of(setup, process, n), variance.Sums()
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
