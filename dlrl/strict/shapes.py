"""Shapes of arguments, checked when a program is traced.

Axes are letters: n draws, b responses, t tokens, k rewards. Without a check, a
score [b] where [n, b] is meant would be broadcast or reduced to a number that
looks like a loss.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlrl import strict

_MEANING = {"n": "n draws", "b": "b responses", "t": "t tokens",
            "k": "k rewards"}
# The size of an axis, and the argument that it was read from.
Sizes = Mapping[str, tuple[Any, str]]


def require(
  function: str, known: Sizes | None = None, /, **arguments: tuple[Any, str]
) -> Sizes:
  """Checks that the arguments of a function have the axes that they should.

  Args:
    function: its name, for messages.
    known: sizes from another call, which these must agree with.
    **arguments: each an array, or None, which is not checked, and its axes:
      `nb`; `bt|nbt`, one or the other; `|b`, a scalar or [b]; `*bt`, any axes
      before these. A letter stands for the same size in all arguments.

  Returns:
    The sizes of all axes.

  Raises:
    strict.ArgumentError: an argument has other axes; names its shape and the
      one that is meant.
  """
  sizes = dict(known or {})
  for name, (array, axes) in arguments.items():
    if array is not None:
      problem = mismatch(name, array, axes, sizes)
      strict.require(not problem, f"{function}.{name}", np.shape(array),
                     problem, strict.ArgumentError)
  return sizes


def of_tokens(logps: Any) -> str:
  """The axes that arrays like `logps` have, `nbt` or `bt`."""
  return "nbt" if np.ndim(logps) == 3 else "bt"


def up_to(axes: str) -> str:
  """Axes of what is the same for all draws, or has the draws of `axes`."""
  return "|".join(dict.fromkeys(("bt", axes)))


def mismatch(
  name: str, array: Any, axes: str, sizes: dict[str, tuple[Any, str]]
) -> str:
  """Says what is wrong with the shape of an array; "" if nothing is.

  Args:
    name: of the array.
    array: of any kind that has a shape.
    axes: as in `require`.
    sizes: known so far; those of this array are added.
  """
  shape = np.shape(array)
  for form in axes.split("|"):
    letters = form.removeprefix("*")
    lead = len(shape) - len(letters)
    if lead == 0 or (lead > 0 and form != letters):
      found = dict(zip(letters, shape[lead:], strict=True))
      return _differing(
        form, found | ({"*": shape[:lead]} if form != letters else {}), name,
        sizes)
  used = dict.fromkeys(letter for letter in axes if letter in _MEANING)
  meant = ", ".join(_MEANING[letter] for letter in used)
  return (f"its shape must be {' or '.join(map(_shown, axes.split('|')))}"
          + (f": {meant}" if meant else ""))


def _differing(
  form: str, found: Mapping[str, Any], name: str,
  sizes: dict[str, tuple[Any, str]],
) -> str:
  for letter, size in found.items():
    wanted, where = sizes.setdefault(letter, (size, name))
    if wanted != size:
      axis = "..." if letter == "*" else letter
      return (f"its shape must be {_shown(form)} with {axis} = {wanted}, as in "
              f"{where}")
  return ""


def _shown(form: str) -> str:
  """Axes as people write them: `[n, b]`, and `a scalar` without any."""
  if not form:
    return "a scalar"
  return f"[{', '.join('...' if x == '*' else x for x in form)}]"
