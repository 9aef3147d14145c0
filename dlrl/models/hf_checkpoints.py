"""Loads and saves Hugging Face checkpoints, one tensor at a time.

Tensors go from memory-mapped safetensors files straight into arrays with the
caller's shardings. The host holds at most one layer's tensor, or one shard of
it. Nothing is unpickled and no code of a checkpoint is run.
"""

import functools
import json
import operator
import pathlib
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from dlrl import strict
from dlrl.hub import snapshots
from dlrl.models import families
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.runtime import json_file
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.runtime import published_files

DTYPES = ("float32", "bfloat16")  # that a model is loaded in
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ARGUMENT = functools.partial(strict.ArgumentError, "models.load.directory")
_STORED = ("F64", "F32", "F16", "BF16")
# Rotary frequencies, which older versions of transformers stored with the
# parameters. They follow from config.json.
_DERIVED = ".rotary_emb.inv_freq"
_TIED = ("embed/embedding", "unembed/kernel")
_LONGEST_NAME = 255  # bytes; the kernel raises for longer ones
_ROWS = 1024  # of an embedding that are compared at a time


def load(
  directory: str | pathlib.Path, *, dtype: str = "bfloat16",
  mesh: jax.sharding.Mesh | None = None, block_length: int | None = None,
  mask_id: int | None = None, family: families.Family | None = None,
  error: families.Refusal = _ARGUMENT,
) -> tuple[transformer.Model, transformer.Params]:
  """Loads a published model from its directory: config.json and safetensors.

  Args:
    directory: a LLaDA, Dream, bidirectional Qwen or SDAR checkpoint, or the
      name of one on the Hub: ORG/NAME or ORG/NAME@REVISION.
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
  found = _find(families.folder(directory, refuse, snapshots.WEIGHTS),
                families.published(family, _shapes(abstract)), family, refuse)

  def read(path: str, leaf: Any, layer: int = 0) -> jax.Array:
    """Reads one published tensor: a parameter, or one layer of it."""
    name = family.names[path].format(layer)
    sharding, shape = leaf.sharding, leaf.shape
    if families.stacked(path):
      sharding, shape = _layer_sharding(sharding), shape[1:]

    def part(index: Any) -> np.ndarray:
      index = index[::-1] if families.transposed(path) else index
      # Opened anew for each part: as long as a file is mapped, all pages ever
      # read from it count as this process's memory.
      with safetensors.safe_open(found[name].file, "np") as file:
        array: np.ndarray = file.get_slice(found[name].name)[index]
      array = array.T if families.transposed(path) else array
      return array.astype(leaf.dtype)

    count.step()
    return jax.make_array_from_callback(shape, sharding, part)

  def one(key_path: Any, leaf: Any) -> jax.Array:
    path = jax.tree_util.keystr(key_path, simple=True, separator="/")
    if not families.stacked(path):
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

  with progress.Count(len(found), "tensors read") as count:
    return jax.tree.map_with_path(one, abstract)


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
  leaves = {path: leaf for path, leaf in _paths(params)}
  plan = _plan(family, leaves, shard_bytes)
  dtype = str(next(iter(leaves.values())).dtype)
  # transformers 5 calls it `dtype`.
  keys = [key for key in ("torch_dtype", "dtype") if key in hf]
  placed: dict[str, str] = {}
  with published_files.directory(out) as partial:
    published_files.copy(source, partial)
    _write_json(partial / "config.json",
                hf | dict.fromkeys(keys or ["torch_dtype"], dtype))
    for number, names in enumerate(progress.watched(plan, "files written"), 1):
      shard = SINGLE if len(plan) == 1 else (
        f"model-{number:05}-of-{len(plan):05}.safetensors")
      safetensors_numpy.save_file(
        {name: _published_array(leaves[path], path, layer)
         for name, (path, layer) in names.items()},
        partial / shard, metadata={"format": "pt"})
      placed |= dict.fromkeys(names, shard)
    if len(plan) > 1:
      size = sum(x.size * x.dtype.itemsize for x in leaves.values())
      _write_json(partial / INDEX, {
        "metadata": {"total_size": size}, "weight_map": placed})


def _write_json(path: pathlib.Path, obj: Any) -> None:
  path.write_text(json.dumps(obj, indent=2) + "\n", encoding="utf-8")


def _plan(
  family: families.Family, leaves: Mapping[str, Any], shard_bytes: int
) -> list[dict[str, tuple[str, int]]]:
  """Plans the files, each as {published name: (our path, layer)}."""
  # Layer by layer, so that few files are needed to read a layer.
  entries = sorted(
    (layer if families.stacked(path) else -1, path, layer)
    for path, leaf in leaves.items()
    for layer in range(leaf.shape[0] if families.stacked(path) else 1))
  plan: list[dict[str, tuple[str, int]]] = [{}]
  used = 0
  for _, path, layer in entries:
    leaf = leaves[path]
    size = leaf.size * leaf.dtype.itemsize
    size //= leaf.shape[0] if families.stacked(path) else 1
    if plan[-1] and used + size > shard_bytes:
      plan.append({})
      used = 0
    plan[-1][family.names[path].format(layer)] = path, layer
    used += size
  return plan


def _published_array(leaf: Any, path: str, layer: int) -> np.ndarray:
  array = np.asarray(leaf[layer] if families.stacked(path) else leaf)
  return np.ascontiguousarray(
    array.T if families.transposed(path) else array)


class _Place(NamedTuple):
  """The place of a tensor: its file, and its name there."""

  file: pathlib.Path
  name: str


def _find(
  root: pathlib.Path, wanted: Mapping[str, tuple[int, ...]],
  family: families.Family, refuse: json_file.Refuse,
) -> dict[str, _Place]:
  """Finds the tensors `wanted`, by published name.

  Raises:
    What `refuse` makes: tensors are missing, unknown, misshapen, not floating
      point, or a head that should be the embedding differs from it.
    FileNotFoundError: a file is missing.
  """
  found = {name: place for name, place in _files(root, refuse).items()
           if not name.endswith(_DERIVED)}
  embedding, head = (family.names[path] for path in _TIED)
  if head in found and head not in wanted:  # tied, and stored nevertheless
    spare = found.pop(head)
    if embedding not in found:
      found[embedding] = spare
    elif not _equal(spare, found[embedding]):
      raise refuse(
        f"its config.json says that {head} is {embedding}, and its files have "
        "two different tensors; correct tie_word_embeddings or weight_tying, "
        "or remove one of them")
  misshapen = []
  for name in sorted(wanted.keys() & found.keys()):
    with safetensors.safe_open(found[name].file, "np") as file:
      part = file.get_slice(found[name].name)
      if tuple(part.get_shape()) != wanted[name]:
        misshapen.append(f"{name} is {part.get_shape()}, "
                         f"expected {list(wanted[name])}")
      elif part.get_dtype() not in _STORED:
        misshapen.append(f"{name} is of {part.get_dtype()}, expected one of "
                         f"{', '.join(_STORED)}")
  if misshapen or wanted.keys() != found.keys():
    raise refuse(_listing(
      f"{root} does not fit its config.json", wanted.keys() - found.keys(),
      found.keys() - wanted.keys(), misshapen))
  return found


def _files(root: pathlib.Path, refuse: json_file.Refuse) -> dict[str, _Place]:
  """Finds the file of each tensor, by published name."""
  placed = None
  names = [SINGLE]
  if (root / INDEX).exists():
    placed = json_file.read(root / INDEX, refuse).get("weight_map")
    if not (isinstance(placed, dict) and placed
            and all(map(json_file.is_text, placed.values()))):
      raise refuse(f"weight_map in {root / INDEX} must map names of tensors to "
                   f"files, got {json_file.shown(placed)}; download it again")
    names = sorted(set(placed.values()))
  found: dict[str, _Place] = {}
  for name in names:
    # A downloaded index must not make us read files elsewhere.
    if (pathlib.PurePath(name).name != name or name in ("", "..")
        or not name.isprintable() or len(name.encode()) > _LONGEST_NAME):
      raise refuse(
        f"{root / INDEX} names {json_file.shown(name)}, which is not a file "
        "beside it; download the checkpoint again")
    path = root / name
    if not path.is_file():
      raise FileNotFoundError(
        f"{path} is missing or not a file; download it again")
    try:
      with safetensors.safe_open(path, "np") as file:
        tensors = list(file.keys())
    except (safetensors.SafetensorError, OSError) as e:
      raise refuse(
        f"{path} is damaged or cut short; download it again: {e}") from e
    twice = sorted(found.keys() & set(tensors))
    if twice:
      raise refuse(f"{path} has the tensor {twice[0]!r}, and "
                   f"{found[twice[0]].file.name} has it as well")
    found |= {tensor: _Place(path, tensor) for tensor in tensors}
  actual = {tensor: place.file.name for tensor, place in found.items()}
  if placed is not None and placed != actual:
    raise refuse(_listing(
      f"{root / INDEX} and its files differ", placed.keys() - found.keys(),
      found.keys() - placed.keys(),
      [f"{tensor} is in {actual[tensor]}, not in {placed[tensor]}"
       for tensor in placed.keys() & actual.keys()
       if placed[tensor] != actual[tensor]]))
  return found


def _equal(a: _Place, b: _Place) -> bool:
  """Whether two tensors have the same values; reads a few rows at a time."""
  with (safetensors.safe_open(a.file, "np") as file,
        safetensors.safe_open(b.file, "np") as other):
    pair = file.get_slice(a.name), other.get_slice(b.name)
    rows, *rest = pair[0].get_shape() or [0]
    return pair[1].get_shape() == [rows, *rest] and all(
      np.array_equal(*(x[i:min(i + _ROWS, rows)].astype(np.float32)
                       for x in pair))
      for i in range(0, rows, _ROWS))


def _listing(what: str, missing: Collection[str], unknown: Collection[str],
             misshapen: Collection[str] = ()) -> str:
  lines = [what]
  for title, names in (
    ("missing", missing), ("unknown", unknown), ("misshapen", misshapen)):
    lines += [f"  {title}: {name}" for name in sorted(names)[:20]]
    if len(names) > 20:
      lines.append(f"  {title}: and {len(names) - 20} more")
  return "\n".join(lines)


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
