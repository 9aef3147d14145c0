"""Parts of a program that leave shardings to the compiler."""

from collections.abc import Callable
from typing import Any
from typing import TypeVar

import jax
from jax.sharding import NamedSharding

_Function = TypeVar("_Function", bound=Callable[..., Any])


def inside(function: _Function, of: jax.Array, results: Any) -> _Function:
  """`function`, with Auto axes if the mesh of its arguments has Explicit ones.

  On an Explicit mesh every array needs a sharding that follows from those of
  its sources. Sorted, cut and scattered ones have none.

  Args:
    function: takes and returns trees of arrays.
    of: the argument whose mesh it is.
    results: arrays with the shardings of what `function` returns, or a prefix
      of that tree.
  """
  mesh = jax.typeof(of).sharding.mesh
  if not mesh.explicit_axes:
    return function
  shardings = jax.tree.map(
    lambda x: NamedSharding(mesh, jax.typeof(x).sharding.spec), results)
  out: _Function = jax.sharding.auto_axes(
    function, axes=mesh.explicit_axes, out_sharding=shardings)
  return out
