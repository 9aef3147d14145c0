"""Published models in buckets, as local directories.

Their files are large: they are streamed, by the library that Orbax uses too.
"""

import fnmatch
import functools
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Sequence

from huggingface_hub import constants

from dlrl.buckets import mirror
from dlrl.buckets import objects

# Uploaded last: a directory without these files is not taken for a model, so
# nobody loads one whose upload is unfinished.
_LAST = ("config.json", "adapter_config.json")


def fetch(url: str, patterns: Sequence[str], refuse: objects.Refuse
          ) -> pathlib.Path:
  """A local directory with the files of a model that are asked for.

  It is kept below `HF_HOME`, like models of the Hub, and downloaded again when
  the model has changed.

  Args:
    url: `gs://BUCKET/PATH`.
    patterns: names of files, as of `fnmatch`. It is no error if there is none.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes: there is no such directory, it may not be read, or it
      changes while it is read.
    objects.BucketError: the bucket cannot be reached.
  """
  url = url.rstrip("/")
  if not any("/" not in name for name in objects.names(url, refuse)):
    raise refuse("there are no files; correct it, or name the directory of a "
                 "downloaded checkpoint")
  try:
    found = _files(url)
    root = _root(url, tuple(sorted(found.items())))
    for name in found:
      if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
        _download(url, name, found[name], root, refuse)
  except OSError as e:
    raise objects.BucketError(f"{url} cannot be downloaded to "
                              f"{constants.HF_HOME} ({e})") from e
  return root


def upload(directory: pathlib.Path) -> None:
  """Writes the files of a local copy to its bucket; see `mirror`."""
  url = mirror.remote(directory)
  if objects.named(url):
    for file in sorted(directory.iterdir(), key=lambda f: f.name in _LAST):
      objects.filesystem().put_file(str(file), f"{url}/{file.name}")


@functools.cache
def _files(url: str) -> dict[str, str]:
  """The generation of each file, when this process first asked."""
  return {file["name"].rpartition("/")[2]: str(file["generation"])
          for file in objects.filesystem().ls(url, detail=True)
          if file["type"] == "file" and not file["name"].endswith("/")}


def _root(url: str, files: tuple[tuple[str, str], ...]) -> pathlib.Path:
  name = hashlib.sha256(json.dumps([url, files]).encode()).hexdigest()[:16]
  return pathlib.Path(constants.HF_HOME) / "dlrl" / name


def _download(url: str, name: str, generation: str, root: pathlib.Path,
              refuse: objects.Refuse) -> None:
  if (root / name).exists():
    return
  root.mkdir(parents=True, exist_ok=True)
  partial = root / f".{secrets.token_hex(8)}.partial"
  try:
    objects.filesystem().get_file(f"{url}/{name}", str(partial))
    there = objects.filesystem().info(f"{url}/{name}")
    if (str(there["generation"]), there["size"]) != (
        generation, partial.stat().st_size):
      raise refuse(f"its {name} has changed while it was read; try again")
    os.replace(partial, root / name)
  finally:
    partial.unlink(missing_ok=True)
