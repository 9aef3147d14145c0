"""Checkpoints of a run: parameters, optimizer, step, keys and data iterator.

A checkpoint is a directory named after its step. It gets this name only when it
is complete: what a killed process leaves is ignored, and removed when the
directory is next opened. Each array is saved with a checksum, because Orbax
returns flipped bits without an error.
"""

import itertools
import os
from collections.abc import Callable
from collections.abc import Collection
from typing import Any
from typing import TypeVar

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from dlrl.buckets import mirror
from dlrl.buckets import objects
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.storage import array_checksums
from dlrl.storage import disk_errors

T = TypeVar("T")
_ATTEMPTS = 5  # to read a checkpoint that a run keeps replacing
_policies = ocp.training.preservation_policies
_decisions = ocp.training.save_decision_policies


class Damaged(ValueError):
  """A checkpoint that cannot be read, or differs from what was saved."""


class OtherModel(ValueError):
  """A checkpoint whose leaves differ from the requested ones."""


class Checkpoints:
  """The checkpoints in one directory, saved in the background.

  Every process of a job opens it and makes the same calls, with the same
  iterator and meta. A checkpoint does not depend on the number of processes.

  Args:
    directory: created if absent; must have no other writer. May be in a
      bucket, `gs://...`, or in the local copy of a directory there.
    keep: number of newest checkpoints that are kept.
  """

  def __init__(self, directory: str | os.PathLike[str], keep: int = 2) -> None:
    self._saving: Any = None  # Orbax's response to the save in progress
    self._manager = ocp.training.Checkpointer(
      _root(directory),
      # The caller decides when. By default Orbax skips a save while busy.
      save_decision_policy=_decisions.FixedIntervalPolicy(1),
      preservation_policy=_policies.LatestN(keep),
      cleanup_tmp_directories=True,
    )

  @property
  def latest(self) -> int | None:
    """Step of the newest checkpoint; waits until it is complete."""
    self.wait()  # Orbax also lists checkpoints that are incomplete
    newest = self._manager.latest
    return None if newest is None else newest.step

  def save(self, step: int, state: Any, iterator: Any,
           meta: dict[str, Any]) -> None:
    """Begins a checkpoint; `wait`, `close` or another `save` completes it.

    As soon as this returns, the caller may advance the iterator and donate the
    state's buffers. Older checkpoints are removed only after this one is
    complete.

    Args:
      step: names the checkpoint.
      state: a dict, dataclass or named tuple of trees of arrays, one of them
        `params` for `load_params`. Fields that are None are not saved, so that
        a field can be added later.
      iterator: a Grain `DatasetIterator`.
      meta: a dict that JSON can hold.

    Raises:
      FileExistsError: a checkpoint of this step exists.
    """
    self.wait()
    self._saving = self._manager.save_checkpointables_async(
      step, {"state": _present(state)}, force=True,
      # Grain would write a file per process, to be read by as many.
      custom_metadata={"meta": meta, "digest": _digest(state, iterator),
                       "iterator": iterator.get_state()})

  def restore_latest(
    self, abstract_state: Any, iterator: Any,
  ) -> tuple[Any, dict[str, Any], int] | None:
    """`(state, meta, step)` of the newest readable checkpoint; None if none.

    Damaged checkpoints are reported, skipped and renamed to `STEP.damaged`, or
    `STEP.damaged-2` and so on if the step has been damaged before.

    Args:
      abstract_state: `ShapeDtypeStruct`s with the wanted shardings; the mesh
        may differ from that at the time of saving.
      iterator: an iterator of the same dataset; set to the saved position.

    Raises:
      OtherModel: leaves differ; lists their names, shapes and types.
      Damaged: all checkpoints are damaged.
      objects.BucketError: the bucket that they are in cannot be used.
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
    """`(state, meta)` of a step, or `Damaged`; the same in all processes."""
    found: tuple[Any, dict[str, Any]] | Damaged
    path = self._manager.directory / str(step)
    try:
      extra = _metadata(path, abstract_state, exact=True)
      with progress.doing(f"reading checkpoint {step}"):
        loaded = self._manager.load_checkpointables(
          step, {"state": _present(abstract_state)})
      iterator.set_state(extra["iterator"])
      _compare(path, extra["digest"], _digest(loaded["state"], iterator))
      found = type(abstract_state)(
        **_fields(abstract_state) | loaded["state"]), extra["meta"]
    except OtherModel:
      raise
    except Exception as e:  # Orbax raises many kinds and documents none
      trouble = disk_errors.of_bucket(e)
      if trouble is not None:  # not that the checkpoint is damaged
        raise objects.BucketError(f"{path} cannot be read ({trouble})") from e
      found = e if isinstance(e, Damaged) else Damaged(f"{path}: {e}")
    if jax.process_count() > 1 and not multihost_utils.process_allgather(
        not isinstance(found, Damaged)).all():
      return found if isinstance(found, Damaged) else Damaged(
        f"{path}: another process cannot read it")
    return found

  def _set_aside(self, damage: dict[int, Damaged], used: int) -> None:
    taken = {path.name for path in self._manager.directory.iterdir()}
    for step, error in damage.items():
      path = self._manager.directory / str(step)
      aside = path.with_name(_free(f"{step}.damaged", taken))
      progress.say(f"checkpoint {step} is damaged, continuing from {used}; it "
                   f"is kept in {aside}. {error}")
      if jax.process_index() == 0:
        path.rename(aside)
    if damage and jax.process_count() > 1:
      multihost_utils.sync_global_devices("damaged checkpoints")
    self._manager.reload()

  def wait(self) -> None:
    """Waits until all saves are complete; raises if one failed."""
    saving, self._saving = self._saving, None
    try:
      # First: it raises an error once in each thread, so that the next save
      # would meet it again.
      self._manager.wait()
    finally:
      # Each response has a thread and an event loop, with three descriptors,
      # and only its `result` ends them.
      if saving is not None:
        saving.result()

  def close(self) -> None:
    """Waits, then stops the background threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def newest(directory: str | os.PathLike[str], read: Callable[[int], T]) -> T:
  """`read(step)` of the newest checkpoint, also while a run replaces them.

  In a job of several processes all call it, and read the same step.

  Args:
    directory: directory of `Checkpoints`.
    read: called again with a newer step if the checkpoint could not be read
      because it was replaced meanwhile.

  Raises:
    FileNotFoundError: there is no checkpoint; or, after several attempts, each
      was replaced while it was read.
    Exception: whatever `read` raises while its step is the newest.
  """
  for _ in range(_ATTEMPTS):
    _path(directory, None)  # raises if there is none
    step: int = processes.by_first(lambda: steps(directory)[-1])
    error = None
    try:
      found = read(step)
    except (FileNotFoundError, ValueError) as e:
      error = e
    if not processes.anywhere(error is not None):
      return found
    if processes.by_first(lambda: steps(directory)[-1]) == step:
      raise error or Damaged(f"{_root(directory) / str(step)}: another process "
                             "of the job cannot read it")
  raise FileNotFoundError(
    f"the run removed each of {_ATTEMPTS} checkpoints in {_root(directory)} "
    "while it was read; let it keep more (checkpoint_keep)")


def load_params(directory: str | os.PathLike[str], abstract_params: Any, *,
                step: int | None = None) -> Any:
  """Reads only the parameters of a checkpoint.

  Args:
    directory: directory of `Checkpoints`; nothing is written there.
    abstract_params: `ShapeDtypeStruct`s of the parameters or of a subtree, with
      the wanted shardings.
    step: step of the checkpoint; None: the newest.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    OtherModel: leaves differ; lists their names and shapes.
    Damaged: the checkpoint cannot be read; choose another step.
  """
  if step is None:
    return newest(directory, lambda at: load_params(
      directory, abstract_params, step=at))
  path, wanted = _path(directory, step), {"params": abstract_params}
  extra = _metadata(path, wanted, exact=False)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with context, progress.doing(f"reading checkpoint {step}"):
    loaded = ocp.load(path, wanted, checkpointable_name="state")
  _compare(path, extra["digest"], array_checksums.leaves(loaded))
  return loaded["params"]


def load_meta(directory: str | os.PathLike[str], *, step: int | None = None
              ) -> dict[str, Any]:
  """The `meta` that was passed to `save`.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    Damaged: the checkpoint cannot be read.
  """
  if step is None:
    return newest(directory, lambda at: load_meta(directory, step=at))
  return _metadata(_path(directory, step), {}, exact=False)["meta"]


def steps(directory: str | os.PathLike[str]) -> list[int]:
  """Steps of all complete checkpoints, ascending; writes nothing."""
  # Not by a Checkpointer: all processes of a job would have to make one.
  return sorted(found.step for found in
                ocp.path.step.standard_name_format().find_all(_root(directory)))


def _root(directory: str | os.PathLike[str]) -> epath.Path:
  root = epath.Path(mirror.remote(directory))
  if "://" in str(root):
    objects.fresh_listings()
    # Resolving would turn gs://bucket into a directory below the current one.
    return root
  return root.expanduser().resolve()


def _free(name: str, taken: Collection[str]) -> str:
  """`name`, or the first of `name-2`, `name-3`, ... that is not taken."""
  names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
  return next(n for n in names if n not in taken)


def _path(directory: str | os.PathLike[str], step: int | None) -> epath.Path:
  root, there = _root(directory), steps(directory)
  if not there or step not in (None, *there):
    raise FileNotFoundError(
      f"no checkpoint{'' if step is None else f' of step {step}'} in {root}; "
      f"available steps: {', '.join(map(str, there)) or 'none'}")
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
  """Raises unless checksums agree; leaves read in another dtype are skipped."""
  other = [k for k, v in found.items()
           if saved[k] != v and _kind(saved[k]) == _kind(v)]
  if other:
    raise Damaged(f"{path}: differs from what was saved: {', '.join(other)}")


def _kind(number: str) -> str:
  return number.partition(":")[0]


def _metadata(path: epath.Path, wanted: Any, exact: bool
              ) -> dict[str, Any]:
  """`digest`, `meta` and `iterator` of a checkpoint with the wanted leaves."""
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
  """Raises unless shapes agree; if `exact`, also dtypes and names of leaves."""
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
    # Orbax stores a PRNG key as its integers.
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.eval_shape(jax.random.key_data, leaf)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    found[name] = (str(leaf.dtype) if types else "") + str(list(leaf.shape))
  return found
