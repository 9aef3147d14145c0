"""The table of all random keys and their purposes.

`fold_in(key, i)` and `split(key, n)[i]` are the same key. So every key has one
use: numbers are drawn from it, or it has a child per purpose, or a child per
index (step, row, draw), and then it may have purposes as well, which count down
from the largest number that can be folded in. No two uses share a key, and no
index comes near the purposes.

    seed
      PARAMS, ADAPTERS              of a run that starts from random ones
      FINE_TUNING > step > row      a draw of the forward process
      RL > step
        SAMPLE > row
          denoising step            the noise on the logits
          ORDER > denoising step    random remasking
        DRAWS > row (> epoch, if there are several)
          draw; LEVEL, CIRCLE       masks, see `dlrl.diffusion.forward_process`
          PROMPT > draw             the prompt's tokens that are hidden
          TOKENS > draw > 0, 1      visible tokens that are replaced; by what
          BLOCKS > block            of block-diffusion models; then as of a row
        PRIOR > prompt
          MEMORY, TEMPLATE          their tokens that are masked again
        MISMATCH > row              the token whose KL is measured
      RESAMPLING > round            a seed's key of a further rollout of a step
      EVALUATION > sample > item    `dlrl.evaluate`; then as of SAMPLE > row
      GENERATION > row              `generate` and `chat`; the same
    0, whatever the seed
      VALIDATION, TEST > item       evaluations during a run; the same
"""

import enum

import jax

_LAST = 2**32 - 1  # the largest number that can be folded in


class Seed(enum.IntEnum):
  """Purposes of a seed's key."""

  PARAMS = 0  # beside no index; seeds keep the parameters that they had
  ADAPTERS = _LAST
  FINE_TUNING = _LAST - 1
  RL = _LAST - 2
  EVALUATION = _LAST - 3
  GENERATION = _LAST - 4
  VALIDATION = _LAST - 5
  TEST = _LAST - 6
  RESAMPLING = _LAST - 7


class Step(enum.IntEnum):
  """Purposes of the key of an RL step, which has no indices."""

  SAMPLE = 0
  DRAWS = 1
  PRIOR = 2
  MISMATCH = 3


class Prior(enum.IntEnum):
  """Purposes of a prompt's key for its canvas, which has no indices."""

  MEMORY = 0
  TEMPLATE = 1


class Sample(enum.IntEnum):
  """Purposes of a completion's key beside its denoising steps."""

  ORDER = _LAST


class Draws(enum.IntEnum):
  """Purposes of a completion's key beside its draws."""

  PROMPT = _LAST
  BLOCKS = _LAST - 1
  TOKENS = _LAST - 2


def of(key: jax.Array, purpose: enum.IntEnum) -> jax.Array:
  """The key for `purpose`, of those of `key` in the table."""
  return jax.random.fold_in(key, int(purpose))


def level(key: jax.Array, n: int) -> jax.Array:
  """LEVEL: what the noise levels of all n draws of a completion share."""
  return jax.random.fold_in(key, n)  # draws are 0..n-1


def circle(key: jax.Array, n: int) -> jax.Array:
  """CIRCLE: the order of a completion's tokens that n masks share."""
  return jax.random.fold_in(key, n + 1)
