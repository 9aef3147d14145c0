"""Arguments of functions that other programs call: converted, or refused.

Numbers may be NumPy's or JAX's scalars. Text, booleans and fractions are never
taken for ids or counts.
"""

import functools
import operator
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl import strict

MAX_SEED = 2**32 - 1  # JAX takes a seed modulo 2**32
_ENCODE = "encode texts first: hf_tokenizer.load(directory).prompt(text)"


def sampler(name: str, problems: strict.Problems, **values: Any
            ) -> config.SamplerConfig:
  """Makes a sampler's settings of arguments.

  Args:
    name: the function, for messages.
    problems: where errors go; a setting that has one gets its default.
    **values: fields of `config.SamplerConfig`. Their bounds are not checked.
  """
  kinds = typing.get_type_hints(config.SamplerConfig)
  known = {}
  for field, value in values.items():
    with problems.catch():
      known[field] = _CONVERT[kinds[field]](value, f"{name}.{field}")
  return config.SamplerConfig(**known)


def integer(value: object, field: str, low: int, high: int, fix: str = ""
            ) -> int:
  """Returns an integer in `low`..`high`.

  Raises:
    strict.ArgumentError: the value is another, or no integer. `fix` says what
      it must be, by default the range.
  """
  number = _index(value, field)
  _require(low <= number <= high, field, value,
           fix or f"must be in {low}..{high}")
  return number


def prompts(value: object, vocab_size: int, field: str) -> list[list[int]]:
  """Returns prompts as lists of token ids in 0..`vocab_size` - 1.

  Args:
    value: lists or arrays of integers, or one array [b, p].
    vocab_size: rows of the model's embedding.
    field: the argument, for messages.

  Raises:
    strict.ArgumentError: there is none; or one is not such a list. Names the
      first place that is wrong.
  """
  rows = [_ids(prompt, vocab_size, f"{field}[{i}]")
          for i, prompt in enumerate(_items(
            value, field, "must be a list of prompts, each a list of ids"))]
  _require(bool(rows), field, value, "must contain at least one prompt")
  return rows


def ids(value: object, vocab_size: int, field: str) -> tuple[int, ...]:
  """Returns one or several token ids in 0..`vocab_size` - 1, each once.

  Raises:
    strict.ArgumentError: the value is neither an integer nor a list of some.
  """
  if (isinstance(value, str | bytes) or not isinstance(value, Iterable)
      or getattr(value, "ndim", 1) == 0):
    return (integer(value, field, 0, vocab_size - 1),)
  found = [integer(item, f"{field}[{i}]", 0, vocab_size - 1)
           for i, item in enumerate(_items(
             value, field, "must be a token id or a list of ids"))]
  _require(bool(found), field, value, "must contain at least one id")
  return tuple(dict.fromkeys(found))


def _ids(prompt: object, vocab_size: int, field: str) -> list[int]:
  tokens = _items(prompt, field, "must be a list of token ids; put a single "
                  "prompt into a list: [[1, 2, 3]]")
  fix = f"must be in 0..{vocab_size - 1}, the ids of the model's vocabulary"
  return [integer(token, f"{field}[{i}]", 0, vocab_size - 1, fix)
          for i, token in enumerate(tokens)]


def _items(value: Any, field: str, fix: str) -> list[Any]:
  _require(not isinstance(value, str | bytes), field, value, _ENCODE)
  if hasattr(value, "tolist"):  # faster than element by element
    value = value.tolist()
  _require(isinstance(value, Iterable) and not isinstance(
    value, Mapping | set | frozenset), field, value, fix)
  return list(value)


def _index(value: Any, field: str) -> int:
  try:
    # Booleans are integers to Python, and a flag is never a count or an id.
    if not isinstance(value, bool | np.bool_):
      return operator.index(value)
  except TypeError:
    pass
  raise strict.ArgumentError(field, value, "must be an integer")


def _number(value: Any, field: str) -> float:
  try:
    array = np.asarray(value)
    if array.ndim == 0 and (jnp.issubdtype(array.dtype, jnp.floating)
                            or jnp.issubdtype(array.dtype, jnp.integer)):
      return float(array)
  except (TypeError, ValueError):  # a ragged list, or traced by JAX
    pass
  raise strict.ArgumentError(field, value, "must be a number")


def _text(value: Any, field: str) -> str:
  _require(isinstance(value, str), field, value, "must be a text")
  return str(value)


_require: Callable[..., None] = functools.partial(
  strict.require, error=strict.ArgumentError)
_CONVERT: Mapping[type, Callable[[Any, str], Any]] = {
  int: _index, float: _number, str: _text}
