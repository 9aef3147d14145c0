"""Loads and saves Hugging Face checkpoints, one tensor at a time.

Tensors go from memory-mapped safetensors files straight into arrays with the
caller's shardings. The host holds at most one layer of a parameter, of all
experts, or one shard of it. Nothing is unpickled and no code of a checkpoint is
run.
"""

import contextlib
import dataclasses
import functools
import json
import operator
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from dlrl import strict
from dlrl.hub import snapshots
from dlrl.models import families
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.models.mlp import experts
from dlrl.models.published import files
from dlrl.models.published import tensors
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.runtime import published_files

DTYPES = ("float32", "bfloat16")  # that a model is loaded in
_ARGUMENT = functools.partial(strict.ArgumentError, "models.load.directory")
# A constant that stays in fp32 whatever the parameters' dtype is.
_FP32 = "router/bias"


def load(
  directory: str | pathlib.Path, *, dtype: str = "bfloat16",
  mesh: jax.sharding.Mesh | None = None, block_length: int | None = None,
  mask_id: int | None = None, family: families.Family | None = None,
  error: families.Refusal = _ARGUMENT,
) -> tuple[transformer.Model, transformer.Params]:
  """Loads a published model from its directory: config.json and safetensors.

  Args:
    directory: a LLaDA, Dream, bidirectional Qwen, SDAR or LLaDA2 checkpoint, or
      the name of one on the Hub: ORG/NAME or ORG/NAME@REVISION.
    dtype: of parameters and computation, one of `DTYPES`.
    mesh: splits the parameters over devices, from `dlrl.runtime.mesh.make`;
      None: one device holds all.
    block_length: tokens per block of a model with blocks, instead of that in
      config.json; warns if that is another. None: config.json's, or the usual
      one of its model_type.
    mask_id: id of the mask token, instead of that in config.json; None: as
      `block_length`.
    family: your own, for a model_type that is not one of dlrl's.
    error: makes the error about a directory that cannot be used.

  Returns:
    The model, and its parameters as nested dicts of arrays.

  Raises:
    strict.ConfigError: config.json is missing or not supported, a file is
      damaged, or tensors are unknown, missing, or of the wrong shape or dtype;
      lists them; or `mask_id` or `block_length` is not one of this model. By
      default an `ArgumentError`, as for another dtype.
    FileNotFoundError: a safetensors file is missing.
  """
  try:
    name = jnp.dtype(dtype).name
  except (TypeError, ValueError):
    name = ""
  strict.require(name in DTYPES, "models.load.dtype", dtype,
                 strict.one_of(DTYPES), strict.ArgumentError)
  block_length = _count(block_length, "models.load.block_length", 1)
  mask_id = _count(mask_id, "models.load.mask_id", 0)
  cfg, hf = families.read_config(
    directory, dtype=name, block_length=block_length, mask_id=mask_id,
    family=family, error=error)
  model = transformer.build(cfg, hf["mask_token_id"])
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(mesh_lib.found()[0])
    shardings = jax.tree.map(lambda _: device, shapes)
  else:
    shardings = mesh_lib.param_shardings(mesh, layers.SHARDING, shapes)
  abstract = jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes, shardings)
  return model, _params(directory, families.of(hf, family), abstract, error)


def _count(value: Any, field: str, low: int) -> int | None:
  """Returns an integer of at least `low`, or None as it is."""
  try:
    # Booleans are integers to Python.
    number = (None if value is None or isinstance(value, bool | np.bool_)
              else operator.index(value))
  except TypeError:
    number = None
  strict.require(
    value is None or (number is not None and low <= number < 2**31), field,
    value, f"must be an integer of at least {low}", strict.ArgumentError)
  return number


def load_params(
  directory: str | pathlib.Path, abstract: Any, *,
  family: families.Family | None = None,
  error: families.Refusal = families.PRETRAINED,
) -> Any:
  """Loads the parameters in a directory, in given dtypes and shardings.

  Args:
    directory: has config.json and safetensors files.
    abstract: nested dicts of `ShapeDtypeStruct`s with shardings.
    family: the user's; None: that of its model_type.
    error: makes the error about a directory that cannot be used.

  Raises:
    The same as `load`; by default, a ConfigError names `config.pretrained`.
  """
  _, hf = families.read_config(directory, family=family, error=error)
  return _params(directory, families.of(hf, family), abstract, error)


def _params(
  directory: str | pathlib.Path, family: families.Family, abstract: Any,
  error: families.Refusal,
) -> Any:
  refuse = functools.partial(error, str(directory))
  shapes = _shapes(abstract)
  found = files.find(
    families.folder(directory, refuse, snapshots.WEIGHTS),
    tensors.published(family.names, shapes),
    _tied(family), refuse)
  own: dict[tuple[str, int], list[tensors.Piece]] = {}
  for piece in tensors.pieces(family.names, shapes):
    own.setdefault((piece.path, (*piece.index, 0)[0]), []).append(piece)

  def read(path: str, leaf: Any, layer: int = 0) -> jax.Array:
    """Reads one parameter, or one layer of it."""
    sharding, shape = leaf.sharding, leaf.shape
    if tensors.stacked(path):
      sharding, shape = _layer_sharding(sharding), shape[1:]
    parts = own[path, layer]
    count.step(len(parts))
    return jax.make_array_from_callback(
      shape, sharding, lambda index: _part(found, parts, index, leaf.dtype))

  def one(key_path: Any, leaf: Any) -> jax.Array:
    path = jax.tree_util.keystr(key_path, simple=True, separator="/")
    if not tensors.stacked(path):
      return read(path, leaf)
    array: jax.Array = jax.jit(
      lambda: jnp.zeros(leaf.shape, leaf.dtype),
      out_shardings=leaf.sharding)()
    # Donation updates the stack in place, instead of a copy for each layer.
    put = jax.jit(
      lambda stack, x, i: jax.lax.dynamic_update_index_in_dim(stack, x, i, 0),
      donate_argnums=0, out_shardings=leaf.sharding)
    for i in range(leaf.shape[0]):
      # Waiting keeps at most one layer in flight.
      array = jax.block_until_ready(put(array, read(path, leaf, i), i))
    return array

  with progress.Count(sum(map(len, own.values())), "tensors read") as count:
    return jax.tree.map_with_path(one, abstract)


def _tied(family: families.Family) -> tuple[str, str]:
  """The names of the embedding and of the head."""
  return family.names["embed/embedding"], family.names["unembed/kernel"]


def _part(
  found: Mapping[str, files.Place], pieces: list[tensors.Piece], index: Any,
  dtype: Any,
) -> np.ndarray:
  """Reads `index` of one parameter, or of one layer of it.

  Args:
    found: the places of tensors.
    pieces: the parameter's or layer's only part, or those of all experts.
    index: slices of our axes.
    dtype: of the result.
  """
  mixture = len(pieces[0].index) > 1
  if mixture:
    some, *index = index
    pieces = pieces[some]
  transposed = tensors.transposed(pieces[0].path)
  index = index[::-1] if transposed else index
  # Opened anew for each part: as long as a file is mapped, all pages ever read
  # from it count as this process's memory.
  with contextlib.ExitStack() as stack:
    opened = {path: stack.enter_context(safetensors.safe_open(path, "np"))
              for path in {found[piece.name].file for piece in pieces}}
    arrays = (
      _read(opened[found[piece.name].file], found[piece.name].name, piece,
            tuple(index)) for piece in pieces)
    array = (_stacked(arrays, len(pieces), dtype) if mixture
             else next(arrays).astype(dtype, copy=False))
  # A view: JAX turns it while it copies, faster than NumPy would.
  return array.swapaxes(-1, -2) if transposed else array


def _stacked(arrays: Iterable[np.ndarray], number: int, dtype: Any
             ) -> np.ndarray:
  """Stacks arrays as they come, so that only one is held beside the stack."""
  stack = None
  for i, array in enumerate(arrays):
    if stack is None:
      stack = np.empty((number, *array.shape), dtype)
    stack[i] = array
  assert stack is not None
  return stack


def _read(file: Any, name: str, piece: tensors.Piece, index: tuple[slice, ...]
          ) -> np.ndarray:
  """Reads `index` of a part of a parameter, with the published axes."""
  start, stop, _ = index[0].indices(piece.shape[0])
  rows = slice(piece.row + start, piece.row + stop)
  array: np.ndarray = file.get_slice(name)[(rows, *index[1:])]
  return array


def save(
  params: Any, source: str | pathlib.Path, out: str | pathlib.Path, *,
  shard_bytes: int = 5 * 10**9, family: families.Family | None = None,
) -> None:
  """Writes parameters in the format of `source`, beside copies of its files.

  The directory gets its name only when it is complete.

  Args:
    params: nested dicts of arrays, all addressable by this process.
    source: the published checkpoint whose config, tokenizer and code are
      copied: a directory, or a name on the Hub.
    out: the directory to write; must not exist.
    shard_bytes: size limit of a file; a larger tensor gets its own file.
    family: the user's; None: that of the source's model_type.

  Raises:
    FileExistsError: `out` exists.
    strict.ConfigError: the family of `source` is not supported.
    ValueError: the parameters do not fit the config.json of `source`.
  """
  out = pathlib.Path(out).expanduser()
  source = families.folder(
    source, functools.partial(families.PRETRAINED, str(source)),
    snapshots.DESCRIPTION + published_files.COPIED)
  cfg, hf = families.read_config(source, family=family)
  family = families.of(hf, family)
  model = transformer.build(cfg, hf["mask_token_id"])
  wanted = _shapes(jax.eval_shape(model.init, jax.random.key(0)))
  if wanted != _shapes(params):
    raise ValueError(f"the parameters do not fit {source / 'config.json'}: "
                     f"{sorted(wanted.items() ^ _shapes(params).items())[:4]}")
  leaves = dict(_paths(params))
  plan = _plan(family, leaves, source, shard_bytes)
  dtype = str(leaves["embed/embedding"].dtype)
  # transformers 5 calls it `dtype`.
  keys = [key for key in ("torch_dtype", "dtype") if key in hf]
  placed: dict[str, str] = {}
  with published_files.directory(out) as partial:
    published_files.copy(source, partial)
    _write_json(partial / "config.json",
                hf | dict.fromkeys(keys or ["torch_dtype"], dtype))
    for number, tensors_of in enumerate(
        progress.watched(plan, "files written"), 1):
      shard = files.SINGLE if len(plan) == 1 else (
        f"model-{number:05}-of-{len(plan):05}.safetensors")
      files.write(partial / shard, {
        name: tensor.spec for name, tensor in tensors_of.items()},
        _reader(leaves, tensors_of))
      placed |= dict.fromkeys(tensors_of, shard)
    if len(plan) > 1:
      _write_json(partial / files.INDEX, {
        "metadata": {"total_size": sum(
          tensor.spec.nbytes for tensors_of in plan
          for tensor in tensors_of.values())},
        "weight_map": placed})


def _write_json(path: pathlib.Path, obj: Any) -> None:
  path.write_text(json.dumps(obj, indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A tensor of a file: parts of parameters, one below the other."""

  dtype: np.dtype
  pieces: list[tensors.Piece]

  @property
  def spec(self) -> files.Spec:
    """Its dtype and shape."""
    last = self.pieces[-1]
    return files.Spec(
      self.dtype, (last.row + last.shape[0], *last.shape[1:]))


def _plan(
  family: families.Family, leaves: Mapping[str, Any], source: pathlib.Path,
  shard_bytes: int,
) -> list[dict[str, _Tensor]]:
  """The tensors of each file."""
  whole: dict[str, list[tensors.Piece]] = {}
  for piece in tensors.pieces(family.names, {
      path: tuple(leaf.shape) for path, leaf in leaves.items()}):
    whole.setdefault(piece.name, []).append(piece)
  constant = next(
    (name for name, pieces in whole.items() if _constant(pieces[0])), None)
  # It differs between versions of LLaDA2, whose config.json do not.
  stored = files.dtype(source, constant) if constant else None
  of_constants = jnp.dtype("bfloat16" if stored == "BF16" else "float32")
  plan: list[dict[str, _Tensor]] = [{}]
  used = 0
  for name, pieces in whole.items():
    tensor = _Tensor(
      of_constants if _constant(pieces[0])
      else np.dtype(leaves[pieces[0].path].dtype), pieces)
    if plan[-1] and used + tensor.spec.nbytes > shard_bytes:
      plan.append({})
      used = 0
    plan[-1][name] = tensor
    used += tensor.spec.nbytes
  return plan


def _constant(piece: tensors.Piece) -> bool:
  return piece.path.endswith(_FP32)


def _reader(
  leaves: Mapping[str, Any], tensors_of: Mapping[str, _Tensor]
) -> Callable[[str], np.ndarray]:
  """Makes the tensors of a file from parameters."""
  # By their names, an expert's three matrices follow one another, and then
  # those of the next expert. All are copied to the host a layer at a time.
  @functools.lru_cache(len(experts.MATRICES))
  def layer_of(path: str, layer: int) -> np.ndarray:
    return np.asarray(leaves[path][layer])

  def part(piece: tensors.Piece) -> np.ndarray:
    array = (layer_of(piece.path, piece.index[0])[piece.index[1:]]
             if piece.index else np.asarray(leaves[piece.path]))
    return array.T if tensors.transposed(piece.path) else array

  def tensor(name: str) -> np.ndarray:
    parts = [part(piece) for piece in tensors_of[name].pieces]
    array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return array.astype(tensors_of[name].dtype, copy=False)

  return tensor


def _layer_sharding(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
  if isinstance(sharding, jax.sharding.NamedSharding):
    return jax.sharding.NamedSharding(
      sharding.mesh, jax.sharding.PartitionSpec(*sharding.spec[1:]))
  return sharding


def _paths(tree: Any) -> list[tuple[str, Any]]:
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {path: tuple(leaf.shape) for path, leaf in _paths(tree)}
