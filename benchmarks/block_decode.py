"""Forward passes of continuous batching against those that the rows need.

    python -m benchmarks.block_decode --out=benchmarks/results

A row of a block-diffusion model needs as many forward passes as it takes
denoising steps. A batch of `slots` rows at a time computes all slots in each
pass, also those whose queue is empty. The ratio of passes x slots to the sum of
all rows' steps is what this costs; at 1, no slot ever idles. It depends on how
much the rows' steps differ, thus on the model.

By default the model is a tiny one with random weights, whose head is scaled
until half of its predictions on masks have a probability of 0.9. With
`--workdir=DIR` it is the policy of a run with `model.block_length`, on training
prompts. Writes `block_decode.json` and prints a table; about a minute on 2 CPU
cores.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags

from benchmarks import results
from benchmarks import sampler as sampler_benchmark
from dlrl import config
from dlrl import data
from dlrl import rollout
from dlrl import validate
from dlrl.models import transformer
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.sampling import block_decode

SLOTS = (8, 16, 32, 64, 128)
ROWS, PROMPT, BLOCK, GEN = 128, 24, 4, 128
THRESHOLD = 0.9
TINY = config.ModelConfig(
  vocab_size=64, width=64, layers=2, heads=4, kv_heads=2, head_dim=16,
  mlp_width=128, qk_norm=True, block_length=BLOCK, remat="none")
SAMPLER = config.SamplerConfig(
  gen_length=GEN, block_length=BLOCK, steps=GEN, threshold=THRESHOLD,
  temperature=1.0)


@dataclasses.dataclass(frozen=True)
class Case:
  """A model, and the prompts and settings with which it decodes."""

  model: transformer.Model
  params: Any
  prompt: jax.Array
  prompt_length: jax.Array
  sampler: config.SamplerConfig
  ends: tuple[int, ...]


def synthetic() -> Case:
  """A model with random weights, of which some predictions are confident."""
  model = transformer.build(TINY, TINY.vocab_size - 1)
  params = sampler_benchmark.random_params(model)
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, TINY.vocab_size - 1, (ROWS, PROMPT))
  length = rng.integers(PROMPT // 2, PROMPT + 1, ROWS)
  masked = jnp.asarray(np.pad(
    prompt, ((0, 0), (0, BLOCK)), constant_values=model.mask_id))
  logits = model.noisy_logits(params, masked, masked)[:, -BLOCK:]
  logits = logits.at[:, :, model.mask_id].set(-jnp.inf)
  low, high = 1.0, 1000.0  # bisects the head's scale
  for _ in range(30):
    scale = (low * high) ** 0.5
    sure = np.median(jax.nn.softmax(logits * scale, axis=-1).max(-1))
    low, high = (low, scale) if sure > THRESHOLD else (scale, high)
  head = {"kernel": params["unembed"]["kernel"] * scale}
  return Case(model, params | {"unembed": head}, jnp.asarray(prompt, jnp.int32),
              jnp.asarray(length, jnp.int32), SAMPLER, (0, 1))


def of_run(workdir: str) -> Case:
  """The policy that a run has trained, on its training prompts."""
  setup = setup_lib.make(
    validate.from_dict(saved_params.settings(workdir)))
  params, _ = saved_params.policy(setup, workdir, "latest")
  rows = data.eval_rows(
    rollout.examples(setup), setup.tokenizer, setup.prompt, items=ROWS,
    prompt_length=setup.cfg.task.prompt_length)
  sampler = dataclasses.replace(
    setup.cfg.rollout.sampler, threshold=THRESHOLD,
    remasking="low_confidence", steps=setup.cfg.rollout.sampler.gen_length)
  return Case(
    setup.model, params, jnp.asarray(rows["prompt_ids"]),
    jnp.asarray(rows["prompt_length"]), sampler, tuple(setup.tokenizer.ends))


def measure(case: Case, slots: Sequence[int]) -> dict[str, dict[str, float]]:
  """Forward passes, steps that rows need, and their ratio, by slots.

  Raises:
    AssertionError: completions depend on the slots.
  """
  rows = len(case.prompt)
  keys = jax.random.split(jax.random.key(1), rows)
  result, first = {}, None
  for n in slots:
    program = jax.jit(functools.partial(
      block_decode.decode, case.model, eos_ids=case.ends,
      sampler=dataclasses.replace(case.sampler, slots=n)))
    got = program(case.params, case.prompt, case.prompt_length, keys)
    first = got if first is None else first
    np.testing.assert_array_equal(got.completion, first.completion)
    needed, tokens = np.asarray(got.taken), np.asarray(got.trace >= 0).sum()
    spent = int(got.forwards) * min(n, rows)
    result[str(n)] = {
      "forwards": int(got.forwards), "spent": spent,
      "needed": int(needed.sum()), "ratio": spent / int(needed.sum()),
      "least": int(needed.min()), "most": int(needed.max()),
      "tokens_per_step": float(tokens / needed.sum())}
  return result


def table(result: dict[str, dict[str, float]]) -> str:
  """The result as a table."""
  lines = ["| slots | forward passes | passes x slots | needed | ratio |",
           "| --- | --- | --- | --- | --- |"]
  lines += [
    f"| {n} | {row['forwards']} | {row['spent']} | {row['needed']} | "
    f"{row['ratio']:.3f} |" for n, row in result.items()]
  return "\n".join(lines)


def main(args: list[str]) -> None:
  """Measures or reads, and prints the table."""
  del args
  options = flags.FLAGS

  def measured() -> Any:
    case = of_run(options.workdir) if options.workdir else synthetic()
    return {"command": results.command(), "slots": measure(case, SLOTS)}

  print(table(results.obtain("block_decode", measured)["slots"]), flush=True)


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "", "a run, whose policy is decoded")
  app.run(main)
