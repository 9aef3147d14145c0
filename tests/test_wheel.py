"""The wheel has all that a user needs who has no repository."""

import configparser
import email
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import runs

TINY = [f"--config.{k}={v}" for k, v in runs.TINY.items()
        if k != "rollout.rewards"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel, built from the files of the repository alone."""
  root = tmp_path_factory.mktemp("wheel")
  # setuptools writes beside what it builds.
  for name in ("configs", "dlrl", "LICENSE", "README.md", "pyproject.toml"):
    source = runs.ROOT / name
    if source.is_dir():
      shutil.copytree(source, root / "source" / name, symlinks=True,
                      ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copy(source, root / "source" / name)
  done = subprocess.run(
    [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet",
     "--disable-pip-version-check", "--retries=0", f"--wheel-dir={root}",
     str(root / "source")],
    capture_output=True, text=True, check=False, timeout=300)
  if done.returncode and "No matching distribution" in done.stderr:
    pytest.skip("no package index, from which pip gets setuptools")
  assert done.returncode == 0, done.stderr
  path, = root.glob("*.whl")
  return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
  """A directory with the wheel installed, without what it depends on."""
  target = tmp_path_factory.mktemp("installed")
  subprocess.run(
    [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet",
     "--disable-pip-version-check", "--no-index", f"--target={target}",
     str(wheel)], check=True, timeout=300)
  return target


def run(installed, *args, cwd):
  """The command `dlrl` of the wheel, in a directory without a repository."""
  return subprocess.run(
    [installed / "bin" / "dlrl", *args], cwd=cwd, check=False,
    env=os.environ | {"PYTHONPATH": str(installed)}, text=True,
    capture_output=True, timeout=300)


def test_the_wheel_has_every_file_of_the_package_and_of_configs(wheel):
  found = {name for name in zipfile.ZipFile(wheel).namelist()
           if ".dist-info/" not in name}
  there = [path for folder in ("dlrl", "configs")
           for path in (runs.ROOT / folder).rglob("*") if path.is_file()
           and "__pycache__" not in path.parts]
  names = [path.relative_to(runs.ROOT).as_posix() for path in there]
  assert found == {
    f"dlrl/{name}" if name.startswith("configs/") else name for name in names}
  assert {"dlrl/py.typed", "dlrl/configs/bgpo.py",
          "dlrl/tasks/countdown/texts/d1.txt"} < found


def test_the_metadata_say_what_a_package_index_shows(wheel):
  archive = zipfile.ZipFile(wheel)
  info = next(name.split("/")[0] for name in archive.namelist()
              if ".dist-info/" in name)
  said = email.message_from_bytes(archive.read(f"{info}/METADATA"))
  assert said["License-Expression"] == "Apache-2.0"
  assert said["Author"] == "dlrl contributors"
  assert "Typing :: Typed" in said.get_all("Classifier")
  assert said.get_all("Project-URL")
  assert f"{info}/licenses/LICENSE" in archive.namelist()
  scripts = configparser.ConfigParser()
  scripts.read_string(archive.read(f"{info}/entry_points.txt").decode())
  assert dict(scripts["console_scripts"]) == {
    "dlrl": "dlrl.commands.__main__:main"}


def test_the_installed_command_knows_the_configs_by_name(installed, tmp_path):
  done = run(installed, "config", "--config=stp:smoke", cwd=tmp_path)
  assert (done.returncode, done.stderr) == (0, "dlrl: no problem found\n")
  assert "steps = 4  # default 100" in done.stdout.splitlines()
  code = "import dlrl, sys; sys.exit(dlrl.__file__)"
  where = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, check=False, text=True,
    env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True)
  assert where.stderr.startswith(str(installed))


def test_a_copy_of_each_config_works_by_itself(installed, tmp_path):
  # One process for all of them: each takes seconds to start.
  for path in (runs.ROOT / "configs").glob("*.py"):
    shutil.copy(path, tmp_path / f"my_{path.name}")
  (tmp_path / "my___init__.py").unlink()
  code = ("import pathlib, runpy\n"
          "for path in pathlib.Path().glob('my_*.py'):\n"
          "  print(runpy.run_path(path)['get_config']('smoke').steps)\n")
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=tmp_path, check=True, text=True,
    env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True)
  assert done.stdout.split() == ["4"] * len(list(tmp_path.glob("my_*.py")))


@pytest.mark.slow
def test_a_run_of_a_users_config_and_reward_from_the_wheel(
    installed, tmp_path, sudoku_dir):
  shutil.copy(runs.ROOT / "configs" / "bgpo.py", tmp_path / "my.py")
  (tmp_path / "my_rewards.py").write_text(
    "def length(prompts, completions, **columns):\n"
    "  return [float(len(text)) for text in completions]\n")
  done = run(
    installed, "train", f"--config={tmp_path / 'my.py'}:smoke", *TINY,
    "--config.sft.steps=2", "--config.steps=1",
    "--config.rollout.rewards=('my_rewards:length',)",
    f"--config.task.data_dir={sudoku_dir}", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "runs" / "my_smoke" / "summary.json").is_file()
