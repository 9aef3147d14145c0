"""Checkpoints of a run: parameters, optimizer, step, keys and data iterator.

One checkpoint is one directory, named by its step, that appears under its name
only when complete. What a killed process leaves is ignored, and removed when
the directory is opened next.
"""

import hashlib
import os
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

_policies = ocp.training.preservation_policies
_decisions = ocp.training.save_decision_policies


class Checkpoints:
  """The checkpoints in one directory; saving goes on in the background.

  Every process of a job opens it and makes the same calls.

  Args:
    directory: created if absent; nobody else saves there.
    keep: how many of the newest checkpoints stay.
  """

  def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
    self._manager = ocp.training.Checkpointer(
      epath.Path(directory).expanduser().resolve(),
      # The caller decides when; Orbax by itself would skip a save while busy.
      save_decision_policy=_decisions.FixedIntervalPolicy(1),
      preservation_policy=_policies.LatestN(keep),
      cleanup_tmp_directories=True,
    )

  @property
  def latest(self) -> int | None:
    """The step of the newest checkpoint, after waiting for it."""
    self.wait()  # Orbax lists a checkpoint from the moment it is begun
    newest = self._manager.latest
    return None if newest is None else newest.step

  def save(self, step: int, state: Any, iterator: Any,
           meta: dict[str, Any]) -> None:
    """Begins a checkpoint; `wait`, `close` or another `save` completes it.

    State and iterator may move on, and buffers be donated, as soon as this
    returns. An older checkpoint is removed only after this one is complete.

    Args:
      step: names it.
      state: a dict, dataclass or named tuple of trees of arrays, one of them
        `params` for `load_params`. What is None is left out, so that a field
        can be added later.
      iterator: a Grain `DatasetIterator`.
      meta: JSON.

    Raises:
      FileExistsError: there is a checkpoint of this step.
    """
    self._manager.wait()
    self._manager.save_checkpointables_async(
      step, {"state": _present(state), "iterator": iterator},
      custom_metadata=meta, force=True)

  def restore_latest(
    self, abstract_state: Any, iterator: Any,
  ) -> tuple[Any, dict[str, Any], int] | None:
    """`(state, meta, step)` of the newest checkpoint, or None without one.

    Args:
      abstract_state: `ShapeDtypeStruct`s with the shardings wanted, whatever
        the mesh at the time of saving.
      iterator: of the same dataset; is set to the saved position.

    Raises:
      ValueError: leaves differ; lists their names, shapes and types.
    """
    step = self.latest
    if step is None:
      return None
    path = self._manager.directory / str(step)
    saved = ocp.metadata(path, "state")
    _check(path, saved.metadata, abstract_state, exact=True)
    loaded = self._manager.load_checkpointables(
      step, {"state": _present(abstract_state), "iterator": iterator})
    state = type(abstract_state)(**_fields(abstract_state) | loaded["state"])
    return state, saved.custom_metadata, step

  def wait(self) -> None:
    """Returns when every checkpoint begun is complete; raises if one failed."""
    self._manager.wait()

  def close(self) -> None:
    """Waits, then releases threads."""
    self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def load_params(directory: str | os.PathLike[str], abstract_params: Any, *,
                step: int | None = None) -> Any:
  """The parameters in a checkpoint, and nothing else of it.

  Args:
    directory: as given to `Checkpoints`; nothing is written there.
    abstract_params: `ShapeDtypeStruct`s as wanted, or a subtree of them.
    step: of the checkpoint; None: the newest.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: leaves differ; lists their names and shapes.
  """
  path, wanted = _path(directory, step), {"params": abstract_params}
  _check(path, ocp.metadata(path, "state").metadata, wanted, exact=False)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load(path, wanted, checkpointable_name="state")["params"]


def load_meta(directory: str | os.PathLike[str], *, step: int | None = None
              ) -> dict[str, Any]:
  """What was given to `save` as `meta` of a checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  return ocp.metadata(_path(directory, step), "state").custom_metadata


def steps(directory: str | os.PathLike[str]) -> list[int]:
  """The steps of all complete checkpoints, ascending; nothing is written."""
  root = epath.Path(directory).expanduser().resolve()
  if not root.is_dir():  # which the checkpointer would create
    return []
  with ocp.training.Checkpointer(root) as manager:
    return sorted(found.step for found in manager.checkpoints)


def fingerprint(tree: Any) -> str:
  """Twelve hex digits that identify arrays to the bit, on whatever mesh.

  For what a checkpoint does not hold and counts on. A change of any one element
  changes them; sums of integers do not depend on their order.
  """
  sums = jax.device_get(jax.tree.map(jax.jit(_weighted_sum), tree))
  text = repr([(jax.tree_util.keystr(path), int(x))
               for path, x in jax.tree_util.tree_leaves_with_path(sums)])
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _weighted_sum(x: jax.Array) -> jax.Array:
  """The bits of all elements as integers, each times an odd number of its own.

  Modulo 2**32, where no odd number divides zero.
  """
  kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, x.shape, axis)
  odd = place * jnp.uint32(0x3C6EF362) + jnp.uint32(1)
  return jnp.sum(bits * odd, dtype=jnp.uint32)


def _path(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
  root, there = epath.Path(directory).expanduser().resolve(), steps(directory)
  if not there or step not in (None, *there):
    raise FileNotFoundError(
      f"no checkpoint{'' if step is None else f' of step {step}'} in {root}; "
      f"there are: {', '.join(map(str, there)) or 'none'}")
  return root / str(there[-1] if step is None else step)


def _fields(state: Any) -> dict[str, Any]:
  if isinstance(state, dict):
    return state
  return state._asdict() if hasattr(state, "_asdict") else vars(state)


def _present(state: Any) -> dict[str, Any]:
  return {k: v for k, v in _fields(state).items() if v is not None}


def _check(path: epath.Path, saved: Any, wanted: Any, exact: bool) -> None:
  """Raises unless leaves fit; `exact` minds types and unwanted leaves too."""
  there, here = _leaves(saved, exact), _leaves(wanted, exact)
  names = sorted(here.keys() | there.keys()) if exact else sorted(here)
  lines = [f"  {name}: {there.get(name, 'absent')} saved, "
           f"{here.get(name, 'absent')} wanted"
           for name in names if here.get(name) != there.get(name)]
  if lines:
    text = "\n".join(lines)
    raise ValueError(f"checkpoint {path} is of another model:\n{text}")


def _leaves(tree: Any, types: bool) -> dict[str, str]:
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    # Orbax stores a key as its words.
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.eval_shape(jax.random.key_data, leaf)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    found[name] = (str(leaf.dtype) if types else "") + str(list(leaf.shape))
  return found
