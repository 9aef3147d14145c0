"""Cost of an update of a block-diffusion model: one row twice, or two streams.

    python -m benchmarks.block_cost --out=benchmarks/results

*joint* is the published pass over [noisy | clean], prompt included, for each
draw. *two streams* computes the clean row once, and the noisy completion for
each draw; *shared* computes the prompt once for 8 completions as well. FLOPs
are those of products, of forward and backward passes without recomputation,
counted for SDAR-8B, prompts of 512 and completions of 2,048 tokens. Memory is
XLA's plan for a small shape on the CPU. Nothing runs. Writes `block_cost.json`
and `block_cost.png`; about two minutes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app
from absl import flags
from matplotlib import figure

from benchmarks import results
from dlrl import config
from dlrl import scoring
from dlrl import update
from dlrl import validate
from dlrl.costs.flops import flops
from dlrl.diffusion import montecarlo
from dlrl.diffusion import token_logps
from dlrl.models import transformer
from dlrl.presets import sdar

NS = (1, 4, 16, 64)
GROUP = 8
PROMPT, COMPLETION = 512, 2048
SMALL = config.ModelConfig(
  width=128, layers=4, heads=4, kv_heads=2, head_dim=32, mlp_width=384,
  vocab_size=512, qk_norm=True, block_length=4)
SMALL_PROMPT, SMALL_COMPLETION = 64, 256
Gradient = Callable[[Any, scoring.Batch], Any]


def batch(p: int, t: int) -> scoring.Batch:
  """A group of completions, all of them whole."""
  prompt = jnp.zeros((GROUP, p), jnp.int32)
  return scoring.Batch(
    prompt=prompt, prompt_length=jnp.full(GROUP, p, jnp.int32),
    completion=jnp.zeros((GROUP, t), jnp.int32),
    maskable=jnp.ones((GROUP, t), bool), advantage=jnp.ones(GROUP),
    keys=jax.random.split(jax.random.key(0), GROUP))


def joint(model: transformer.Model, n: int) -> Gradient:
  """Gradients of n draws, each a pass over clean and noisy rows."""
  def term(params: Any, j: jax.Array, rows: scoring.Batch
           ) -> tuple[jax.Array, None]:
    ids = jnp.concatenate([rows.prompt, rows.completion], 1)
    p, lengths = rows.prompt.shape[1], jnp.full(GROUP, ids.shape[1])
    noisy = ids.at[:, p + j].set(model.mask_id)
    hidden = model.noisy_stream(
      params, noisy, jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape),
      lengths, model.clean_stream(params, ids, lengths))
    logps, _ = token_logps.token_logps(
      hidden[:, p:], model.unembed(params), rows.completion, rows.maskable,
      chunk=64)
    return jnp.sum(logps), None

  def gradient(params: Any, rows: scoring.Batch) -> Any:
    return montecarlo.separable_value_and_grad(
      lambda params, j: term(params, j, rows), params, n)

  return gradient


def two_streams(model: transformer.Model, n: int, group: int) -> Gradient:
  """Gradients of BGPO's loss as a run computes them."""
  learn = config.LearnConfig(
    forward_process="block_stratified", n_mc=n, micro_batch=GROUP,
    logps_chunk=512)
  return functools.partial(update.batch_grads, model, learn, group=group)


def measure() -> dict[str, Any]:
  """TFLOPs per completion and MiB of temporaries, by way and draws."""
  cfg = validate.from_dict(sdar.base("sdar_8b_math")).model
  big, small = (transformer.build(dataclasses.replace(
    shape, attention="xla", remat=remat), 2)
    for shape, remat in ((cfg, "none"), (SMALL, "full")))
  shapes = (jax.eval_shape(big.init, jax.random.key(0)),
            jax.eval_shape(lambda: batch(PROMPT, COMPLETION)))
  small_shapes = (
    jax.eval_shape(small.init, jax.random.key(0)),
    jax.eval_shape(lambda: batch(SMALL_PROMPT, SMALL_COMPLETION)))
  ways: dict[str, Callable[[transformer.Model, int], Gradient]] = {
    "joint": joint,
    "two streams": functools.partial(two_streams, group=1),
    "two streams, shared prompts": functools.partial(
      two_streams, group=GROUP)}
  return {"command": results.command(), "ways": {
    name: {str(n): {
      "tflops": flops(way(big, n), *shapes) / GROUP / 1e12,
      "mib": temporaries(way(small, n), *small_shapes) / 2**20}
      for n in NS}
    for name, way in ways.items()}}


def temporaries(function: Gradient, *shapes: Any) -> int:
  """Bytes of temporaries in XLA's plan."""
  memory = jax.jit(function).lower(*shapes).compile().memory_analysis()
  assert memory is not None  # as on some platforms; not on the CPU
  return memory.temp_size_in_bytes


def plot(result: dict[str, Any]) -> figure.Figure:
  """FLOPs and memory over draws, a line per way."""
  fig, (left, right) = results.page(
    "An update of a block-diffusion model, by number of draws",
    columns=2, size=(8, 3.8))
  for i, (name, rows) in enumerate(result["ways"].items()):
    look: dict[str, Any] = dict(
      color=results.BASELINE if name == "joint" else results.COLOURS[i],
      ls="--" if name.endswith("prompts") else "-", marker="o", ms=4,
      label=name)
    for ax, key in ((left, "tflops"), (right, "mib")):
      ax.plot([int(n) for n in rows], [row[key] for row in rows.values()],
              **look)
  results.ticks(left, x=NS, y=(200, 500, 1000, 2000, 5000, 10000))
  results.ticks(right, x=NS)
  right.set_ylim(0, 1.1 * right.dataLim.ymax)
  left.set(xlabel="draws per completion", title="SDAR-8B", ylabel=(
    "TFLOPs per completion"))
  right.set(xlabel="draws per completion", title="Small shape, CPU",
            ylabel="temporaries (MiB)")
  left.legend(frameon=False, fontsize=9)
  return fig


def table(result: dict[str, Any]) -> str:
  """One line per way and figure."""
  return "\n".join(
    f"{name:28} {key:6}" + "".join(
      f" {n}:{row[key]:,.0f}" for n, row in rows.items())
    for key in ("tflops", "mib") for name, rows in result["ways"].items())


def main(argv: list[str]) -> None:
  """Counts, draws, prints."""
  del argv
  result = results.obtain("block_cost", measure)
  results.show("block_cost", plot(result), table(result))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  app.run(main)
