"""Completes prompts, for interactive use and for other code bases."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.models import transformer
from dlrl.sampling import arguments
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.sampling import padding


def generate(
  model: transformer.Model, params: Any, prompts: Sequence[Sequence[int]], *,
  gen_length: int = 128, steps: int | None = None, block_length: int = 32,
  temperature: float = 0.0, cfg_scale: float = 0.0,
  remasking: str = "low_confidence",
  cache: str | None = None,
  threshold: float | None = None,
  factor: float | None = None,
  top_p: float = 1.0,
  eos: str = "free",
  eos_id: int | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Completes prompts; without a cache, exactly LLaDA's `generate`.

  Args:
    model: from `dlrl.models.load`.
    params: the model's parameters.
    prompts: b lists or arrays of token ids, of any lengths, without padding;
      ids in 0..vocab_size - 1.
    gen_length: tokens per completion.
    steps: denoising steps per completion; None: one per token. Ignored with a
      threshold or factor, which decide how many tokens a step commits.
    block_length: tokens per block; blocks are decoded from left to right.
    temperature: softmax temperature; 0 takes the likeliest tokens.
    cfg_scale: classifier-free guidance; 0 turns it off and halves the work.
    remasking: "low_confidence" (commit the most confident predictions, remask
      the others), "random", "margin", "entropy" or "left_to_right".
    cache: None, "prefix" or "dual": while a block is decoded, reuse keys and
      values of all before it, or of all but it. An approximation (Fast-dLLM).
    threshold: commit every token of at least this probability.
    factor: commit by Fast-dLLM's factor.
    top_p: sample from the likeliest tokens with this total probability.
    eos: "free"; "suppress" it; commit it "last"; or "stop" the row there.
    eos_id: the end-of-sequence token; needed unless `eos` is "free".
    seed: seed of all randomness, in 0..2^32 - 1.

  Returns:
    [b, gen_length] int32, without mask tokens.

  Raises:
    strict.ConfigError: arguments are invalid; an `ArgumentError` if one is.
  """
  problems = strict.Problems()
  sampler = arguments.sampler(
    "generate", problems, gen_length=gen_length, block_length=block_length,
    steps=1 if steps is None else steps, temperature=temperature,
    cfg_scale=cfg_scale, remasking=remasking, top_p=top_p, eos=eos,
    cache="none" if cache is None else cache,
    threshold=0 if threshold is None else threshold,
    factor=0 if factor is None else factor)
  if steps is None and sampler.gen_length > 0:
    sampler = dataclasses.replace(sampler, steps=sampler.gen_length)
  if not problems.found:
    with problems.catch():
      check.sampler(sampler, "generate", strict.ArgumentError)
  ids, keys, end = _inputs(model, prompts, seed, eos, eos_id, problems)
  return np.asarray(_decode(
    model, params, *padding.pad(ids), keys, sampler=sampler, eos_id=end
  ).completion)


def _inputs(
  model: transformer.Model, prompts: object, seed: object, eos: str,
  eos_id: object, problems: strict.Problems,
) -> tuple[list[list[int]], jax.Array, int | None]:
  """Returns the prompts, a key for each, and the end; raises all problems."""
  rows, number, end = [], 0, None
  size = model.cfg.vocab_size
  problems.require(model.cfg.block_length == 0, "generate.model", model.cfg,
                   transformer.BLOCKS_ONLY, strict.ArgumentError)
  with problems.catch():
    rows = arguments.prompts(prompts, size, "generate.prompts")
  with problems.catch():
    number = arguments.integer(seed, "generate.seed", 0, arguments.MAX_SEED)
  with problems.catch():
    if eos_id is not None:
      end = arguments.integer(eos_id, "generate.eos_id", 0, size - 1)
    require = functools.partial(strict.require, error=strict.ArgumentError)
    require(end is not None or eos == "free", "generate.eos_id", eos_id,
            f"is needed for eos={eos!r}")
    require(end != model.mask_id, "generate.eos_id", eos_id,
            "is the mask token, which no completion contains")
  problems.finish()
  key = keys_lib.of(jax.random.key(number), keys_lib.Seed.GENERATION)
  return rows, jax.random.split(key, len(rows)), end


_decode = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_id"))(denoise.decode)
