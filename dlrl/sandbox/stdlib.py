"""Python's standard library in memory, for a process that can open no file."""

import builtins
import importlib
import importlib.machinery
import importlib.util
import marshal
import os
import sys
import types
from collections.abc import Sequence

# Imported before the fork: modules that programs are likely to use, and all
# extension modules, which cannot be loaded from memory. Others are imported
# when a program asks for them.
_LOADED = """
  _strptime abc array ast asyncio base64 binascii bisect bz2 calendar cmath
  collections.abc contextlib copy csv ctypes dataclasses datetime decimal
  difflib enum fractions functools gc hashlib heapq hmac html.parser inspect io
  itertools json keyword locale logging lzma math numbers operator pickle
  platform pprint queue random re resource sched secrets select shlex shutil
  signal socket statistics string struct subprocess tempfile textwrap threading
  time timeit token tokenize traceback types typing unicodedata unittest
  unittest.mock urllib.parse uuid weakref xml.etree.ElementTree zlib zoneinfo
  encodings.ascii encodings.idna encodings.latin_1 encodings.utf_8_sig
  _multibytecodec mmap fcntl errno"""
_SKIPPED = frozenset({
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip",
    "site-packages", "dist-packages", "__pycache__", "lib-dynload",
    "pydoc_data", "__phello__", "tests"})


class _MemoryImporter:
  """Finds and loads modules whose content is in memory."""

  def __init__(self, table: dict[str, tuple[bool, bytes, bool]]) -> None:
    self._table = table  # name: (is a package, content, is compiled)

  def find_spec(self, name: str, path: Sequence[str] | None = None,
                target: types.ModuleType | None = None,
                ) -> importlib.machinery.ModuleSpec | None:
    del path, target
    if name not in self._table:
      return None
    # typeshed asks for a subclass of an abstract loader; Python does not.
    return importlib.machinery.ModuleSpec(
        name, self, origin=name,  # type: ignore[arg-type]
        is_package=self._table[name][0])

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
    """Leaves it to the import system to create the module."""

  def exec_module(self, module: types.ModuleType) -> None:
    _, content, compiled = self._table[module.__name__]
    code = (marshal.loads(content) if compiled
            else compile(content, module.__name__, "exec"))
    exec(code, module.__dict__)


def load() -> None:
  """Imports common modules, keeps the others in memory, clears `sys.path`."""
  folder = os.path.dirname(os.__file__)
  for name in _LOADED.split():
    try:
      importlib.import_module(name)
    except ImportError:
      continue  # this Python was built without it, so programs cannot have it
  # The module `site` defines these, but it does not run here.
  builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
  # The importers of built-in and of frozen modules stay; files are not read.
  sys.meta_path[2:] = [_MemoryImporter(_read(folder))]
  sys.path.clear()
  sys.path_importer_cache.clear()


def _read(folder: str) -> dict[str, tuple[bool, bytes, bool]]:
  table = {}
  for place, folders, files in os.walk(folder):
    folders[:] = [name for name in folders if name not in _SKIPPED]
    parts = os.path.relpath(place, folder).split(os.sep)
    for file in files:
      if not file.endswith(".py"):
        continue
      path = os.path.join(place, file)
      name = ".".join([*parts, file[:-3]]).removeprefix("..")
      package = name.endswith(".__init__")
      table[name.removesuffix(".__init__")] = (package, *_content(path))
  return table


def _content(path: str) -> tuple[bytes, bool]:
  """Returns a file's compiled code if it is cached, else its source."""
  cached = importlib.util.cache_from_source(path)
  if os.path.exists(cached):
    with open(cached, "rb") as file:
      if file.read(16)[:4] == importlib.util.MAGIC_NUMBER:
        return file.read(), True
  with open(path, "rb") as file:
    return file.read(), False
