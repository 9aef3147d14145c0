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

# What programs are likely to import, and all extension modules they need,
# which cannot be loaded from memory. The rest is imported on demand.
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


class _Stored:
  """Finds and loads modules from a table of names."""

  def __init__(self, table: dict[str, tuple[bool, bytes, bool]]):
    self._table = table  # name: (is a package, content, it is compiled)

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
    """Nothing special: the import system makes the module."""

  def exec_module(self, module: types.ModuleType) -> None:
    _, content, compiled = self._table[module.__name__]
    code = (marshal.loads(content) if compiled
            else compile(content, module.__name__, "exec"))
    exec(code, module.__dict__)


def load() -> None:
  """Imports common modules, keeps the others in memory, forgets all paths."""
  folder = os.path.dirname(os.__file__)
  for name in _LOADED.split():
    try:
      importlib.import_module(name)
    except ImportError:
      continue  # this Python was built without it; so are its programs
  # Usually there thanks to `site`, which is not run here.
  builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
  sys.meta_path[2:] = [_Stored(_read(folder))]  # after builtin and frozen
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
  """A file's compiled code if it is there; else the source."""
  cached = importlib.util.cache_from_source(path)
  if os.path.exists(cached):
    with open(cached, "rb") as file:
      if file.read(16)[:4] == importlib.util.MAGIC_NUMBER:
        return file.read(), True
  with open(path, "rb") as file:
    return file.read(), False
