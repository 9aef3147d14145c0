"""Completes prompts, for interactive use and for other code bases."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.models import transformer
from dlrl.sampling import arguments
from dlrl.sampling import block_decode
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.sampling import padding

ALIASES = {"sequential": "left_to_right"}  # SDAR's name of a rule


def generate(
  model: transformer.Model, params: Any, prompts: Sequence[Sequence[int]], *,
  gen_length: int = 128, steps: int | None = None, slots: int = 0,
  steps_per_block: int | None = None, block_length: int | None = None,
  temperature: float = 0.0, cfg_scale: float = 0.0, max_post_edit: int = 16,
  remasking: str = "low_confidence", cache: str | None = None,
  threshold: float | None = None, factor: float | None = None,
  top_p: float = 1.0, top_k: int = 0, edit_threshold: float | None = None,
  eos: str = "free", eos_id: int | Sequence[int] | None = None, seed: int = 0,
) -> np.ndarray:
  """Completes prompts as LLaDA's `generate` or SDAR's does.

  Args:
    model: from `dlrl.models.load`.
    params: the model's parameters.
    prompts: b lists or arrays of token ids, of any lengths, without padding;
      ids in 0..vocab_size - 1.
    gen_length: tokens per completion.
    steps: denoising steps per completion; None: one per token. Ignored with a
      threshold or factor. For full attention.
    steps_per_block: the same of a block. For block diffusion.
    block_length: tokens per block; blocks are decoded from left to right. None:
      32, or that of the model if it has blocks.
    temperature: softmax temperature; 0 takes the likeliest tokens.
    cfg_scale: classifier-free guidance; 0 turns it off and halves the work.
    remasking: "low_confidence" (commit the most confident predictions, remask
      the others), "random", "margin", "entropy" or "left_to_right", also called
      "sequential".
    cache: None, "prefix" or "dual": while a block is decoded, reuse keys and
      values of all before it, or of all but it. An approximation (Fast-dLLM).
    threshold: commit every token of at least this probability. For block
      diffusion, above it, or as many as without a threshold if these are more.
    factor: commit by Fast-dLLM's factor.
    edit_threshold: for block diffusion, replace committed tokens of the block
      whose prediction differs with more than this probability (LLaDA2.1).
    max_post_edit: most passes of a block for these edits alone.
    top_p: sample from the likeliest tokens with this total probability.
    top_k: sample from this number of likeliest tokens; 0: from all.
    eos: "free"; "suppress" it; commit it "last"; or "stop" the row there.
    eos_id: the end-of-sequence token; needed unless `eos` is "free". For block
      diffusion one or several, and a row ends after a block with one.
    seed: seed of all randomness, in 0..2^32 - 1.
    slots: rows decoded at a time, the next one in the place of one that has
      ended; 0: all at once. Changes no token.

  Returns:
    [b, gen_length] int32, without mask tokens.

  Raises:
    strict.ConfigError: arguments are invalid; an `ArgumentError` if one is.
  """
  problems = strict.Problems()
  sampler = _sampler(
    model.cfg.block_length, steps, steps_per_block, problems,
    gen_length=gen_length, block_length=block_length, temperature=temperature,
    cfg_scale=cfg_scale, remasking=remasking, cache=cache, threshold=threshold,
    factor=factor, edit_threshold=edit_threshold,
    max_post_edit=max_post_edit, top_k=top_k, top_p=top_p, eos=eos, slots=slots)
  rows, keys, ends = _inputs(model, prompts, seed, eos, eos_id, problems)
  return _completions(model, params, rows, keys, sampler, ends, gen_length)


def _sampler(
  size: int, steps: object, steps_per_block: object, problems: strict.Problems,
  **values: Any,
) -> config.SamplerConfig:
  """Makes the settings for a model with blocks of `size`; 0: without."""
  missing = {"block_length": size or 32, "cache": "none", "threshold": 0,
             "factor": 0, "edit_threshold": 1}
  values |= {k: v for k, v in missing.items() if values[k] is None}
  values["remasking"] = ALIASES.get(
    str(values["remasking"]), values["remasking"])
  sampler = arguments.sampler(
    "generate", problems, steps=1 if steps is None else steps, **values)
  if size:
    with problems.catch():
      sampler = _whole_blocks(sampler, size, steps, steps_per_block)
  else:
    problems.require(
      steps_per_block is None, "generate.steps_per_block", steps_per_block,
      "is for block diffusion; pass steps, those of the whole completion",
      strict.ArgumentError)
    if steps is None and sampler.gen_length > 0:
      sampler = dataclasses.replace(sampler, steps=sampler.gen_length)
  if not problems.found:
    with problems.catch():
      check.sampler(sampler, "generate", strict.ArgumentError, size)
  return sampler


def _completions(
  model: transformer.Model, params: Any, prompts: list[list[int]],
  keys: jax.Array, sampler: config.SamplerConfig, ends: tuple[int, ...],
  gen_length: int,
) -> np.ndarray:
  rows, lengths = padding.pad(prompts)
  size = model.cfg.block_length
  if not size:
    return np.asarray(_decode(
      model, params, rows, lengths, keys, sampler=sampler,
      eos_id=ends[0] if ends else None).completion)
  # Whole blocks, as in the published loop: a block's last tokens matter to its
  # others even where they are cut off.
  decoded = _decode_blocks(
    model, params, rows, lengths, keys, sampler=sampler, eos_ids=ends,
    lengths=-(-(lengths + gen_length) // size) * size)
  return np.asarray(decoded.completion)[:, :gen_length]


def _whole_blocks(
  sampler: config.SamplerConfig, size: int, steps: object,
  steps_per_block: object,
) -> config.SamplerConfig:
  """With a length of whole blocks of `size`, and its steps."""
  strict.require(
    steps is None, "generate.steps", steps, "is for models with full "
    f"attention; pass steps_per_block, of each block of {size} tokens",
    strict.ArgumentError)
  each = size if steps_per_block is None else arguments.integer(
    steps_per_block, "generate.steps_per_block", 1, size,
    f"must be in 1..{size}, the tokens of a block")
  blocks = -(-sampler.gen_length // size)
  if blocks < 1:  # which `check.sampler` refuses
    return sampler
  return dataclasses.replace(
    sampler, gen_length=blocks * size, steps=blocks * each)


def _inputs(
  model: transformer.Model, prompts: object, seed: object, eos: str,
  eos_id: object, problems: strict.Problems,
) -> tuple[list[list[int]], jax.Array, tuple[int, ...]]:
  """Returns the prompts, a key for each, and the ends; raises all problems."""
  rows: list[list[int]] = []
  number, ends = 0, tuple[int, ...]()
  size = model.cfg.vocab_size
  with problems.catch():
    rows = arguments.prompts(prompts, size, "generate.prompts")
  with problems.catch():
    number = arguments.integer(seed, "generate.seed", 0, arguments.MAX_SEED)
  with problems.catch():
    if eos_id is not None:
      ends = arguments.ids(eos_id, size, "generate.eos_id")
    require = functools.partial(strict.require, error=strict.ArgumentError)
    require(bool(ends) or eos == "free", "generate.eos_id", eos_id,
            f"is needed for eos={eos!r}")
    require(model.mask_id not in ends, "generate.eos_id", eos_id,
            "is the mask token, which no completion contains")
    require(len(ends) < 2 or model.cfg.block_length > 0, "generate.eos_id",
            eos_id, "must be a single id for a model with full attention")
  problems.finish()
  key = keys_lib.of(jax.random.key(number), keys_lib.Seed.GENERATION)
  return rows, jax.random.split(key, len(rows)), ends


_decode = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_id"))(denoise.decode)
_decode_blocks = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_ids"))(block_decode.decode)
