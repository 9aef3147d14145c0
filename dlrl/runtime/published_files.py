"""Writes directories of published models, with copies of a checkpoint's files.

A checkpoint is a download: what is copied out of it is to be published, so a
link in it must not bring in a file of the user's.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from dlrl.buckets import models
from dlrl.runtime import progress

# Of configs, tokenizers, code and texts; "" for LICENSE and the like. Not of
# weights, whatever their format: they are those before training.
_SUFFIXES = {".jinja", ".json", ".md", ".model", ".py", ".tiktoken", ".txt", ""}
# The same as patterns, which know files without a suffix by their names.
COPIED = (
  *sorted(f"*{suffix}" for suffix in _SUFFIXES if suffix), "LICENSE", "NOTICE")
# These would make loaders look for other weights.
_OF_WEIGHTS = (".index.json", "adapter_config.json")


@contextlib.contextmanager
def directory(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new directory, which gets the name `out` when the block has ended.

  If `out` is in the local copy of a bucket, it is then uploaded.

  Raises:
    FileExistsError: `out` exists.
  """
  if os.path.lexists(out):
    raise FileExistsError(f"{out} exists; choose another name")
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(tempfile.mkdtemp(
    prefix=f"{out.name}.", suffix=".partial", dir=out.parent))
  try:
    yield partial
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o777 & ~umask)  # mkdtemp lets nobody else read it
    partial.rename(out)
    models.upload(out)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def copy(source: pathlib.Path, to: pathlib.Path) -> None:
  """Copies config, tokenizer, code and texts; prints what it leaves out.

  Left out are weights, hidden files, and links to files elsewhere. Snapshots in
  Hugging Face's cache are links to files beside them, which are copied.
  """
  left = []
  for file in sorted(source.iterdir()):
    if not file.is_file():
      continue
    weights = file.suffix not in _SUFFIXES or file.name.endswith(_OF_WEIGHTS)
    if not weights and not file.name.startswith(".") and _inside(file, source):
      shutil.copyfile(file.resolve(), to / file.name)
    elif file.suffix != ".safetensors":
      left.append(file.name)
  if left:
    progress.say(f"not copied from {source}, because they are weights, hidden "
                 f"or links to elsewhere: {', '.join(left)}")


def _inside(file: pathlib.Path, source: pathlib.Path) -> bool:
  root, target = source.resolve(), file.resolve()
  roots = [root]
  if root.parent.name == "snapshots":
    roots.append(root.parent.parent / "blobs")
  return any(target.is_relative_to(r) for r in roots)
