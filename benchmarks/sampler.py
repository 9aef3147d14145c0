"""Speed and FLOPs of the sampler's modes against a straightforward sampler.

    python -m benchmarks.sampler --out=benchmarks/results

A transformer of LLaDA's kind, width 512, 8 layers, vocabulary 32,000, with
random weights: batch 4, prompt 128, 128 new tokens in 64 steps, blocks of 32.
The straightforward sampler computes all logits of whole rows at every step and
is otherwise the same. Modes take turns; the speed of a mode is the median over
turns of its ratio to the straightforward sampler, because seconds depend on the
machine and on what else it does. FLOPs are those of the lowered programs, also
at LLaDA-8B's shape. Writes `sampler.json` and `sampler.png` and prints the
table of `docs/models.md`; about 5 minutes on 2 idle CPU cores.

A network with random weights is never confident. Its head is scaled until half
of the predictions on a fresh canvas have a probability of 0.9, so that a
confidence threshold has an effect. A trained model may commit more or fewer
tokens per step; the table therefore lists forward passes.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from matplotlib import figure

from benchmarks import results
from dlrl import config
from dlrl import validate
from dlrl.costs.flops import flops
from dlrl.diffusion import model_input
from dlrl.models import transformer
from dlrl.presets import llada_8b
from dlrl.runtime import progress
from dlrl.sampling import denoise
from dlrl.sampling import remasking
from dlrl.sampling import steps
from dlrl.sampling.forward import Forward

BATCH, PROMPT = 4, 128
SMALL = config.ModelConfig(
  vocab_size=32000, width=512, layers=8, heads=8, kv_heads=8, head_dim=64,
  mlp_width=1536, rope_theta=10000.0, remat="none")
EXACT = config.SamplerConfig(gen_length=128, block_length=32, steps=64)
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


def straightforward(
  model: transformer.Model, params: Any, prompt: jax.Array, lengths: jax.Array,
  exact: config.SamplerConfig = EXACT
) -> jax.Array:
  """Completions [b, t] of the exact mode, from all logits of whole rows."""
  width = exact.block_length
  steps = exact.steps * width // exact.gen_length
  b = len(lengths)
  canvas = jnp.full((b, exact.gen_length), model.mask_id, jnp.int32)

  def step(i, canvas):
    row = model_input.assemble(canvas, prompt, lengths)
    logits = jnp.einsum(
      "btd,dv->btv", model.hidden(params, *row), model.unembed(params),
      preferred_element_type=jnp.float32)[:, :exact.gen_length]
    logits = logits.at[:, :, model.mask_id].set(-jnp.inf)
    token = jnp.argmax(logits, -1)
    sure = jnp.max(jax.nn.softmax(logits, axis=-1), -1)
    column = jnp.arange(exact.gen_length)[None]
    masked = (canvas == model.mask_id) & (column < (i // steps + 1) * width)
    chosen = remasking.highest(
      sure, masked, jnp.full(b, width // steps))
    return jnp.where(chosen, token, canvas)

  return jax.lax.fori_loop(0, exact.steps, step, canvas)


def random_params(model: transformer.Model, seed: int = 0) -> Any:
  """Random parameters, without `model.init`, which takes minutes to compile."""
  rng = np.random.default_rng(seed)

  def one(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.endswith("scale"):
      return jnp.ones(leaf.shape, leaf.dtype)
    scale = leaf.shape[-2 if name.endswith("kernel") else -1] ** -0.5
    return jnp.asarray(
      scale * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

  return jax.tree.map_with_path(
    one, jax.eval_shape(model.init, jax.random.key(seed)))


def inputs(model: transformer.Model) -> tuple[Any, jax.Array, jax.Array]:
  """Random parameters with a confident head, prompts, and their lengths."""
  params = random_params(model)
  prompt = jax.random.randint(
    jax.random.key(1), (BATCH, PROMPT), 0, model.cfg.vocab_size - 1)
  lengths = jnp.full(BATCH, PROMPT)
  forward = Forward(model, params, prompt, lengths, 0.0)
  canvas = jnp.full((BATCH, EXACT.gen_length), model.mask_id, jnp.int32)
  logits = jax.jit(lambda c: forward.logits(forward.block(
    c, jnp.zeros_like(lengths), 16)))(canvas)
  low, high = 1.0, 1000.0  # bisects the head's scale
  for _ in range(30):
    scale = (low * high) ** 0.5
    sure = np.median(jax.nn.softmax(logits * scale, axis=-1).max(-1))
    low, high = (low, scale) if sure > 0.9 else (scale, high)
  head = {"kernel": params["unembed"]["kernel"] * scale}
  return params | {"unembed": head}, prompt, lengths


def costs(cfg: config.ModelConfig) -> dict[str, Any]:
  """FLOPs per row for a model of this shape.

  Those of all steps of the straightforward sampler, of one step over the whole
  row, and for each cache, of one later step in the block that starts at each
  column.
  """
  model = transformer.build(cfg, cfg.vocab_size - 1)
  params = jax.eval_shape(model.init, jax.random.key(0))
  prompt = jax.ShapeDtypeStruct((1, PROMPT), "int32")
  length = jax.ShapeDtypeStruct((1,), "int32")
  columns = PROMPT + EXACT.gen_length
  kept = jax.ShapeDtypeStruct(
    (cfg.layers, 1, columns, cfg.kv_heads, cfg.head_dim), cfg.compute_dtype)

  def of_step(step):
    def program(params, prompt, length, cache):
      forward = Forward(model, params, prompt, length, 0.0)
      canvas = jnp.full((1, EXACT.gen_length), model.mask_id)
      state = steps.DecodeState(
        canvas, canvas, jnp.int32(0), jnp.ones(canvas.shape),
        jnp.zeros((*canvas.shape, 0), "int32"))
      keys = jax.random.split(jax.random.key(0), 1)
      return step(
        steps.Steps(forward, keys, length, EXACT, None, 0), state, cache)

    return flops(program, params, prompt, length, (kept, kept))

  def another(start, width):
    return of_step(lambda s, state, cache: s.next(
      state, jnp.array([start]), cache, columns=width))

  starts = range(0, EXACT.gen_length, EXACT.block_length)
  return {
    PLAIN: flops(lambda *args: straightforward(model, *args),
                 params, prompt, length),
    "whole": of_step(lambda s, state, cache: s.first(
      state, EXACT.gen_length)[0]),
    "dual": {i: another(i, EXACT.block_length) for i in starts},
    "prefix": {i: another(i, EXACT.gen_length - i) for i in starts}}


def passes(trace: np.ndarray) -> dict[int, int]:
  """Denoising steps of the batch in the block that starts at each column."""
  width = EXACT.block_length
  return {
    start: max(len(set(row[start:start + width])) for row in trace.tolist())
    for start in range(0, EXACT.gen_length, width)}


def flops_per_token(
  name: str, taken: dict[int, int], cost: dict[str, Any]
) -> float:
  """FLOPs per token of a mode whose blocks took `taken` steps."""
  if name == PLAIN:
    return cost[PLAIN] / EXACT.gen_length
  kind = MODES[name].cache
  total = sum(
    n * cost["whole"] if kind == "none"
    else cost["whole"] + (n - 1) * cost[kind][start]
    for start, n in taken.items())
  return total / EXACT.gen_length


def measure(repeats: int) -> dict[str, Any]:
  """Runs all modes in turns, `repeats` times.

  Raises:
    AssertionError: the exact mode and the straightforward sampler disagree.
  """
  model = transformer.build(SMALL, SMALL.vocab_size - 1)
  params, prompt, lengths = inputs(model)
  keys = jax.random.split(jax.random.key(2), BATCH)
  programs: dict[str, Any] = {PLAIN: jax.jit(
    lambda params: straightforward(model, params, prompt, lengths))}
  for name, sampler in MODES.items():
    programs[name] = jax.jit(lambda params, sampler=sampler: denoise.decode(
      model, params, prompt, lengths, keys, sampler=sampler))
  programs = {
    name: program.lower(params).compile() for name, program in programs.items()}
  progress.say("compiled")
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  outputs = {}
  for i in range(repeats):
    for name, program in programs.items():
      start = time.monotonic()
      outputs[name] = jax.block_until_ready(program(params))
      seconds[name].append(time.monotonic() - start)
      progress.say(f"{i + 1}/{repeats} {name}: {seconds[name][-1]:.2f} s")
  plain = outputs.pop(PLAIN)
  np.testing.assert_array_equal(plain, outputs["exact"].completion)
  taken = {name: passes(np.asarray(out.trace)) for name, out in outputs.items()}
  for name, out in outputs.items():
    assert sum(taken[name].values()) == int(out.forwards), name
  return rows_of(seconds, taken | {PLAIN: taken["exact"]})


def rows_of(
  seconds: dict[str, list[float]], taken: dict[str, dict[int, int]]
) -> dict[str, Any]:
  """Speed and FLOPs of each mode from seconds per turn and steps per block."""
  small = costs(SMALL)
  large = costs(validate.from_dict(llada_8b.base("llada_8b_sudoku")).model)
  result = {}
  for name, times in seconds.items():
    here, there, exact = (
      flops_per_token(mode, taken[mode], cost) for mode, cost in (
        (name, small), (name, large), ("exact", large)))
    result[name] = {
      "forward_passes": sum(taken[name].values()), "seconds": times,
      "tokens_per_second":
        BATCH * EXACT.gen_length / statistics.median(times),
      "speed": statistics.median(
        b / a for a, b in zip(times, seconds[PLAIN], strict=True)),
      "gflops_per_token": here / 1e9, "llada_8b_gflops_per_token": there / 1e9,
      "llada_8b_flops_to_exact": there / exact}
  return result


def table(modes: dict[str, Any]) -> str:
  """The table of `docs/models.md`."""
  lines = [
    "| mode | forward passes | speed | LLaDA-8B's GFLOPs per token "
    "| to the exact mode's |", "| --- | --- | --- | --- | --- |"]
  for name, row in modes.items():
    lines.append(
      f"| {name} | {row['forward_passes']} | {row['speed']:.1f} | "
      f"{row['llada_8b_gflops_per_token']:,.0f} | "
      f"{row['llada_8b_flops_to_exact']:.2f} |")
  return "\n".join(lines)


def plot(modes: dict[str, Any]) -> figure.Figure:
  """Speed of each mode relative to the straightforward sampler."""
  fig, (ax,) = results.page(
    "Speed of the sampler's modes: small model, random weights, 2 CPU cores",
    size=(7, 3.6))
  names = list(modes)[::-1]
  speeds = [modes[name]["speed"] for name in names]
  labels = ["baseline: straightforward" if name == PLAIN else name
            for name in names]
  bars = ax.barh(labels, speeds, color=[
    results.BASELINE if name == PLAIN else results.COLOURS[0]
    for name in names])
  ax.bar_label(bars, [f"{x:.1f}" for x in speeds], padding=3)
  ax.set_xlim(0, 1.1 * max(speeds))
  ax.set(xlabel="times as fast as the straightforward sampler")
  ax.grid(visible=False, axis="y")
  return fig


def main(argv: list[str]) -> None:
  """Measures, draws, prints the table."""
  del argv
  modes = results.obtain("sampler", lambda: {
    "command": results.command(),
    "modes": measure(flags.FLAGS.repeats)})["modes"]
  results.show("sampler", plot(modes), table(modes))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  flags.DEFINE_integer("repeats", 2, "turns of every mode", lower_bound=1)
  app.run(main)
