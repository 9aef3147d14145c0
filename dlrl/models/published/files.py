"""The files of a published checkpoint: which tensor is in which of them."""

import json
import math
import pathlib
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import safetensors

from dlrl.runtime import json_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# NumPy's names of dtypes to those of safetensors, the widest first.
_STORED = {
  "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Rotary frequencies, which older versions of transformers stored with the
# parameters. They follow from config.json.
_DERIVED = ".rotary_emb.inv_freq"
_LONGEST_NAME = 255  # bytes; the kernel raises for longer ones
_ROWS = 1024  # of an embedding that are compared at a time


class Place(NamedTuple):
  """The place of a tensor: its file, and its name there."""

  file: pathlib.Path
  name: str


def find(
  root: pathlib.Path, wanted: Mapping[str, tuple[int, ...]],
  tied: tuple[str, str], refuse: json_file.Refuse,
) -> dict[str, Place]:
  """Finds the tensors `wanted`, by published name.

  Args:
    root: the directory.
    wanted: shapes by name.
    tied: names of the embedding and of the head.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes: tensors are missing, unknown, misshapen, not floating
      point, or a head that should be the embedding differs from it.
    FileNotFoundError: a file is missing.
  """
  found = {name: place for name, place in _files(root, refuse).items()
           if not name.endswith(_DERIVED)}
  embedding, head = tied
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
  in_files: dict[pathlib.Path, list[str]] = {}
  for name in sorted(wanted.keys() & found.keys()):
    in_files.setdefault(found[name].file, []).append(name)
  for path, names in in_files.items():
    with safetensors.safe_open(path, "np") as file:
      for name in names:
        part = file.get_slice(found[name].name)
        if tuple(part.get_shape()) != wanted[name]:
          misshapen.append(f"{name} is {part.get_shape()}, "
                           f"expected {list(wanted[name])}")
        elif part.get_dtype() not in _STORED.values():
          misshapen.append(f"{name} is of {part.get_dtype()}, expected one of "
                           f"{', '.join(_STORED.values())}")
  if misshapen or wanted.keys() != found.keys():
    raise refuse(_listing(
      f"{root} does not fit its config.json", wanted.keys() - found.keys(),
      found.keys() - wanted.keys(), misshapen))
  return found


def _files(root: pathlib.Path, refuse: json_file.Refuse) -> dict[str, Place]:
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
  found: dict[str, Place] = {}
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
    found |= {tensor: Place(path, tensor) for tensor in tensors}
  actual = {tensor: place.file.name for tensor, place in found.items()}
  if placed is not None and placed != actual:
    raise refuse(_listing(
      f"{root / INDEX} and its files differ", placed.keys() - found.keys(),
      found.keys() - placed.keys(),
      [f"{tensor} is in {actual[tensor]}, not in {placed[tensor]}"
       for tensor in placed.keys() & actual.keys()
       if placed[tensor] != actual[tensor]]))
  return found


def _equal(a: Place, b: Place) -> bool:
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


def dtype(root: pathlib.Path, name: str) -> str | None:
  """The dtype of a tensor as safetensors names it; None if it is not there."""
  for path in sorted(root.glob("*.safetensors")):
    with safetensors.safe_open(path, "np") as file:
      if name in set(file.keys()):
        return str(file.get_slice(name).get_dtype())
  return None


class Spec(NamedTuple):
  """What the header of a file says of a tensor."""

  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """The size of the tensor."""
    return self.dtype.itemsize * math.prod(self.shape)


def write(path: pathlib.Path, specs: Mapping[str, Spec],
          tensor: Callable[[str], np.ndarray]) -> None:
  """Writes a file as `safetensors` does, with one tensor in memory at a time.

  Args:
    path: the file.
    specs: dtypes, each a floating-point one, and shapes by name.
    tensor: returns the tensor of a name, of its dtype and shape. It is called
      in the order of the file: by width, then by name.
  """
  order = list(_STORED)
  names = sorted(
    specs, key=lambda name: (order.index(specs[name].dtype.name), name))
  header: dict[str, object] = {"__metadata__": {"format": "pt"}}
  end = 0
  for name in names:
    spec = specs[name]
    start, end = end, end + spec.nbytes
    header[name] = {"dtype": _STORED[spec.dtype.name],
                    "shape": list(spec.shape), "data_offsets": [start, end]}
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)  # the tensors are aligned to 8 bytes
  with open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
      array = tensor(name)
      if (array.dtype, array.shape) != specs[name]:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected "
                         f"{specs[name]}")
      file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
