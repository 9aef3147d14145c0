"""Error of the gradient against the number of Monte-Carlo samples.

    python -m benchmarks.gradient_error --out=benchmarks/results

Fine-tunes the tiny model of the config once (kept under --runs), samples a few
completions, and compares gradients of BGPO's loss estimated from n samples with
one estimated from many. Writes `gradient_error.json` and `gradient_error.png`;
about 20 minutes on 2 CPU cores.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from absl import logging
from matplotlib import figure
from ml_collections import config_flags

from benchmarks import results
from dlrl import data
from dlrl import rollout
from dlrl import sft
from dlrl import update
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

NS = (1, 2, 4, 8, 16, 32)
# Name in the result: (forward process, share of the prompt that is masked).
ESTIMATORS = {
  "t uniform, 1/t (paper)": ("continuous", 0.0),
  "exact k": ("exact_k", 0.0),
  "stratified k": ("stratified", 0.0),
  "complementary pairs": ("complementary", 0.0),
  "stratified k, tiled": ("tiled", 0.0),
  "stratified k, P ~ 1 / sqrt(k)": ("importance", 0.0),
  "both": ("balanced", 0.0),
  "k from m / 2 up, not an ELBO (STP)": ("truncated", 0.0),
  "one pass, all masked (diffu-GRPO)": ("all_masked", 0.15),
}

DEFAULT, PAPER = "both", "t uniform, 1/t (paper)"
BIASED = ("k from m / 2 up, not an ELBO (STP)",
          "one pass, all masked (diffu-GRPO)")
LEGENDS = {  # where the figure says more than the result
  PAPER: "baseline: t uniform, weight 1/t (BGPO's paper)",
  DEFAULT: "default (balanced): tiled, P ~ 1 / sqrt(k)",
  BIASED[0]: "k from m / 2 up (STP), biased",
  BIASED[1]: "all masked (diffu-GRPO), biased",
}
Result = dict[str, dict[str, dict[str, float]]]  # estimator -> n -> errors


def prompts(setup: setup_lib.Setup) -> update.Batch:
  """Prompts of the train split, without completions yet."""
  cfg = setup.cfg
  source = rollout.examples(setup)
  # One completion per puzzle: gradients of two equal ones could cancel.
  rows = data.eval_rows(
    source, setup.tokenizer, setup.prompt, items=flags.FLAGS.rows,
    prompt_length=cfg.task.prompt_length)
  prompt, length = (
    jnp.asarray(rows[k]) for k in ("prompt_ids", "prompt_length"))
  empty = jnp.zeros((flags.FLAGS.rows, cfg.rollout.sampler.gen_length), int)
  return update.Batch(
    prompt=prompt, prompt_length=length, completion=empty,
    maskable=empty == 0,
    advantage=jnp.where(jnp.arange(flags.FLAGS.rows) % 2 == 0, 1.0, -1.0),
    keys=jax.random.split(jax.random.key(1), flags.FLAGS.rows))


def completions(setup: setup_lib.Setup, params: Any) -> update.Batch:
  """Samples of the policy, with advantages of 1 and -1 in turn."""
  batch = prompts(setup)
  return dataclasses.replace(batch, completion=denoise.decode(
    setup.model, params, batch.prompt, batch.prompt_length, batch.keys,
    sampler=setup.cfg.rollout.sampler).completion)


def gradient_of(setup: setup_lib.Setup, process: str, noise: float, n: int
                ) -> Callable[[Any, update.Batch, int], jax.Array]:
  """A jitted function that returns the gradient as one vector."""
  learn = dataclasses.replace(
    setup.cfg.learn, n_mc=n, forward_process=process, prompt_noise=noise,
    micro_batch=flags.FLAGS.rows)

  @jax.jit
  def gradient(params, batch, seed):
    keys = jax.random.split(jax.random.key(seed), flags.FLAGS.rows)
    _, grads = update.batch_grads(
      setup.model, learn, params, dataclasses.replace(batch, keys=keys))
    return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])

  return gradient


def errors(samples: np.ndarray, golden: np.ndarray) -> dict[str, float]:
  """Root mean square error, bias and standard deviation, relative to |golden|.

  Args:
    samples: independent estimates of the gradient, [repeats, d].
    golden: the reference gradient, [d].
  """
  size = float(np.sum(golden**2))
  mean = samples.mean(0)
  var = float(np.sum(samples.var(0, ddof=1)))
  # A mean of few samples is off by its own noise, which is not bias.
  bias = max(float(np.sum((mean - golden) ** 2)) - var / len(samples), 0.0)
  return {"error": ((bias + var) / size) ** 0.5, "bias": (bias / size) ** 0.5,
          "std": (var / size) ** 0.5}


def measure(setup: setup_lib.Setup, params: Any) -> dict[str, Result]:
  """Errors of each estimator at each number of samples."""
  batch = completions(setup, params)
  golden = np.asarray(gradient_of(setup, "stratified", 0.0, flags.FLAGS.golden)(
    params, batch, 10**6), np.float64)
  return {"estimators": sweep(ESTIMATORS, NS, setup, params, batch, golden)}


def sweep(
  estimators: Mapping[str, tuple[str, float]], ns: Sequence[int],
  setup: setup_lib.Setup, params: Any, batch: update.Batch, golden: np.ndarray,
) -> Result:
  """Errors of estimators, at numbers of samples, of the gradient `golden`."""
  result: Result = {}
  total = len(estimators) * sum(ns)
  line, start, done = progress.Progress(total, "samples"), time.monotonic(), 0
  for name, (process, noise) in estimators.items():
    result[name] = {}
    for n in ns:
      if process.endswith("complementary") and n % 2:
        continue
      gradient = gradient_of(setup, process, noise, n)
      samples = np.stack([
        gradient(params, batch, 1000 * n + seed)
        for seed in range(flags.FLAGS.repeats)]).astype(np.float64)
      if noise:  # of arbitrary scale: take the one with the least error
        samples *= golden @ samples.mean(0) / np.mean(np.sum(samples**2, 1))
      result[name][str(n)] = errors(samples, golden)
      done += n
      line.tick(n)
      progress.say(line.line(
        done, error=result[name][str(n)]["error"], n=n, estimator=name))
  progress.say(f"measured in {time.monotonic() - start:.0f} s")
  return result


def plot(result: dict[str, Any]) -> figure.Figure:
  """Error over samples, one line per estimator."""
  fig, (ax,) = results.page(
    "Error of the gradient of BGPO's loss, by estimator of the ELBO",
    size=(7, 5.6))
  colours = iter(results.COLOURS[1:])
  looks: dict[str, dict[str, Any]] = {
    PAPER: {"color": "black", "lw": 2.5, "marker": "s"},
    DEFAULT: {"color": results.COLOURS[0], "lw": 2.5, "zorder": 3},
    BIASED[0]: {"color": results.BASELINE, "ls": "--"},
    BIASED[1]: {"color": results.BASELINE, "ls": ":", "lw": 2.0}}
  for name, rows in result["estimators"].items():
    look = looks.get(name) or {"color": next(colours)}
    ax.plot([int(n) for n in rows], [row["error"] for row in rows.values()],
            **{"marker": "o", "ms": 4, "lw": 1.3, **look},
            label=LEGENDS.get(name, name))
  results.ticks(ax, x=NS, y=(0.4, 0.5, 0.7, 1, 1.5, 2, 3))
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel="root mean square error / size of the gradient")
  fig.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
  return fig


def table(result: dict[str, Any]) -> str:
  """One line per estimator: its error at each number of samples."""
  return "\n".join(
    f"{name:36}" + "".join(f" {n}:{row['error']:.3f}"
                           for n, row in rows.items())
    for name, rows in result["estimators"].items())


def after_fine_tuning(
  measure: Callable[[setup_lib.Setup, Any], dict[str, Any]]
) -> dict[str, Any]:
  """Fine-tunes unless that is done; what `measure` finds of the policy."""
  cfg = validate.from_dict(flags.FLAGS.config)
  cfg = dataclasses.replace(
    cfg, mesh=dataclasses.replace(cfg.mesh, cpu_devices=0))
  setup = setup_lib.make(cfg)
  directory = pathlib.Path(flags.FLAGS.runs)
  directory.mkdir(parents=True, exist_ok=True)
  with jax.set_mesh(setup.mesh):
    params, _ = sft.train(setup, directory)
    found = measure(setup, params)
  return {"command": results.command(), **found}


def main(argv: list[str]) -> None:
  """Measures, draws, prints the errors."""
  del argv
  logging.set_verbosity(logging.WARNING)
  result = results.obtain(
    "gradient_error", lambda: after_fine_tuning(measure))
  results.show("gradient_error", plot(result), table(result))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  config_flags.DEFINE_config_file("config", "configs/bgpo.py")
  flags.DEFINE_string(
    "runs", "runs/gradient_error", "workdir of the fine-tuning")
  flags.DEFINE_integer("rows", 8, "completions, each of another puzzle")
  flags.DEFINE_integer(
    "repeats", 64, "gradients per estimator and number of samples",
    lower_bound=2)
  flags.DEFINE_integer("golden", 2048, "samples of the reference gradient")
  app.run(main)
