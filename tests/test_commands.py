"""`dlrl COMMAND`: help at once, names of configs, and ends by exit code."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest
import runs
from absl import flags
from absl.testing import flagsaver

from dlrl import commands
from dlrl import config
from dlrl import score
from dlrl import strict
from dlrl import validate
from dlrl.commands import __main__ as entry
from dlrl.commands import help as help_lib
from dlrl.config import listing
from dlrl.evaluation import protocols
from dlrl.presets import names
from dlrl.sampling import denoise
from dlrl.sampling import remasking
from dlrl.tasks.published_scorers import scorers

HEAVY = ("jax", "numpy", "flax", "optax", "orbax", "tensorflow", "grain")


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
  """(code, stdout, stderr) of a command in this process, which spares imports.
  """
  def run(*args):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["dlrl", *args])
    capsys.readouterr()
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
      entry.main()
    return end.value.code or 0, *capsys.readouterr()

  return run


def dlrl(*args, cwd, **environment):
  """The same of a process, as if installed."""
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.commands", *args], cwd=cwd, check=False,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)} | environment, text=True,
    capture_output=True, timeout=100)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["", *commands.PROGRAMS])
def test_help_is_printed_without_anything_heavy(command, tmp_path):
  # An import that fails shows what was imported, however fast the machine is.
  for name in HEAVY:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('heavy')\n")
  code, out, error = dlrl(
    *filter(None, [command]), "--help", cwd=tmp_path,
    PYTHONPATH=f"{tmp_path}:{runs.ROOT}")
  assert (code, error) == (0, "")
  assert max(map(len, out.splitlines())) <= 80
  if not command:
    assert all(f"\n  dlrl {name} --" in out for name in commands.PROGRAMS)
  else:
    assert out.startswith(f"dlrl {command} --")


@pytest.mark.parametrize("command", ["train", "evaluate", "config", "fit"])
def test_the_help_has_every_setting_with_all_that_is_known_of_it(command):
  text = " ".join(help_lib.text(command).split())
  for name, field, default in strict.knobs(config.Config()):
    kind = type(default).__name__
    unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
    start = text.index(f" {name} (")
    entry = text[start:start + 400]
    assert entry.startswith(f" {name} ({kind}"), entry
    assert f"; default {default!r}{unit}) {field.metadata['meaning']}" in entry
    assert str(field.metadata["bounds"]) in entry


def test_the_list_for_the_documentation_has_the_same_settings_as_the_help():
  documented = [s._replace(allowed="") for s in validate.settings()]
  assert documented == [s._replace(allowed="") for s in listing.settings({})]


@pytest.mark.parametrize("command", commands.PROGRAMS)
def test_the_help_has_every_flag_with_its_default(command):
  values, text = flags.FlagValues(), " ".join(help_lib.text(command).split())
  commands.define(command, values)
  assert len(values)
  for name in values:
    flag = values[name]
    assert f" --{name} ({flag.flag_type()}" in text
    assert " ".join(flag.help.split()) in text
    if flag.default not in (None, ""):
      assert f"; default {flag.default})" in text


@pytest.mark.parametrize(("command", "flag", "table"), [
  ("chat", "remasking", remasking.RULES), ("chat", "cache", denoise.CACHES),
  ("evaluate", "protocol", ["", *protocols.PROTOCOLS]),
  ("score", "task", score.TASKS), ("score", "scorer", scorers.SCORERS)])
def test_the_choices_of_flags_are_those_that_the_programs_have(
    command, flag, table):
  values = flags.FlagValues()
  commands.define(command, values)
  assert values[flag].parser.enum_values == list(table)


@pytest.mark.parametrize("command", commands.PROGRAMS)
def test_each_command_is_a_program(command):
  source = pathlib.Path(importlib.util.find_spec(
    commands.PROGRAMS[command]).origin).read_text()
  assert f'command.start(\n    "{command}", ' in source or (
    f'command.start("{command}", ' in source)


@pytest.mark.parametrize(("args", "line"), [
  (["trian"], "dlrl: 'trian' is no command; did you mean 'train'?"),
  (["x"], "dlrl: 'x' is no command; choose from train, evaluate, chat, "),
  (["train", "--config=bgop:smoke"],
   "dlrl: --config=bgop:smoke: there is no such file; did you mean 'bgpo'?"),
  (["config", "--config", "bgpo:smok"],
   "dlrl: --config=bgpo:smok: unknown preset 'smok'; did you mean 'smoke'? "),
  (["config"], "dlrl: flag --config=None: name a config file, or one of "),
])
def test_what_is_misspelt_ends_with_one_line_and_the_nearest_name(
    args, line, here):
  code, out, error = here(*args)
  assert (code, out, error.count("\n")) == (2, "", 1)
  assert error.startswith(line)


def test_a_config_is_printed_with_its_changes_and_checked(here, tmp_path):
  asked = ["config", "--config=bgpo:smoke", "--config.learn.n_mc=6"]
  code, out, error = dlrl(*asked, cwd=tmp_path)
  assert (code, error) == (0, "dlrl: no problem found\n")
  lines = out.splitlines()
  assert [line.split(" = ")[0] for line in lines] == [
    name for name, _, _ in strict.knobs(config.Config())]
  assert "learn.n_mc = 6  # default 16" in lines
  assert "learn.loss = 'bgpo'" in lines
  assert list(tmp_path.iterdir()) == []

  code, out, error = here(
    *asked, "--config.learn.micro_batch=7", "--config.model.kv_heads=3")
  assert code == 2
  assert "learn.micro_batch = 7  # default 128" in out.splitlines()
  head, *found = error.splitlines()
  assert head == "dlrl: 2 problems:"
  assert [line.split(" = ")[0] for line in found] == [
    "  config.model.kv_heads", "  config.learn.micro_batch"]


def test_a_setting_and_a_flag_that_do_not_exist_are_reported_together(here):
  assert here("config", "--config=bgpo:smoke", "--config.learn.nmc=3",
              "--confg=x") == (
    2, "", "dlrl: 2 problems:\n"
    "  config.learn.nmc = '3': unknown key; did you mean 'n_mc'?\n"
    "  --confg=x: unknown flag; did you mean --config?\n")


def test_devices_to_fit_that_do_not_exist_are_named_as_their_flag(here):
  code, out, error = here("fit", "--config=bgpo:smoke", "--devices=v5x-4")
  assert (code, out, error.count("\n")) == (2, "", 1)
  assert error.startswith("dlrl: --devices=v5x-4: unknown accelerator; use ")


def test_names_stand_for_the_files_of_dlrl_unless_there_is_such_a_file(
    tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert names.shipped() == sorted(
    path.stem for path in (runs.ROOT / "configs").glob("*.py")
    if path.stem != "__init__")
  path, _, preset = names.resolve("bgpo:smoke").partition(":")
  assert preset == "smoke"
  assert pathlib.Path(path).samefile(runs.ROOT / "configs" / "bgpo.py")
  assert ":" not in names.resolve("bgpo")
  for given in ("bgop", "configs/bgpo.py:smoke", "/x/bgpo:smoke", ""):
    assert names.resolve(given) == given
  (tmp_path / "bgpo").write_text("")
  assert names.resolve("bgpo:smoke") == "bgpo:smoke"


def test_a_file_that_is_misspelt_is_looked_for_beside_it(
    tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my_run.py").write_text("")
  assert names.nearest(str(tmp_path / "my_rnu.py")) == [
    str(tmp_path / "my_run.py")]
  assert names.nearest("configs/espo.py") == ["espo"]
  assert names.nearest(str(tmp_path / "absent" / "zzz.py")) == []


def test_a_preset_that_is_misspelt_is_found_among_all_presets():
  error = names.unknown("llada_8b_mth", ["smoke"], ["llada_8b_math"])
  assert str(error) == (
    "unknown preset 'llada_8b_mth'; did you mean 'llada_8b_math'? use 'smoke'")
  assert str(names.unknown("x", ["a", "b"])) == (
    "unknown preset 'x'; use 'a', 'b'")
