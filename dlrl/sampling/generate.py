"""Completes prompts, for interactive use and for other code bases."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import config
from dlrl import strict
from dlrl.models import transformer
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
    prompts: b lists of token ids, of any lengths, without padding.
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
    seed: seed of all randomness.

  Returns:
    [b, gen_length] int32, without mask tokens.

  Raises:
    strict.ArgumentError: an argument is invalid.
  """
  sampler = config.SamplerConfig(
    gen_length=gen_length, block_length=block_length,
    steps=gen_length if steps is None else steps, temperature=temperature,
    cfg_scale=cfg_scale, remasking=remasking, cache=cache or "none",
    threshold=threshold or 0.0, factor=factor or 0.0, top_p=top_p, eos=eos)
  check.sampler(sampler, "generate", strict.ArgumentError)
  _require(eos == "free" or eos_id is not None, "generate.eos_id", eos_id,
           f"is needed for eos={eos!r}")
  _require(len(prompts) > 0, "generate.prompts", prompts,
           "must contain at least one prompt")
  ids, lengths = padding.pad(prompts)
  keys = jax.random.split(jax.random.key(seed), len(prompts))
  return np.asarray(_decode(
    model, params, ids, lengths, keys, sampler=sampler, eos_id=eos_id
  ).completion)


_require = functools.partial(strict.require, error=strict.ArgumentError)
_decode = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_id"))(denoise.decode)
