"""Error of the gradient against its cost, for a block-diffusion model.

    python -m benchmarks.block_gradient_error --out=benchmarks/results

Fine-tunes the tiny block model of the config once (kept under --runs), samples
a few completions, and compares gradients of BGPO's loss estimated from n draws
with the exact one, of all masks of a block. The cost of n draws is counted in
tokens: those of the prompt and the completion once, and those of the
completion's blocks n times. Writes `block_gradient_error.json` and
`block_gradient_error.png`; about ten minutes on 2 CPU cores.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import app
from absl import flags
from absl import logging
from matplotlib import figure
from ml_collections import config_flags

from benchmarks import gradient_error
from benchmarks import results
from dlrl import scoring
from dlrl.diffusion import blocks
from dlrl.diffusion import model_input
from dlrl.run import setup as setup_lib
from dlrl.sampling import denoise

NS = (1, 2, 4, 8, 15, 16, 32)
EXACT = "all masks of a block (exact)"
# As `gradient_error.ESTIMATORS`.
ESTIMATORS = {
  "one t for the response, 1/t (SDAR's fine-tuning)": ("block_bernoulli", 0.0),
  "one k for the response (BGPO)": ("block_global", 0.0),
  "k of each block, stratified (EBPO)": ("block_stratified", 0.0),
  "complementary pairs in each block": ("block_complementary", 0.0),
  "tiled in each block, P ~ 1 / sqrt(k)": ("block_balanced", 0.0),
}
BEST = "tiled in each block, P ~ 1 / sqrt(k)"


def completions(setup: setup_lib.Setup, params: Any) -> scoring.Batch:
  """Samples of the policy, with advantages of 1 and -1 in turn."""
  batch = gradient_error.prompts(setup)
  decoded = denoise.decode(
    setup.model, params, batch.prompt, batch.prompt_length, batch.keys,
    sampler=setup.cfg.rollout.sampler, eos_id=setup.tokenizer.eos_id)
  return dataclasses.replace(
    batch, completion=decoded.completion, maskable=decoded.trace >= 0)


def measure(setup: setup_lib.Setup, params: Any) -> dict[str, Any]:
  """Errors of each estimator at each number of draws, and their cost."""
  size, t = setup.cfg.model.block_length, setup.cfg.rollout.sampler.gen_length
  batch = completions(setup, params)
  exact = blocks.patterns(size)
  golden = np.asarray(gradient_error.gradient_of(
    setup, "block_exact", 0.0, exact)(params, batch, 0), np.float64)
  found = gradient_error.sweep(ESTIMATORS, NS, setup, params, batch, golden)
  prompt = float(np.mean(batch.prompt_length))
  stream = model_input.blocks_of(t, size) * size
  return {"exact": exact, "estimators": found, "tokens": {
    str(n): prompt + stream * (1 + n) for n in sorted({*NS, exact})}}


def plot(result: dict[str, Any]) -> figure.Figure:
  """Error over tokens, one line per estimator."""
  fig, (ax,) = results.page(
    "Error of the gradient of BGPO's loss on a block-diffusion model",
    size=(7, 5.2))
  tokens = result["tokens"]
  for i, (name, rows) in enumerate(result["estimators"].items()):
    ax.plot([tokens[n] for n in rows], [row["error"] for row in rows.values()],
            marker="o", ms=4, lw=2.5 if name == BEST else 1.3,
            color=results.COLOURS[i], label=name)
  ax.axvline(tokens[str(result["exact"])], color="black", lw=1.2, ls="--",
             label=f"all {result['exact']} masks of a block: no error")
  results.ticks(ax, x=[round(tokens[n]) for n in ("1", "2", "4", "8", "16",
                                                  "32")],
                y=(0.1, 0.2, 0.5, 1, 2, 5))
  ax.set(xlabel="tokens computed per completion (1 to 32 draws)",
         ylabel="root mean square error / size of the gradient")
  fig.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
  return fig


def table(result: dict[str, Any]) -> str:
  """One line per estimator: its error at each number of draws."""
  return "\n".join(
    [f"{name:50}" + "".join(
      f" {n}:{row['error']:.3f}" for n, row in rows.items())
     for name, rows in result["estimators"].items()]
    + [f"{EXACT:50} {result['exact']}:0"])


def main(argv: list[str]) -> None:
  """Measures, draws, prints the errors."""
  del argv
  logging.set_verbosity(logging.WARNING)
  result = results.obtain(
    "block_gradient_error",
    lambda: gradient_error.after_fine_tuning(measure))
  results.show("block_gradient_error", plot(result), table(result))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  config_flags.DEFINE_config_file("config", "configs/bgpo.py:blocks")
  flags.DEFINE_string(
    "runs", "runs/block_gradient_error", "workdir of the fine-tuning")
  flags.DEFINE_integer("rows", 8, "completions, each of another puzzle")
  flags.DEFINE_integer(
    "repeats", 64, "gradients per estimator and number of draws",
    lower_bound=2)
  app.run(main)
