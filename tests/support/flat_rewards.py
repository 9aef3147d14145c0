"""A reward that teaches nothing about half of the examples."""

import zlib


def flat_if_odd(prompts, completions, *, index, **columns):
  """0.5 for an odd index, else a number in 0..1 that differs between texts."""
  return [0.5 if i % 2 else zlib.crc32(text.encode()) / 2**32
          for text, i in zip(completions, index, strict=True)]
