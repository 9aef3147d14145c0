"""The layout of the code: layers, sizes, and names."""

import ast
import collections
import graphlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From the ground up: whatever is in a row imports only from rows above it.
LAYERS = (
  ("strict",),
  ("buckets",),
  ("keys", "losses"),
  ("config", "costs", "diffusion", "hub", "sandbox"),
  ("own_code",),
  ("optimizer", "presets", "runtime", "tasks"),
  ("commands", "data", "models", "storage"),
  ("sampling", "scoring"),
  ("update",),
  ("run", "validate"),
  ("chat", "evaluation", "export", "rollout", "score"),
  ("evaluate", "sft"),
  ("train",),
  ("compile_only",),
  ("main", "programs"),
)
LAYER = {room: i for i, row in enumerate(LAYERS) for room in row}
MAX_MODULES = 16  # in one folder
MAX_LINES, MAX_FUNCTION = 400, 60
MAX_IMPORTS_OF_TRAIN = 11


def name_of(path):
  """`dlrl.losses` for `dlrl/losses/__init__.py`."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.glob("dlrl/**/*.py"))}
SOURCES = [path for folder in ("dlrl", "configs", "benchmarks", "docs", "tests")
           for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(module):
  """Our own modules that a module names, also those inside of functions."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[module].read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names if alias.name in MODULES}
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        name = f"{node.module}.{alias.name}"
        found.add(name if name in MODULES else node.module)
  return {name for name in found if name.partition(".")[0] == "dlrl"}


IMPORTS = {module: imports(module) for module in MODULES}


def room(module):
  """The package or module directly below `dlrl` that a module is part of."""
  return module.split(".")[1]


def test_every_room_has_a_layer():
  assert {room(m) for m in MODULES if m != "dlrl"} == LAYER.keys()


def test_rooms_import_only_from_the_layers_below():
  upward = sorted(
    f"{module} imports {other}" for module in MODULES for other in
    IMPORTS[module] if "dlrl" not in (module, other)
    and room(module) != room(other)
    and LAYER[room(module)] <= LAYER[room(other)])
  assert not upward


def test_modules_import_each_other_in_no_circle():
  # A package's `__init__` may gather the modules beside it.
  graph = {module: others - {module.rpartition(".")[0]}
           for module, others in IMPORTS.items()}
  list(graphlib.TopologicalSorter(graph).static_order())


def test_the_loop_is_passed_what_it_needs():
  assert len(IMPORTS["dlrl.train"]) <= MAX_IMPORTS_OF_TRAIN


def test_a_folder_can_be_taken_in_at_a_glance():
  sizes = collections.Counter(
    path.parent for path in MODULES.values() if path.stem != "__init__")
  assert {str(folder.relative_to(ROOT)): n for folder, n in sizes.items()
          if n > MAX_MODULES} == {}


def test_no_module_has_the_name_of_one_of_the_standard_library():
  # A process that is started in its folder would import it instead.
  assert not {m for m in MODULES
              if m.rpartition(".")[2] in sys.stdlib_module_names}


def test_files_of_tests_have_names_of_their_own():
  # pytest imports them by their names alone, and refuses the second.
  names = collections.Counter(
    path.name for path in (ROOT / "tests").rglob("test_*.py"))
  assert [name for name, n in names.items() if n > 1] == []


def has_no_encoding(call):
  """Whether a call reads or writes text in whatever the locale says."""
  given = {keyword.arg: keyword.value for keyword in call.keywords}
  name = ast.unparse(call.func)
  if "encoding" in given:
    return False
  if name.startswith("subprocess."):
    return "text" in given or "universal_newlines" in given
  if name.endswith((".read_text", ".write_text")):
    # Not modules' own functions of that name.
    return name.partition(".")[0] not in ("workdir_lib", "workdir")
  if name.rpartition(".")[2] not in ("open", "fdopen") or name in (
      "os.open", "tarfile.open", "urllib.request.urlopen", "Image.open",
      "tensorstore.KvStore.open"):
    return False
  place = 1 if name in ("open", "os.fdopen") else 0  # of the mode
  mode = given.get("mode") or (
    call.args[place] if len(call.args) > place else ast.Constant("r"))
  return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


def test_texts_are_read_and_written_in_an_encoding_that_is_named():
  found = [
    f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
    for path in SOURCES if "tests" not in path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Call) and has_no_encoding(node)]
  assert not found


@pytest.mark.parametrize("text, bad", [
  ("open(p)", True), ("open(p, 'w')", True), ("open(p, 'rb')", False),
  ("open(p, mode='r+b')", False), ("open(p, encoding='utf-8')", False),
  ("path.open()", True), ("path.open('ab')", False), ("os.open(p, f)", False),
  ("path.read_text()", True), ("path.write_text(t)", True),
  ("path.write_text(t, encoding='ascii')", False),
  ("os.fdopen(fd)", True), ("os.fdopen(fd, 'rb')", False),
  ("subprocess.run(c, text=True)", True), ("subprocess.run(c)", False),
  ("subprocess.run(c, text=True, encoding='utf-8')", False)])
def test_the_search_for_encodings_finds_what_lacks_one(text, bad):
  assert has_no_encoding(ast.parse(text, mode="eval").body) == bad


def test_files_and_functions_are_short():
  found = []
  for path in SOURCES:
    text, name = path.read_text(), path.relative_to(ROOT)
    if text.count("\n") > MAX_LINES:
      found.append(f"{name}: {text.count(chr(10))} lines")
    # A config is a list of settings, however long.
    for node in [] if name.parts[0] == "configs" else ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = node.end_lineno - node.lineno + 1
        if lines > MAX_FUNCTION:
          found.append(f"{name}: {node.name} has {lines} lines")
  assert not found
