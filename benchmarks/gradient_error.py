"""Error of the gradient against the number of Monte-Carlo samples.

    python -m benchmarks.gradient_error --out=benchmarks/results

Fine-tunes the tiny model of the config once (kept under --runs), samples a few
completions and compares gradients of BGPO's loss from n draws with one from
many. Writes `gradient_error.json` and `gradient_error.png`; about 20 minutes on
2 CPU cores.
"""

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from absl import logging
from matplotlib import figure
from ml_collections import config_flags

from dlrl import data
from dlrl import rollout
from dlrl import sft
from dlrl import update
from dlrl import validate
from dlrl.run import setup as setup_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

NS = (1, 2, 4, 8, 16, 32)
# Name on the plot: (forward process, share of the prompt hidden).
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


def completions(setup: setup_lib.Setup, params) -> update.Batch:
  """Samples of the policy; half of them are called good, half bad."""
  cfg = setup.cfg
  source = rollout.examples(setup)
  # Two of a puzzle could be the same, and their gradients cancel.
  rows = data.eval_rows(
    source, setup.tokenizer, setup.prompt, items=flags.FLAGS.rows,
    prompt_length=cfg.task.prompt_length)
  prompt, length = (
    jnp.asarray(rows[k]) for k in ("prompt_ids", "prompt_length"))
  keys = jax.random.split(jax.random.key(1), flags.FLAGS.rows)
  completion = denoise.decode(
    setup.model, params, prompt, length, keys,
    sampler=cfg.rollout.sampler).completion
  return update.Batch(
    prompt=prompt, prompt_length=length, completion=completion,
    maskable=jnp.ones(completion.shape, bool),
    advantage=jnp.where(jnp.arange(flags.FLAGS.rows) % 2 == 0, 1.0, -1.0),
    keys=keys)


def gradient_of(setup: setup_lib.Setup, process: str, noise: float, n: int):
  """`(params, batch, seed) -> gradient` as one vector, jitted."""
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
  """Root mean square error, bias and standard deviation over |golden|.

  The bias is corrected for the noise of a mean of few samples.
  """
  size = float(np.sum(golden**2))
  mean = samples.mean(0)
  var = float(np.sum(samples.var(0, ddof=1)))
  bias = max(float(np.sum((mean - golden) ** 2)) - var / len(samples), 0.0)
  return {"error": ((bias + var) / size) ** 0.5, "bias": (bias / size) ** 0.5,
          "std": (var / size) ** 0.5}


def measure(setup: setup_lib.Setup, params) -> dict[str, dict[str, dict]]:
  """{estimator: {n: errors}}."""
  batch = completions(setup, params)
  golden = np.asarray(gradient_of(setup, "stratified", 0.0, flags.FLAGS.golden)(
    params, batch, 10**6), np.float64)
  result: dict[str, dict[str, dict]] = {}
  total = len(ESTIMATORS) * sum(NS)
  line, start, done = progress.Progress(total, "draws"), time.monotonic(), 0
  for name, (process, noise) in ESTIMATORS.items():
    result[name] = {}
    for n in NS:
      if process == "complementary" and n % 2:
        continue
      gradient = gradient_of(setup, process, noise, n)
      samples = np.stack([
        gradient(params, batch, 1000 * n + seed)
        for seed in range(flags.FLAGS.repeats)]).astype(np.float64)
      if noise:  # its scale is arbitrary: that of the least error is taken
        samples *= golden @ samples.mean(0) / np.mean(np.sum(samples**2, 1))
      result[name][str(n)] = errors(samples, golden)
      done += n
      line.tick(n)
      progress.say(line.line(
        done, error=result[name][str(n)]["error"], n=n, estimator=name))
  progress.say(f"measured in {time.monotonic() - start:.0f} s")
  return result


def plot(result: dict[str, dict[str, dict]], path: pathlib.Path) -> None:
  """Error over draws, one line per estimator."""
  fig = figure.Figure(figsize=(7, 4.6), layout="constrained")
  ax = fig.add_subplot()
  for name, rows in result.items():
    ax.loglog([int(n) for n in rows], [row["error"] for row in rows.values()],
              marker="o", markersize=3, label=name)
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel="relative error of the gradient")
  ax.set_xticks(NS, [str(n) for n in NS])
  ax.minorticks_off()
  ax.grid(alpha=0.3)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(frameon=False, fontsize="small")
  fig.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
  """Fine-tunes unless that is done, measures, writes both files."""
  del argv
  logging.set_verbosity(logging.WARNING)
  cfg = validate.from_dict(flags.FLAGS.config)
  cfg = dataclasses.replace(
    cfg, mesh=dataclasses.replace(cfg.mesh, cpu_devices=0))
  setup = setup_lib.make(cfg)
  directory = pathlib.Path(flags.FLAGS.runs)
  directory.mkdir(parents=True, exist_ok=True)
  with jax.set_mesh(setup.mesh):
    params, _ = sft.train(setup, directory)
    result = measure(setup, params)
  out = pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  (out / "gradient_error.json").write_text(json.dumps({
    "command": f"python -m benchmarks.gradient_error --rows={flags.FLAGS.rows} "
               f"--repeats={flags.FLAGS.repeats} --golden={flags.FLAGS.golden}",
    "estimators": result}, indent=1) + "\n")
  plot(result, out / "gradient_error.png")
  for name, rows in result.items():
    print(f"{name:36}", *(f"{n}:{row['error']:.3f}"
                          for n, row in rows.items()))


if __name__ == "__main__":
  # Here, so that tests can import this module next to others.
  config_flags.DEFINE_config_file("config", "configs/bgpo.py")
  flags.DEFINE_string("out", "benchmarks/results", "directory")
  flags.DEFINE_string("runs", "runs/gradient_error", "the fine-tuning's")
  flags.DEFINE_integer("rows", 8, "completions, each of a puzzle")
  flags.DEFINE_integer("repeats", 64, "gradients per n", lower_bound=2)
  flags.DEFINE_integer("golden", 2048, "draws of the reference")
  app.run(main)
