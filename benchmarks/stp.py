"""What pruning saves: seconds per step, variance of the ELBO, time to learn.

    python -m benchmarks.stp --base=configs/bgpo.py --pruned=configs/stp.py \\
        --base_curves=learning_bgpo --pruned_curves=learning_stp

Both configs share task, model and warm start, which is made once and kept under
--runs. Their RL steps are timed in turns, so that whatever else the machine
does slows both, at places all over the run, whose pruning is annealed.
Variances are of the same completions. Curves are read from what
`benchmarks.learning_curves` wrote; a step of them counts as the measured
seconds. Writes `stp_NAME.json` and `stp_NAME.png`.
"""

import dataclasses
import importlib
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from absl import logging
from matplotlib import figure
from scipy import stats

from dlrl import config
from dlrl import data
from dlrl import rollout as rollout_lib
from dlrl import sft
from dlrl import train
from dlrl import update
from dlrl import validate
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

_BASE = flags.DEFINE_string("base", "configs/bgpo.py", "file:preset")
_PRUNED = flags.DEFINE_string("pruned", "configs/stp.py", "file:preset")
_BASE_CURVES = flags.DEFINE_string("base_curves", "learning_bgpo", "results")
_PRUNED_CURVES = flags.DEFINE_string("pruned_curves", "learning_stp", "results")
_NAME = flags.DEFINE_string("name", "sudoku", "of the result files")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "directory")
_RUNS = flags.DEFINE_string("runs", "runs/stp", "the fine-tuning's")
_STEPS = flags.DEFINE_integer(
  "steps", 60, "RL steps to time, spread over the run", lower_bound=5)
_ROWS = flags.DEFINE_integer("rows", 64, "completions of the variance")
_REPEATS = flags.DEFINE_integer("repeats", 256, "estimates of each ELBO")

NS = (1, 4, 16)


def read(flag: str) -> config.Config:
  """The config of `file:preset`."""
  path, _, preset = flag.partition(":")
  name = path.removesuffix(".py").replace("/", ".")
  return validate.from_dict(
    importlib.import_module(name).get_config(*filter(None, [preset])))


class Run:
  """One config's RL steps, one call each, with their seconds."""

  def __init__(self, setup: setup_lib.Setup, params):
    tx, make_state, abstract = train_state.for_rl(setup)
    self.setup, self.state = setup, make_state(params)
    self.programs = train.make_programs(setup, tx, abstract)
    self.source = rollout_lib.examples(setup)
    self.batches = rollout_lib.prompt_batches(setup, self.source)

  def step(self) -> dict[str, float]:
    """Seconds of rollout and update, and forward passes of the rollout."""
    setup, (rollout_fn, learn_fn) = self.setup, self.programs
    batch = next(self.batches)
    rows = [self.source[i] for i in batch["position"].tolist()]
    inputs = rollout_lib.inputs(setup, batch, rows)
    start = time.monotonic()
    rolled_out, forwards = jax.block_until_ready(
      rollout_fn(self.state, *inputs))
    rolled = time.monotonic()
    share, ids = grading.wait(rolled_out.completion)
    group = setup.cfg.rollout.group_size
    reward, _ = grading.rewards(setup, grading.read(
      setup, [rows[i // group] for i in share.places], ids), share)
    began = time.monotonic()
    _, _, index, _ = inputs
    self.state, _ = jax.block_until_ready(
      learn_fn(self.state, rolled_out, index, setup.put_batch(reward)))
    done = time.monotonic()
    # On to where the next one stands in the whole run: pruning is annealed.
    skipped = setup.cfg.steps // _STEPS.value - 1
    self.state = dataclasses.replace(
      self.state, step=self.state.step + skipped)
    return {"rollout": rolled - start, "update": done - began,
            "forwards": float(forwards)}


def seconds(setups: dict[str, setup_lib.Setup], params) -> dict[str, Any]:
  """Means per step over the whole schedule, the two configs in turns."""
  runs = {name: Run(setup, params) for name, setup in setups.items()}
  rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
  for run in runs.values():
    run.step()  # which compiles
  line = progress.Progress(_STEPS.value, "timing")
  for i in range(_STEPS.value):
    for name, run in runs.items():
      rows[name].append(run.step())
    line.tick()
    if i % 10 == 0:
      progress.say(line.line(i))
  return {
    name: {key: {"mean": statistics.mean(r[key] for r in found),
                 "quartiles": np.percentile(
                   [r[key] for r in found], [25, 75]).tolist()}
           for key in found[0]} for name, found in rows.items()}


def completions(setup: setup_lib.Setup, params) -> tuple[update.Batch, Any]:
  """Samples of the policy without pruning, and what a template would fix."""
  cfg = setup.cfg
  source = rollout_lib.examples(setup)
  rows = data.eval_rows(source, setup.tokenizer, setup.prompt,
                        items=_ROWS.value, prompt_length=cfg.task.prompt_length)
  prompt, length = (
    jnp.asarray(rows[k]) for k in ("prompt_ids", "prompt_length"))
  keys = jax.random.split(jax.random.key(1), _ROWS.value)
  out = jax.jit(lambda params: denoise.decode(
    setup.model, params, prompt, length, keys,
    sampler=cfg.rollout.sampler))(params)
  template = rollout_lib.templates(
    setup.task, setup.tokenizer,
    [source[i] for i in rows["position"].tolist()],
    cfg.rollout.sampler.gen_length, setup.model.mask_id)
  return update.Batch(
    prompt=prompt, prompt_length=length, completion=out.completion,
    maskable=jnp.ones(out.completion.shape, bool),
    advantage=jnp.ones(_ROWS.value), keys=keys), template


def variance(setup: setup_lib.Setup, params, batch: update.Batch, n: int):
  """Of the mean of n draws' scores, per completion, [rows] fp64."""
  learn = dataclasses.replace(setup.cfg.learn, n_mc=n)

  @jax.jit
  def estimate(params, batch, seed):
    keys = jax.random.split(jax.random.key(seed), _ROWS.value)
    some = dataclasses.replace(batch, keys=keys)

    def score(j):
      draw, (logps, _) = update.draw_logps(
        setup.model, learn, params, some, j)
      return jnp.sum(draw.weight * logps, -1)

    return jnp.mean(jax.lax.map(score, jnp.arange(n)), 0)

  found = [np.asarray(estimate(params, batch, seed), np.float64)
           for seed in range(_REPEATS.value)]
  return np.var(found, axis=0, ddof=1)


def variances(setups: dict[str, setup_lib.Setup], params) -> dict[str, Any]:
  """Mean variances and their ratio with a 95% interval, for each n."""
  batch, template = completions(setups["base"], params)
  free = jnp.asarray(template == setups["base"].model.mask_id)
  pruned = dataclasses.replace(
    batch, maskable=free,
    completion=jnp.where(free, batch.completion, template))
  result = {}
  for n in NS:
    base = variance(setups["base"], params, batch, n)
    other = variance(setups["pruned"], params, pruned, n)
    # Completions are independent: the interval of a ratio of means.
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(base), (2000, len(base)))
    ratios = other[picks].mean(1) / base[picks].mean(1)
    result[str(n)] = {
      "base": base.mean(), "pruned": other.mean(),
      "ratio": other.mean() / base.mean(),
      "interval": np.percentile(ratios, [2.5, 97.5]).tolist()}
    progress.say(f"variance at n = {n}: {result[str(n)]}")
  return result


def learning(out: pathlib.Path, per_step: dict[str, float]) -> dict[str, Any]:
  """Accuracy at the end and the time to the base's, for every seed."""
  base, pruned = (
    {run["seed"]: run for run in json.loads(
      (out / f"{name.value}.json").read_text())["runs"]}
    for name in (_BASE_CURVES, _PRUNED_CURVES))
  rows = []
  for seed in sorted(base.keys() & pruned.keys()):
    end = base[seed]["after"]["solved"]

    def steps_to(curve, end=end):
      return next((s for s, solved in curve if solved >= end), None)

    ours = steps_to(pruned[seed]["curve"])
    theirs = steps_to(base[seed]["curve"])
    rows.append({
      "seed": seed, "before": base[seed]["before"]["solved"],
      "base": end, "pruned": pruned[seed]["after"]["solved"],
      "base_steps": theirs, "pruned_steps": ours,
      "time_ratio": None if ours is None else (
        ours * per_step["pruned"] / (theirs * per_step["base"]))})
  gain = np.array([row["pruned"] - row["base"] for row in rows])
  half = stats.t.ppf(0.975, len(gain) - 1) * stats.sem(gain)
  # Of the mean curves: the base's accuracy at its end, and when it is there.
  theirs, ours = (np.mean([run["curve"] for run in runs.values()], 0)
                  for runs in (base, pruned))
  end = theirs[-1, 1]
  first: dict[str, Any] = {
    name: next((s for s, solved in curve if solved >= end), None)
    for name, curve in (("base", theirs), ("pruned", ours))}
  return {"seeds": rows, "mean_gain": gain.mean(),
          "interval": [gain.mean() - half, gain.mean() + half],
          "mean_curves": {"base_end": end, "steps": first, "time_ratio": (
            None if first["pruned"] is None else
            first["pruned"] * per_step["pruned"]
            / (first["base"] * per_step["base"]))}}


def plot(out: pathlib.Path, per_step: dict[str, float], path) -> None:
  """Curves over measured seconds: thin ones of seeds, thick ones of means."""
  fig = figure.Figure(figsize=(7, 4.2), layout="constrained")
  ax = fig.add_subplot()
  for name, flag, colour in (("base", _BASE_CURVES, "tab:grey"),
                             ("pruned", _PRUNED_CURVES, "tab:blue")):
    runs = json.loads((out / f"{flag.value}.json").read_text())["runs"]
    curves = np.array([run["curve"] for run in runs])
    at = curves[0, :, 0] * per_step[name]
    for curve in curves:
      ax.plot(at, 100 * curve[:, 1], color=colour, alpha=0.3, linewidth=0.8)
    ax.plot(at, 100 * curves[:, :, 1].mean(0), color=colour, linewidth=2,
            label=f"{name}, mean of {len(runs)} seeds")
  ax.set(xlabel="seconds of rollout and update, after the warm start",
         ylabel="held-out items solved, %", ylim=(0, 100))
  ax.grid(alpha=0.3)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(frameon=False, loc="lower right")
  fig.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
  """Fine-tunes unless that is done, measures, writes both files."""
  del argv
  logging.set_verbosity(logging.WARNING)
  cfgs = {"base": read(_BASE.value), "pruned": read(_PRUNED.value)}
  mesh_lib.split_cpu(cfgs["base"].mesh.cpu_devices)
  setups = {name: setup_lib.make(cfg) for name, cfg in cfgs.items()}
  directory = pathlib.Path(_RUNS.value) / _NAME.value
  directory.mkdir(parents=True, exist_ok=True)
  out = pathlib.Path(_OUT.value)
  with jax.set_mesh(setups["base"].mesh):
    params, _ = sft.train(setups["base"], directory)
    spread = variances(setups, params)
    times = seconds(setups, params)
  per_step = {name: row["rollout"]["mean"] + row["update"]["mean"]
              for name, row in times.items()}
  result = {
    "command": f"python -m benchmarks.stp --base={_BASE.value} "
               f"--pruned={_PRUNED.value} --base_curves={_BASE_CURVES.value} "
               f"--pruned_curves={_PRUNED_CURVES.value} --name={_NAME.value} "
               f"--steps={_STEPS.value}",
    "seconds": times,
    "rollout_speedup": times["base"]["rollout"]["mean"]
    / times["pruned"]["rollout"]["mean"],
    "elbo_variance": spread, "learning": learning(out, per_step)}
  (out / f"stp_{_NAME.value}.json").write_text(
    json.dumps(result, indent=1) + "\n")
  plot(out, per_step, out / f"stp_{_NAME.value}.png")
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  app.run(main)
