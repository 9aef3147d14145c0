"""Savings of pruned rollouts: seconds per step, ELBO variance, time to learn.

    python -m benchmarks.stp --base=configs/bgpo.py --pruned=configs/stp.py \\
        --base_curves=learning_bgpo --pruned_curves=learning_stp

Both configs share task, model and warm start, which is made once and kept under
--runs. Their RL steps are timed in turns, so that other load on the machine
slows both, at steps spread over the whole run, because pruning is annealed.
Variances compare the same completions. Learning curves are read from the files
that `benchmarks.learning_curves` wrote, and a step counts as its measured
seconds. Writes `stp_NAME.json` and `stp_NAME.png`; with `--plot_only`, seconds
and variances are the stored ones, and the curves are read again.
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

from benchmarks import results
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

_BASE = flags.DEFINE_string(
  "base", "configs/bgpo.py", "config without pruning, as file:preset")
_PRUNED = flags.DEFINE_string(
  "pruned", "configs/stp.py", "config with pruning, as file:preset")
_BASE_CURVES = flags.DEFINE_string(
  "base_curves", "learning_bgpo", "result file with the curves of --base")
_PRUNED_CURVES = flags.DEFINE_string(
  "pruned_curves", "learning_stp", "result file with the curves of --pruned")
_NAME = flags.DEFINE_string(
  "name", "sudoku", "name of the result files, after stp_")
_RUNS = flags.DEFINE_string(
  "runs", "runs/stp", "directory of the fine-tuning, one workdir per --name")
_STEPS = flags.DEFINE_integer(
  "steps", 60, "RL steps to time, spread over the run", lower_bound=5)
_ROWS = flags.DEFINE_integer(
  "rows", 64, "completions whose ELBO variance is estimated", lower_bound=2)
_REPEATS = flags.DEFINE_integer(
  "repeats", 256, "estimates of each ELBO", lower_bound=2)

TITLES = {"sudoku": "4x4 Sudoku", "countdown": "three-digit Countdown"}
LINES = {"base": "baseline: BGPO", "pruned": "BGPO with pruned rollouts"}
NS = (1, 4, 16)


def read(flag: str) -> config.Config:
  """The config that a flag names as `file:preset`."""
  path, _, preset = flag.partition(":")
  name = path.removesuffix(".py").replace("/", ".")
  return validate.from_dict(
    importlib.import_module(name).get_config(*filter(None, [preset])))


class Run:
  """RL steps of one config, timed one by one."""

  def __init__(self, setup: setup_lib.Setup, params: Any):
    tx, make_state, abstract = train_state.for_rl(setup)
    self.setup, self.state = setup, make_state(params)
    self.programs = train.make_programs(setup, tx, abstract)
    self.source = rollout_lib.examples(setup)
    self.batches = rollout_lib.prompt_batches(setup, self.source)

  def step(self) -> dict[str, float]:
    """Takes one step; its seconds and the rollout's forward passes."""
    setup, (rollout_fn, learn_fn) = self.setup, self.programs
    batch = next(self.batches)
    rows = [self.source[i] for i in batch["position"].tolist()]
    inputs = rollout_lib.inputs(setup, batch, rows)
    start = time.monotonic()
    rolled_out, forwards = jax.block_until_ready(
      rollout_fn(self.state, *inputs))
    rolled = time.monotonic()
    share, *answers = grading.wait(rolled_out)
    group = setup.cfg.rollout.group_size
    rewards, _ = grading.rewards(setup, grading.rewarded(setup, grading.read(
      setup, [rows[i // group] for i in share.places], *answers)), share)
    began = time.monotonic()
    _, _, index, _ = inputs
    self.state, _ = jax.block_until_ready(
      learn_fn(self.state, rolled_out, index, *setup.put_batch(
        rewards.learned(setup.cfg.rollout))))
    done = time.monotonic()
    # Pruning is annealed: skip ahead, so that the timed steps cover the run.
    skipped = setup.cfg.steps // _STEPS.value - 1
    self.state = dataclasses.replace(
      self.state, step=self.state.step + skipped)
    return {"rollout": rolled - start, "update": done - began,
            "forwards": float(forwards)}


def seconds(setups: dict[str, setup_lib.Setup], params: Any
            ) -> dict[str, Any]:
  """Mean and quartiles per step of each config; the configs take turns."""
  runs = {name: Run(setup, params) for name, setup in setups.items()}
  rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
  for run in runs.values():
    run.step()  # compiles
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


def completions(setup: setup_lib.Setup, params: Any
                ) -> tuple[update.Batch, np.ndarray]:
  """Completions sampled without pruning, and their templates [rows, t]."""
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


def variance(setup: setup_lib.Setup, params: Any, batch: update.Batch, n: int
             ) -> np.ndarray:
  """Variance of each completion's ELBO from n samples, [rows] fp64."""
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


def variances(setups: dict[str, setup_lib.Setup], params: Any
              ) -> dict[str, Any]:
  """Mean variances and their ratio with a 95% interval, for each n in NS."""
  batch, template = completions(setups["base"], params)
  free = jnp.asarray(template == setups["base"].model.mask_id)
  pruned = dataclasses.replace(
    batch, maskable=free,
    completion=jnp.where(free, batch.completion, template))
  result = {}
  for n in NS:
    base = variance(setups["base"], params, batch, n)
    other = variance(setups["pruned"], params, pruned, n)
    # Bootstrap over completions, which are independent.
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(base), (2000, len(base)))
    ratios = other[picks].mean(1) / base[picks].mean(1)
    result[str(n)] = {
      "base": base.mean(), "pruned": other.mean(),
      "ratio": other.mean() / base.mean(),
      "interval": np.percentile(ratios, [2.5, 97.5]).tolist()}
    progress.say(f"variance at n = {n}: {result[str(n)]}")
  return result


def curves() -> dict[str, dict[int, dict[str, Any]]]:
  """The stored runs of both configs, {base or pruned: {seed: run}}."""
  return {name: {run["seed"]: run for run in results.read(flag.value)["runs"]}
          for name, flag in (("base", _BASE_CURVES),
                             ("pruned", _PRUNED_CURVES))}


def learning(per_step: dict[str, float]) -> dict[str, Any]:
  """Accuracy at the end, and the time to reach the baseline's, for every seed.

  Args:
    per_step: seconds of a step of `base` and of `pruned`.
  """
  base, pruned = curves().values()

  def first_step(curve: Any, accuracy: float) -> Any:
    return next((s for s, solved in curve if solved >= accuracy), None)

  def ratio(ours: Any, theirs: Any) -> float | None:
    if ours is None or not theirs:  # not reached, or the baseline began there
      return None
    return ours * per_step["pruned"] / (theirs * per_step["base"])

  rows = []
  for seed in sorted(base.keys() & pruned.keys()):
    end = base[seed]["after"]["solved"]
    ours = first_step(pruned[seed]["curve"], end)
    theirs = first_step(base[seed]["curve"], end)
    rows.append({
      "seed": seed, "before": base[seed]["before"]["solved"],
      "base": end, "pruned": pruned[seed]["after"]["solved"],
      "base_steps": theirs, "pruned_steps": ours,
      "time_ratio": ratio(ours, theirs)})
  gain = results.mean_interval([row["pruned"] - row["base"] for row in rows])
  # The same for the mean curves, which are less noisy than a seed's.
  means = {name: np.mean([run["curve"] for run in runs.values()], 0)
           for name, runs in (("base", base), ("pruned", pruned))}
  end = means["base"][-1, 1]
  first = {name: first_step(curve, end) for name, curve in means.items()}
  return {"seeds": rows, "mean_gain": gain["mean"],
          "interval": [gain.get("low"), gain.get("high")],
          "mean_curves": {"base_end": end, "steps": first, "time_ratio": ratio(
            first["pruned"], first["base"])}}


def plot(per_step: dict[str, float]) -> figure.Figure:
  """Accuracy over measured seconds: thin lines are seeds, thick ones means."""
  fig, (ax,) = results.page(
    "Held-out accuracy over training time, "
    f"{TITLES.get(_NAME.value, _NAME.value)}", size=(7, 4.2))
  lines = zip(curves().items(), (results.BASELINE, results.COLOURS[0]),
              strict=True)
  for (name, runs), colour in lines:
    solved = np.array([run["curve"] for run in runs.values()])
    at = solved[0, :, 0] * per_step[name]
    for i, curve in enumerate(solved):
      ax.plot(at, 100 * curve[:, 1], color=colour, alpha=0.5, lw=0.8,
              label=None if i else f"{LINES[name]}, each seed")
    ax.plot(at, 100 * solved[:, :, 1].mean(0), color=colour, lw=2.5,
            label=f"{LINES[name]}, mean of {len(runs)} seeds")
  ax.set(xlabel="seconds of rollout and update, after fine-tuning",
         ylabel="held-out items solved (%)")
  ax.set_ylim(*((40, 70) if "countdown" in _NAME.value else (0, 102)))
  ax.legend(frameon=False, loc="lower right", fontsize=9)
  return fig


def measure() -> dict[str, Any]:
  """Fine-tunes unless that is done, then measures variances and seconds."""
  cfgs = {"base": read(_BASE.value), "pruned": read(_PRUNED.value)}
  mesh_lib.split_cpu(cfgs["base"].mesh.cpu_devices)
  setups = {name: setup_lib.make(cfg) for name, cfg in cfgs.items()}
  directory = pathlib.Path(_RUNS.value) / _NAME.value
  directory.mkdir(parents=True, exist_ok=True)
  with jax.set_mesh(setups["base"].mesh):
    params, _ = sft.train(setups["base"], directory)
    spread = variances(setups, params)
    times = seconds(setups, params)
  return {
    "command": f"python -m benchmarks.stp --base={_BASE.value} "
               f"--pruned={_PRUNED.value} --base_curves={_BASE_CURVES.value} "
               f"--pruned_curves={_PRUNED_CURVES.value} --name={_NAME.value} "
               f"--steps={_STEPS.value}",
    "seconds": times,
    "rollout_speedup": times["base"]["rollout"]["mean"]
    / times["pruned"]["rollout"]["mean"],
    "elbo_variance": spread}


def main(argv: list[str]) -> None:
  """Measures, reads the curves, draws, prints everything."""
  del argv
  logging.set_verbosity(logging.WARNING)
  name = f"stp_{_NAME.value}"
  result = results.obtain(name, measure)
  per_step = {name: row["rollout"]["mean"] + row["update"]["mean"]
              for name, row in result["seconds"].items()}
  result["learning"] = learning(per_step)
  results.write(name, result)
  results.show(name, plot(per_step), json.dumps(result, indent=1))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  app.run(main)
