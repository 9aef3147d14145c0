"""Speed and FLOPs of the sampler's modes against a straightforward sampler.

    python -m benchmarks.sampler --out=benchmarks/results

A transformer of LLaDA's kind, width 512, 8 layers, vocabulary 32,000, with
random weights: batch 4, prompt 128, 128 new tokens in 64 steps, blocks of 32.
The straightforward sampler computes all logits of whole rows at every step and
is otherwise the same. Times are medians of interleaved runs, as ratios: they
are of one machine. FLOPs are counted in the traced programs, once more for
LLaDA-8B's shape. Writes `sampler.json` and `sampler.png`; some minutes.

Random weights are never sure. The head is scaled until half of a fresh canvas's
predictions have a probability of 0.9, so that a threshold has something to do;
how many tokens a trained model commits per step is another question, so the
table says how many were.
"""

import dataclasses
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
from matplotlib import figure

from configs import llada_8b
from dlrl import config
from dlrl import config_check
from dlrl.diffusion import rows
from dlrl.models import transformer
from dlrl.runtime import progress
from dlrl.runtime.flops import flops
from dlrl.sampling import denoise
from dlrl.sampling import remasking
from dlrl.sampling.forward import Forward

BATCH, PROMPT = 4, 128
SMALL = config.Model(
  vocab_size=32000, width=512, layers=8, heads=8, kv_heads=8, head_dim=64,
  mlp_width=1536, rope_theta=10000.0, remat="none")
EXACT = config.Sampler(gen_length=128, block_length=32, steps=64)
MODES = {
  "exact": EXACT,
  "prefix cache": dataclasses.replace(EXACT, cache="prefix"),
  "dual cache": dataclasses.replace(EXACT, cache="dual"),
  "threshold 0.9": dataclasses.replace(EXACT, threshold=0.9),
  "prefix cache, threshold 0.9": dataclasses.replace(
    EXACT, cache="prefix", threshold=0.9),
  "dual cache, threshold 0.9": dataclasses.replace(
    EXACT, cache="dual", threshold=0.9),
}
PLAIN = "straightforward"


def straightforward(model, params, prompt, lengths):
  """Completions [b, t] as of the exact mode, at the cost of all logits."""
  width = EXACT.block_length
  steps = EXACT.steps * width // EXACT.gen_length
  canvas = jnp.full((BATCH, EXACT.gen_length), model.mask_id, jnp.int32)

  def step(i, canvas):
    row = rows.assemble(canvas, prompt, lengths)
    logits = jnp.einsum(
      "btd,dv->btv", model.hidden(params, *row), model.unembed(params),
      preferred_element_type=jnp.float32)[:, :EXACT.gen_length]
    logits = logits.at[:, :, model.mask_id].set(-jnp.inf)
    token = jnp.argmax(logits, -1)
    sure = jnp.max(jax.nn.softmax(logits, axis=-1), -1)
    column = jnp.arange(EXACT.gen_length)[None]
    masked = (canvas == model.mask_id) & (column < (i // steps + 1) * width)
    chosen = remasking.highest(
      sure, masked, jnp.full(BATCH, width // steps))
    return jnp.where(chosen, token, canvas)

  return jax.lax.fori_loop(0, EXACT.steps, step, canvas)


def inputs(model):
  """Random parameters with a head that is sure, and prompts."""
  params = jax.jit(model.init)(jax.random.key(0))
  prompt = jax.random.randint(
    jax.random.key(1), (BATCH, PROMPT), 0, model.cfg.vocab_size - 1)
  lengths = jnp.full(BATCH, PROMPT)
  forward = Forward(model, params, prompt, lengths, 0.0)
  canvas = jnp.full((BATCH, EXACT.gen_length), model.mask_id, jnp.int32)
  logits = jax.jit(lambda c: forward.logits(forward.whole(c)[:, :16]))(canvas)
  low, high = 1.0, 1000.0
  for _ in range(30):
    scale = (low * high) ** 0.5
    sure = np.median(jax.nn.softmax(logits * scale, axis=-1).max(-1))
    low, high = (low, scale) if sure > 0.9 else (scale, high)
  head = {"kernel": params["unembed"]["kernel"] * scale}
  return params | {"unembed": head}, prompt, lengths


def costs(cfg: config.Model) -> dict[str, float]:
  """FLOPs of a step's parts, per row, of a model of this shape."""
  model = transformer.build(cfg, cfg.vocab_size - 1)
  params = jax.eval_shape(model.init, jax.random.key(0))
  ids = jax.ShapeDtypeStruct((1, PROMPT), "int32")
  length = jax.ShapeDtypeStruct((1,), "int32")
  canvas = jax.ShapeDtypeStruct((1, EXACT.gen_length), "int32")
  columns = PROMPT + EXACT.gen_length
  kept = jax.ShapeDtypeStruct(
    (cfg.layers, 1, columns, cfg.kv_heads, cfg.head_dim), cfg.compute_dtype)

  def part(width):
    return flops(
      lambda params, ids, length, canvas, cache: Forward(
        model, params, ids, length, 0.0).part(canvas, 0, width, cache),
      params, ids, length, canvas, (kept, kept))

  whole = flops(
    lambda params, ids, length, canvas: Forward(
      model, params, ids, length, 0.0).whole(canvas),
    params, ids, length, canvas)
  head = 2 * cfg.width * cfg.vocab_size
  width = EXACT.block_length
  return {
    "whole": whole, "all logits": columns * head, "block logits": width * head,
    "dual": part(width),
    "prefix": sum(part(EXACT.gen_length - start) for start in range(
      0, EXACT.gen_length, width)) / (EXACT.gen_length // width)}


def flops_per_token(name: str, forwards: int, cost: dict[str, float]) -> float:
  """Of a completion that took so many forward passes."""
  if name == PLAIN:
    total = forwards * (cost["whole"] + cost["all logits"])
  else:
    cache = MODES[name].cache
    blocks = EXACT.gen_length // EXACT.block_length
    firsts = forwards if cache == "none" else blocks
    total = firsts * cost["whole"] + forwards * cost["block logits"]
    if cache != "none":
      total += (forwards - firsts) * cost[cache]
  return total / EXACT.gen_length


def measure(repeats: int) -> dict[str, Any]:
  """All modes, interleaved."""
  model = transformer.build(SMALL, SMALL.vocab_size - 1)
  params, prompt, lengths = inputs(model)
  keys = jax.random.split(jax.random.key(2), BATCH)
  run: dict[str, Any] = {PLAIN: jax.jit(
    lambda params: (straightforward(model, params, prompt, lengths),
                    jnp.int32(EXACT.steps)))}
  for name, sampler in MODES.items():
    run[name] = jax.jit(lambda params, sampler=sampler: tuple(denoise.decode(
      model, params, prompt, lengths, keys, sampler=sampler))[::2])
  seconds: dict[str, list[float]] = {name: [] for name in run}
  outputs = {name: jax.block_until_ready(f(params)) for name, f in run.items()}
  np.testing.assert_array_equal(outputs[PLAIN][0], outputs["exact"][0])
  for i in range(repeats):
    for name, f in run.items():
      start = time.monotonic()
      jax.block_until_ready(f(params))
      seconds[name].append(time.monotonic() - start)
      progress.say(f"{i + 1}/{repeats} {name}: {seconds[name][-1]:.2f} s")
  small = costs(SMALL)
  large = costs(config_check.from_dict(llada_8b.base("llada_8b_sudoku")).model)
  result = {}
  for name, (_, forwards) in outputs.items():
    taken = statistics.median(seconds[name])
    result[name] = {
      "forwards": int(forwards), "seconds": taken,
      "tokens_per_second": BATCH * EXACT.gen_length / taken,
      "speedup": statistics.median(seconds[PLAIN]) / taken,
      "gflops_per_token": flops_per_token(name, int(forwards), small) / 1e9,
      "llada_8b_gflops_per_token":
        flops_per_token(name, int(forwards), large) / 1e9}
  return result


def table(modes: dict[str, Any]) -> str:
  """Of `docs/models.md`."""
  lines = [
    "| mode | forward passes | speed | GFLOPs per token | LLaDA-8B's |",
    "| --- | --- | --- | --- | --- |"]
  for name, row in modes.items():
    lines.append(
      f"| {name} | {row['forwards']} | {row['speedup']:.2f} | "
      f"{row['gflops_per_token']:.2f} | "
      f"{row['llada_8b_gflops_per_token']:.0f} |")
  return "\n".join(lines)


def plot(modes: dict[str, Any], path: pathlib.Path) -> None:
  """Speed of each mode over the straightforward sampler's."""
  fig = figure.Figure(figsize=(7, 3.4), layout="constrained")
  ax = fig.add_subplot()
  names = list(modes)[::-1]
  speeds = [modes[name]["speedup"] for name in names]
  bars = ax.barh(names, speeds, color="#4878a8")
  ax.bar_label(bars, [f"{x:.1f}" for x in speeds], padding=3)
  ax.set(xlabel="speed, straightforward sampler = 1")
  ax.spines[["top", "right"]].set_visible(False)
  fig.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
  """Measures, writes both files, prints the table."""
  del argv
  modes = measure(flags.FLAGS.repeats)
  out = pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  (out / "sampler.json").write_text(json.dumps(
    {"command": "python -m benchmarks.sampler", "modes": modes}, indent=1)
    + "\n")
  plot(modes, out / "sampler.png")
  print(table(modes))


if __name__ == "__main__":
  # Here, so that tests can import this module next to others.
  flags.DEFINE_string("out", "benchmarks/results", "directory")
  flags.DEFINE_integer("repeats", 5, "runs of each mode")
  app.run(main)
