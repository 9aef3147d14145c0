"""README and docs show what works: blocks run, and their names exist."""

import ast
import importlib
import inspect
import json
import os
import pathlib
import re
import runpy
import shutil
import stat
import subprocess
import sys

import jax
import pages
import pytest
import runs
from absl import flags
from ml_collections import config_flags

from dlrl import commands
from dlrl import config
from dlrl import losses
from dlrl.presets import names
from dlrl.run import command

ROOT = runs.ROOT
PYTHON, SHELL = pages.blocks("python"), pages.blocks("sh")
COMMANDS = [(block, words) for block in SHELL
            for words in pages.commands(block)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory, published):
  """A directory with the files that the pages speak of."""
  path = tmp_path_factory.mktemp("desk")
  for name in ("configs", "launch", "benchmarks"):
    (path / name).symlink_to(ROOT / name)
  (path / "GSAI-ML").mkdir()  # a path that exists is no name on the Hub
  (path / "GSAI-ML" / "LLaDA-8B-Instruct").symlink_to(published)
  for split in ("train", "val", "validation", "test"):
    (path / f"{split}.jsonl").write_text("".join(
      json.dumps({"prompt": f"{i}+{len(split)}=",
                  "solution": str(i + len(split))}) + "\n" for i in range(40)))
  rewards = next(b for b in PYTHON if b.page == "docs/own_task.md")
  (path / "my_rewards.py").write_text(rewards.text)
  for page, name in (("own_loss", "my_losses"), ("own_task", "my_tasks"),
                     ("own_forward_process", "my_processes")):
    (path / f"{name}.py").write_text("\n\n".join(
      b.text for b in PYTHON if b.page == f"docs/{page}.md"
      and b.reason is None and not b.text.startswith("def correct")))
  return path


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({b.page for b in PYTHON}))
def test_python_blocks_run(page, desk, monkeypatch):
  monkeypatch.chdir(desk)
  shared = {"__name__": "page"}
  with jax.numpy_rank_promotion("allow"):  # as with most users
    for block in PYTHON:
      if block.page == page and block.reason is None:
        exec(compile(block.text, str(block), "exec"), shared)


def imported(tree):
  """The modules that a block imports, by the names it gives them."""
  found = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        module = importlib.import_module(alias.name)
        top = importlib.import_module(alias.name.split(".")[0])
        found[alias.asname or top.__name__] = module if alias.asname else top
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        module = importlib.import_module(node.module)
        found[alias.asname or alias.name] = getattr(
          module, alias.name, None) or importlib.import_module(
            f"{node.module}.{alias.name}")
  return found


def find(node, names):
  """Resolves a name such as `losses.bgpo`; None if it is not imported."""
  if isinstance(node, ast.Name):
    return names.get(node.id)
  if isinstance(node, ast.Attribute):
    owner = find(node.value, names)
    return None if owner is None else getattr(owner, node.attr)
  return None


@pytest.mark.parametrize(
  "block", [b for b in PYTHON if b.reason is not None], ids=str)
def test_python_blocks_that_are_not_run_name_what_exists(block):
  tree = ast.parse(block.text)
  names = imported(tree)
  for node in ast.walk(tree):
    find(node, names)
    if isinstance(node, ast.Call) and (function := find(node.func, names)):
      inspect.signature(function).bind_partial(
        *node.args, **{k.arg: None for k in node.keywords if k.arg})


@pytest.mark.parametrize("block", pages.blocks("json"), ids=str)
def test_json_blocks_are_json_or_lines_of_it(block):
  try:
    json.loads(block.text)
  except ValueError:
    for line in block.text.splitlines():
      json.loads(line)


def source_of(module):
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:  # not a module, but a name in one
    return ""
  return pathlib.Path(spec.origin).read_text() if spec else ""


def defined_flags(program):
  """Names of the flags of a program: its own, and of modules it imports."""
  for name, module in commands.PROGRAMS.items():
    if module == program:
      values = flags.FlagValues()
      commands.define(name, values)
      return set(values)
  source = source_of(f"{program}.__main__") or source_of(program)
  assert '__name__ == "__main__"' in source, f"{program} is not a program"
  imports = re.findall(
    r"^from ((?:benchmarks|dlrl)[\w.]*) import (\w+)", source, re.M)
  # Below `__main__` an imported module has flags of a program of its own.
  texts = [source, *(
    source_of(f"{package}.{name}").partition("if __name__ ==")[0]
    for package, name in imports)]
  return {*re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", "".join(texts))}


@pytest.mark.parametrize(
  ("block", "words"), COMMANDS,
  ids=[f"{block}-{i}" for i, (block, _) in enumerate(COMMANDS)])
def test_a_command_names_what_exists(block, words, monkeypatch):
  monkeypatch.chdir(ROOT)
  program, rest = words[0], words[1:]
  if program == "make":
    target = rest[0]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
  elif program.endswith("pip") or rest[:2] == ["-m", "pip"]:
    extras = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"\[(\w+)\]", " ".join(rest)):
      assert f"\n{extra} = [" in extras
  elif program.startswith("launch/"):
    assert os.access(ROOT / program, os.X_OK)
    check_flags("dlrl.main", rest[1:], monkeypatch)
  elif program == "pytest" or rest[:2] == ["-m", "pytest"]:
    for path in (word for word in rest if word.startswith("tests")):
      assert (ROOT / path).exists(), path
  elif program == "docker":
    assert rest[0] == "push" or rest[-1] == "."
  elif program == "xpk":
    command, = (word for word in rest if word.startswith("--command="))
    _, name, *given = command.split()
    check_flags(commands.PROGRAMS[name], given, monkeypatch)
  elif program.endswith("dlrl"):
    check_flags(commands.PROGRAMS[rest[0]], rest[1:], monkeypatch)
  elif re.search(r"python3?$", program) and rest[0] == "-m":
    if rest[1] != "venv":
      check_flags(rest[1], rest[2:], monkeypatch)
  else:
    pytest.fail(f"{block}: what is {program}?")


def check_flags(module, words, monkeypatch):
  """Every flag is the program's; settings are parsed as the program does."""
  known, settings = defined_flags(module), []
  for word in words:
    if not word.startswith("--"):
      continue
    name = word[2:].split("=")[0]
    assert name.split(".")[0] in known, f"{module} has no flag --{name}"
    if name.startswith("config") and not word.endswith("=..."):
      settings.append(word)
  if settings:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      "config", None, "", flag_values=values, lock_config=True)
    settings = command.with_path(settings)
    # The flag of a config looks there for the settings that it changes.
    monkeypatch.setattr(sys, "argv", [module, *settings])
    values(sys.argv)
    assert values.config is not None


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.stem)
def test_settings_configs_and_modules_named_on_a_page_exist(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  text = page.read_text()
  known = config.default()
  for name in re.findall(r"--config\.([a-z][\w.]*\w)", text):
    here = known
    for part in name.split("."):
      assert part in here, f"no setting {name}"
      here = here[part]
  for stem, preset in re.findall(r"configs/([a-z]\w*)\.py(?::([a-z]\w*))?\b",
                                 text):
    if not preset.endswith("_"):
      importlib.import_module(f"configs.{stem}").get_config(
        *([preset] if preset else []))
  for stem, preset in re.findall(
      r"--config=([a-z]\w*)(?::([a-z]\w*))?(?![\w.:=/])", text):
    path, _, _ = names.resolve(f"{stem}:{preset}").partition(":")
    runpy.run_path(path)["get_config"](*([preset] if preset else []))
  for module in re.findall(r"python -m ((?:dlrl|benchmarks)[\w.]*\w)", text):
    assert importlib.util.find_spec(module), module
  for path in re.findall(
      r"`((?:dlrl|tests|docs|launch|configs|benchmarks)/[\w./-]+\.\w+)`", text):
    # Capitals stand for a name of the reader's; `floored` is the page's own.
    if not re.search("[A-Z]{3}", path.split(".")[0]) and "floored" not in path:
      assert (ROOT / path).exists(), path


def test_the_reference_has_every_public_loss():
  listed = {*re.findall(r"^::: (\S+)$", (
    ROOT / "docs" / "api" / "losses.md").read_text(), re.M)}
  for name in losses.__all__:
    module = getattr(getattr(losses, name), "__module__", None)
    if module and module.startswith("dlrl."):
      assert module in listed, f"{name} of {module}"


SMALL = [f"--config.{k}={v}" for k, v in {
  "steps": 2, "sft.steps": 2, "sft.batch_size": 16, "rollout.prompts": 4,
  "rollout.group_size": 4, "learn.n_mc": 2, "learn.micro_batch": 16,
  "eval.size": 16, "eval.batch_size": 16, "learn.optimizer.warmup_steps": 0,
}.items()]


@pytest.fixture(scope="module")
def shell(desk, sudoku_dir):
  """Runs a block in the desk; what it trains is small."""
  python = desk / "bin" / "python"
  python.parent.mkdir()
  small = " ".join([*SMALL, f"--config.task.data_dir={sudoku_dir}"])
  python.write_text(
    "#!/usr/bin/env bash\ncase \"$*\" in\n"
    f"*\"-m dlrl.main \"*) exec {sys.executable} \"$@\" {small} ;;\n"
    f"*) exec {sys.executable} \"$@\" ;;\nesac\n")
  command = desk / "bin" / "dlrl"
  command.write_text(
    "#!/usr/bin/env bash\ncase $1 in\n"
    f"train) exec {sys.executable} -m dlrl.commands \"$@\" {small} ;;\n"
    f"*) exec {sys.executable} -m dlrl.commands \"$@\" ;;\nesac\n")
  for path in (python, command):
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
  (desk / ".venv").symlink_to(desk)
  environment = os.environ | {
    "PATH": f"{python.parent}:{os.environ['PATH']}",
    "PYTHONPATH": f"{ROOT}:{desk}"}

  def run(text):
    for path in (desk / "runs").glob("*"):
      if path.name != "bgpo":  # others are another config's on another page
        shutil.rmtree(path)
    subprocess.run(["bash", "-euc", text], cwd=desk, env=environment,
                   stdin=subprocess.DEVNULL, check=True)

  return run


@pytest.mark.docs_long
@pytest.mark.parametrize(
  "block", [b for b in SHELL if b.reason is None], ids=str)
def test_shell_blocks_run(block, shell):
  shell(block.text)
