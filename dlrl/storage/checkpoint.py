"""Checkpoints of a run: parameters, optimizer, step, keys and data iterator.

One checkpoint is one directory, named by its step, that appears under its name
only when complete. What a killed process leaves is ignored, and removed when
the directory is opened next. With the arrays goes a digest of each, because a
flipped bit on a disk is read as if nothing were.
"""

import os
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from dlrl.runtime import progress
from dlrl.storage import array_checksums

_policies = ocp.training.preservation_policies
_decisions = ocp.training.save_decision_policies


class Damaged(ValueError):
  """A checkpoint that cannot be read, or is not what was saved."""


class OtherModel(ValueError):
  """A checkpoint whose leaves are not those wanted."""


class Checkpoints:
  """The checkpoints in one directory; saving goes on in the background.

  Every process of a job opens it and makes the same calls, with the same
  iterator and meta. What is saved does not tell how many processes there were.

  Args:
    directory: created if absent; nobody else saves there. Also of an object
      store, `gs://...`.
    keep: how many of the newest checkpoints stay.
  """

  def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
    self._manager = ocp.training.Checkpointer(
      _root(directory),
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
      meta: JSON, a dict.

    Raises:
      FileExistsError: there is a checkpoint of this step.
    """
    self._manager.wait()
    self._manager.save_checkpointables_async(
      step, {"state": _present(state)}, force=True,
      # Grain itself would write a file per process, for as many to read.
      custom_metadata={"meta": meta, "digest": _digest(state, iterator),
                       "iterator": iterator.get_state()})

  def restore_latest(
    self, abstract_state: Any, iterator: Any,
  ) -> tuple[Any, dict[str, Any], int] | None:
    """`(state, meta, step)` of the newest checkpoint, or None without one.

    If it is damaged, of the newest that is not: says so, and moves those that
    are out of the way, to `STEP.damaged`.

    Args:
      abstract_state: `ShapeDtypeStruct`s with the shardings wanted, whatever
        the mesh at the time of saving.
      iterator: of the same dataset; is set to the saved position.

    Raises:
      OtherModel: leaves differ; lists their names, shapes and types.
      Damaged: there are checkpoints, and all are damaged.
    """
    self.wait()
    damage: dict[int, Damaged] = {}
    for step in sorted((c.step for c in self._manager.checkpoints),
                       reverse=True):
      found = self._restore(step, abstract_state, iterator)
      if not isinstance(found, Damaged):
        self._set_aside(damage, step)
        return *found, step
      damage[step] = found
    if damage:
      raise Damaged(
        f"no checkpoint in {self._manager.directory} can be read; the newest: "
        f"{damage[max(damage)]}")
    return None

  def _restore(self, step: int, abstract_state: Any, iterator: Any
               ) -> tuple[Any, dict[str, Any]] | Damaged:
    """`(state, meta)` of a step; all processes get those, or all damage."""
    found: tuple[Any, dict[str, Any]] | Damaged
    path = self._manager.directory / str(step)
    try:
      extra = _metadata(path, abstract_state, exact=True)
      loaded = self._manager.load_checkpointables(
        step, {"state": _present(abstract_state)})
      iterator.set_state(extra["iterator"])
      _compare(path, extra["digest"], _digest(loaded["state"], iterator))
      found = type(abstract_state)(
        **_fields(abstract_state) | loaded["state"]), extra["meta"]
    except OtherModel:
      raise
    except Exception as e:  # Orbax has many, and documents none
      found = e if isinstance(e, Damaged) else Damaged(f"{path}: {e}")
    if jax.process_count() > 1 and not multihost_utils.process_allgather(
        not isinstance(found, Damaged)).all():
      return found if isinstance(found, Damaged) else Damaged(
        f"{path}: another process cannot read it")
    return found

  def _set_aside(self, damage: dict[int, Damaged], used: int) -> None:
    for step, error in damage.items():
      path = self._manager.directory / str(step)
      aside = path.with_name(f"{step}.damaged")
      progress.say(f"checkpoint {step} is damaged, continuing from {used}; it "
                   f"is kept in {aside}. {error}")
      if jax.process_index() == 0:
        path.rename(aside)
    if damage and jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints")
    self._manager.reload()

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
    OtherModel: leaves differ; lists their names and shapes.
    Damaged: it cannot be read; take another step.
  """
  path, wanted = _path(directory, step), {"params": abstract_params}
  extra = _metadata(path, wanted, exact=False)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context:
    loaded = ocp.load(path, wanted, checkpointable_name="state")
  _compare(path, extra["digest"], array_checksums.leaves(loaded))
  return loaded["params"]


def load_meta(directory: str | os.PathLike[str], *, step: int | None = None
              ) -> dict[str, Any]:
  """What was given to `save` as `meta` of a checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
    Damaged: it cannot be read.
  """
  return _metadata(_path(directory, step), {}, exact=False)["meta"]


def steps(directory: str | os.PathLike[str]) -> list[int]:
  """The steps of all complete checkpoints, ascending; nothing is written."""
  root = _root(directory)
  if not root.is_dir():  # which the checkpointer would create
    return []
  with ocp.training.Checkpointer(root) as manager:
    return sorted(found.step for found in manager.checkpoints)


def _root(directory: str | os.PathLike[str]) -> epath.Path:
  root = epath.Path(directory)
  # A bucket's name would become that of a directory below the current one.
  return root if "://" in str(root) else root.expanduser().resolve()


def _path(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
  root, there = _root(directory), steps(directory)
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


def _digest(state: Any, iterator: Any) -> dict[str, str]:
  return array_checksums.leaves(_present(state)) | {
    "iterator": f"state:{iterator.get_state()!r}"}


def _compare(path: epath.Path, saved: dict[str, str], found: dict[str, str]
             ) -> None:
  """Raises unless what was read, and is of its old type, is what was saved."""
  other = [k for k, v in found.items()
           if saved[k] != v and _kind(saved[k]) == _kind(v)]
  if other:
    raise Damaged(f"{path}: not as they were saved: {', '.join(other)}")


def _kind(number: str) -> str:
  return number.partition(":")[0]


def _metadata(path: epath.Path, wanted: Any, exact: bool
              ) -> dict[str, Any]:
  """`digest`, `meta` and `iterator` of a checkpoint with leaves as wanted."""
  try:
    saved = ocp.metadata(path, "state")
    found = {k: saved.custom_metadata[k]
             for k in ("digest", "meta", "iterator")}
  except Exception as e:
    raise Damaged(f"{path}: its metadata cannot be read ({e!r})") from e
  if not saved.metadata:
    raise Damaged(f"{path}: its tree cannot be read")
  _check(path, saved.metadata, wanted, exact)
  return found


def _check(path: epath.Path, saved: Any, wanted: Any, exact: bool) -> None:
  """Raises unless leaves fit; `exact` minds types and unwanted leaves too."""
  there, here = _leaves(saved, exact), _leaves(wanted, exact)
  names = sorted(here.keys() | there.keys()) if exact else sorted(here)
  lines = [f"  {name}: {there.get(name, 'absent')} saved, "
           f"{here.get(name, 'absent')} wanted"
           for name in names if here.get(name) != there.get(name)]
  if lines:
    text = "\n".join(lines)
    raise OtherModel(f"checkpoint {path} is of another model:\n{text}")


def _leaves(tree: Any, types: bool) -> dict[str, str]:
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    # Orbax stores a key as its words.
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.eval_shape(jax.random.key_data, leaf)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    found[name] = (str(leaf.dtype) if types else "") + str(list(leaf.shape))
  return found
