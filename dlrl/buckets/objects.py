"""Small objects of a bucket, replaced only by who knows what was there.

An object is written by a single request, so that it is there as a whole or not
at all. Each write names the generation that it replaces: of two writers, the
second learns of the first.
"""

import contextlib
import functools
import importlib.util
import logging
import re
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

# Makes the error about a URL that cannot be used, from what to do about it.
Refuse = Callable[[str], Exception]

SCHEME = "gs://"
# Libraries read other characters as parts of a URL, or as patterns.
_PART = r"(?!\.+(/|$))[\w.=+,@:~-]+"
_URL = re.compile(
  rf"gs://[a-z0-9][a-z0-9._-]{{1,61}}[a-z0-9](/{_PART})*/?", re.ASCII)
_NAME = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)
# About half a minute, with a connection that fails at once.
_RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}
_SECONDS = 120.0  # for one request with all its repetitions
_CODE = re.compile(r"^[A-Z_]+: (All \d+ retry attempts failed: )?")
_LOGIN = ("run `gcloud auth application-default login`, or set "
          "GOOGLE_APPLICATION_CREDENTIALS to the file of a service account")


class BucketError(ValueError):
  """A bucket that cannot be used any more; often it can be later."""


class ChangedError(BucketError):
  """An object that another process has written meanwhile."""


def named(path: object) -> bool:
  """Whether a path is the URL of a bucket or of what is in one."""
  return isinstance(path, str) and path.startswith(SCHEME)


def problem(path: str) -> str:
  """Says why a URL is malformed or unsupported; "" for any other path.

  It looks only at the text, and sends no request.
  """
  if named(path) and not _URL.fullmatch(path):
    return ("must be gs://BUCKET/PATH, of letters without accents, digits, and "
            "any of ._-=+,@:~")
  if "://" in path and not named(path):
    return ("only local paths and gs:// are supported, because Orbax, which "
            "writes the checkpoints, can list no other stores; mount the "
            "bucket")
  return ""


def names(url: str, refuse: Refuse) -> list[str]:
  """The names of all objects below a URL, relative to it.

  Names that could not be those of files below a directory are left out.

  Args:
    url: `gs://BUCKET/PATH`.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes: the URL is malformed, there is no such bucket, it may
      not be read, or the package for it is missing.
    BucketError: it cannot be reached.
  """
  wrong = problem(url)
  if wrong:
    raise refuse(wrong)
  if importlib.util.find_spec("gcsfs") is None:
    raise refuse("needs gcsfs: pip install gcsfs")
  denied = refuse(f"may not be read with the credentials here: {_LOGIN}, and "
                  "grant it Storage Object User on the bucket")
  try:
    get(url, "lock")  # of any name: whether one may ask, and gets an answer
    # Not TensorStore's list, which is empty where one may not list.
    found = filesystem().find(url)
  except FileNotFoundError as e:
    raise refuse("there is no such bucket; create it, or correct the "
                 "name") from e
  except BucketError as e:
    if str(e.__cause__).startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
      raise denied from e
    raise
  except OSError as e:  # one may read, and not list
    raise denied from e
  prefix = url.removeprefix(SCHEME).rstrip("/") + "/"
  below = [name.removeprefix(prefix) for name in found
           if name.startswith(prefix)]
  return [name for name in below if _NAME.fullmatch(name)]


def get(url: str, name: str, known: bytes | None = None
        ) -> tuple[bytes | None, bytes]:
  """`(content, generation)` of an object.

  Args:
    url: `gs://BUCKET/PATH`.
    name: of the object below it.
    known: a generation whose content need not be read again.

  Returns:
    The content is None if there is no object, or if its generation is `known`.

  Raises:
    BucketError: it cannot be read.
  """
  with _explained(url):
    found = _store(url).read(name, if_not_equal=known).result(timeout=_SECONDS)
  return (found.value if found.state == "value" else None,
          found.stamp.generation)


def put(url: str, name: str, data: bytes, expected: bytes,
        seconds: float = _SECONDS) -> bytes:
  """Writes an object and returns its generation.

  Args:
    url: `gs://BUCKET/PATH`.
    name: of the object below it.
    data: what it will hold.
    expected: the generation that it replaces; `absent()`: none.
    seconds: how long to wait. The object may still be written afterwards.

  Raises:
    ChangedError: the object has another generation, and another content.
    BucketError: it cannot be written.
  """
  with _explained(url):
    written = _store(url).write(name, data, if_equal=expected).result(
      timeout=seconds).generation
  if written:
    return written
  there, generation = get(url, name)
  # A request that is repeated, because the answer to it was lost, finds what it
  # has written itself.
  if there != data:
    raise ChangedError(f"{url}/{name} was changed by another process meanwhile")
  return generation


def fresh_listings() -> None:
  """Makes gcsfs list a bucket anew each time: other processes write to it."""
  import fsspec  # as late as TensorStore: `dlrl --help` imports this module

  fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def filesystem() -> Any:
  """gcsfs, which Orbax uses too: lists, and streams large files."""
  fresh_listings()
  # It logs the tracebacks of errors that it raises.
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
  import fsspec

  return fsspec.filesystem("gcs")


@functools.cache
def absent() -> bytes:
  """The generation of objects that do not exist."""
  import tensorstore

  store = tensorstore.KvStore.open("memory://").result()
  return store.read("none").result().stamp.generation


@functools.cache
def _store(url: str) -> Any:
  import tensorstore

  bucket, _, path = url.removeprefix(SCHEME).partition("/")
  return tensorstore.KvStore.open({
    "driver": "gcs", "bucket": bucket, "path": f"{path}/" if path else "",
    "context": {"gcs_request_retries": _RETRIES}}).result()


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
  """Turns TensorStore's errors, which have no types, into `BucketError`."""
  try:
    yield
  except TimeoutError as e:
    raise BucketError(f"{url} does not answer") from e
  except ValueError as e:
    said = _CODE.sub("", str(e).partition("\n")[0].partition(" [")[0])
    raise BucketError(f"{url} cannot be used ({said})") from e
