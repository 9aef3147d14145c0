"""Completions of prompts, for interactive use and other code bases."""

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
  model: transformer.Model,
  params: Any,
  prompts: Sequence[Sequence[int]],
  *,
  gen_length: int = 128,
  steps: int | None = None,
  block_length: int = 32,
  temperature: float = 0.0,
  cfg_scale: float = 0.0,
  remasking: str = "low_confidence",
  cache: str | None = None,
  threshold: float | None = None,
  factor: float | None = None,
  top_p: float = 1.0,
  eos: str = "free",
  eos_id: int | None = None,
  seed: int = 0,
) -> np.ndarray:
  """Completions [b, gen_length] int32; without a cache, LLaDA's `generate`.

  Args:
    model: from `dlrl.models.load`.
    params: of the model.
    prompts: b lists of token ids, of any lengths, without padding.
    gen_length: tokens of a completion.
    steps: denoising steps of the whole completion; None: one per token. Without
      effect where a threshold or factor says how many tokens are committed.
    block_length: tokens; blocks are decoded from left to right.
    temperature: of the fp32 Gumbel noise; 0 takes the likeliest token.
    cfg_scale: of classifier-free guidance; 0 is none and half the work.
    remasking: which predictions are committed: low_confidence, random, margin,
      entropy or left_to_right.
    cache: None, "prefix" or "dual": keep keys and values of what comes before
      the block, or of all but the block, while it is decoded (Fast-dLLM). A
      close approximation, not the exact sampler.
    threshold: commit every token of at least this probability.
    factor: commit by Fast-dLLM's factor.
    top_p: share of the probability that is sampled from.
    eos: "free"; "suppress" it; commit it "last"; or "stop", which fills a row
      once its text has ended.
    eos_id: for the options of `eos`.
    seed: of everything random.

  Raises:
    strict.ConfigError: settings that do not fit each other; names the argument.
  """
  sampler = config.SamplerConfig(
    gen_length=gen_length, block_length=block_length,
    steps=gen_length if steps is None else steps, temperature=temperature,
    cfg_scale=cfg_scale, remasking=remasking, cache=cache or "none",
    threshold=threshold or 0.0, factor=factor or 0.0, top_p=top_p, eos=eos)
  check.sampler(sampler, "generate")
  strict.require(
    eos == "free" or eos_id is not None, "generate.eos_id", eos_id,
    f"is needed for eos = {eos!r}")
  strict.require(
    len(prompts) > 0, "generate.prompts", prompts, "there is none")
  ids, lengths = padding.pad(prompts)
  keys = jax.random.split(jax.random.key(seed), len(prompts))
  return np.asarray(_decode(
    model, params, ids, lengths, keys, sampler=sampler, eos_id=eos_id
  ).completion)


_decode = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_id"))(denoise.decode)
