"""What cannot start ends with one line that says why, and exit code 2."""

import os
import subprocess
import sys

import own_flags
import pytest
import runs
import terminals
from absl import flags

from dlrl import validate
from dlrl.run import command

BGPO = str(runs.ROOT / "configs" / "bgpo.py")
BROKEN = {
  "name.py": "def get_config():\n  return y\n",
  "syntax.py": "def get_config(:\n",
  "import.py": "\nimport nothing_of_this_name\n"}


@pytest.fixture
def parsed(tmp_path, monkeypatch, capsys):
  """(exit code, lines) of a start that ends with its flags, without a process.

  A process takes two seconds until it reads its flags.
  """
  def start(*args):
    monkeypatch.chdir(tmp_path)
    # ml_collections looks there for settings.
    monkeypatch.setattr(sys, "argv", ["dlrl.main", *args])
    capsys.readouterr()
    with own_flags.of("train"), pytest.raises(SystemExit) as end:
      command.parse(sys.argv, check=lambda problems: validate.check_each(
        flags.FLAGS.config, problems))
    text = "".join(capsys.readouterr())
    return end.value.code, text.splitlines()

  return start


def started(*args, cwd, **environment):
  """The same of a real process."""
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.main", *args], cwd=cwd, capture_output=True,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)} | environment, text=True,
    check=False)
  # The line that says where the run is breaks where the checkout's path is
  # long.
  lines = terminals.unbroken(done.stdout + done.stderr).splitlines()
  return done.returncode, [line for line in lines if "] dlrl: " not in line]


@pytest.mark.slow
def test_a_process_that_cannot_start_ends_with_the_line(tmp_path):
  assert started("--config=none.py", cwd=tmp_path) == (
    2, ["dlrl: --config=none.py: there is no such file"])


@pytest.mark.parametrize("args", [
  ["--config=none.py"], ["--config", "none.py"],
  ["--config=none.py:smoke", "--config.steps=3"]])
def test_a_missing_config_file(args, parsed):
  code, lines = parsed(*args)
  given = "none.py:smoke" if "smoke" in args[0] else "none.py"
  assert (code, lines) == (
    2, [f"dlrl: --config={given}: there is no such file"])


def test_an_unknown_preset(parsed):
  code, (line,) = parsed(f"--config={BGPO}:nope")
  assert code == 2
  assert line.startswith(
    f"dlrl: --config={BGPO}:nope: unknown preset 'nope'; use 'plain', ")


@pytest.mark.parametrize(("name", "said"), [
  ("name.py", "NameError: name 'y' is not defined (name.py, line 2)"),
  ("syntax.py", "SyntaxError: invalid syntax (syntax.py, line 1)"),
  ("import.py", "ModuleNotFoundError: No module named "
   "'nothing_of_this_name' (import.py, line 2)")])
def test_a_config_file_that_cannot_run(name, said, parsed, tmp_path):
  (tmp_path / name).write_text(BROKEN[name])
  code, lines = parsed(f"--config={name}")
  assert (code, lines) == (2, [f"dlrl: --config={name}: {said}"])


@pytest.mark.parametrize("path", [
  "learn.loss_args.beta", "learn.process_args.least"])
def test_an_argument_that_the_config_file_does_not_set(path, parsed):
  code, lines = parsed(f"--config={BGPO}:smoke", f"--config.{path}=0.1")
  section, _, key = path.rpartition(".")
  assert (code, lines) == (2, [
    f"dlrl: config.{path} = '0.1': the config file sets no such argument; name "
    f"all of them: --config.{section}=\"{{'{key}': 0.1}}\""])


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "toaster"])
def test_devices_that_are_not_there(platform, tmp_path):
  code, lines = started(f"--config={BGPO}:smoke", cwd=tmp_path,
                        JAX_PLATFORMS=platform)
  assert code == 2
  assert len(lines) == 1
  assert lines[0].startswith(
    f"dlrl: JAX_PLATFORMS={platform}: JAX finds no such device here; unset it")


@pytest.mark.slow
def test_generation_with_64_bit_numbers(tmp_path):
  script = f"""
import sys
sys.path.insert(0, {str(runs.ROOT / "tests" / "support")!r})
import jax, jax.numpy as jnp, networks
from dlrl import config
from dlrl.models import transformer
from dlrl.sampling import denoise, generate
assert jax.config.jax_enable_x64
model = transformer.build(networks.TINY, 2)
params = networks.random_params(model)
for cache in (None, "prefix", "dual"):
  ids = generate(model, params, [[3, 4, 5], [6]], gen_length=4, block_length=2,
                 temperature=1.0, remasking="random", cache=cache)
  assert (ids.dtype, ids.shape) == ("int32", (2, 4))
state = denoise.decode(
  model, params, jnp.array([[3, 4]]), jnp.array([2]),
  jax.random.key(0)[None], canvas=jnp.array([[2, 2, 5, 2]]), eos_id=1,
  sampler=config.SamplerConfig(4, 2, 4, fill_after=0.5, eos="stop"))
assert {{x.dtype.name for x in state}} == {{"int32", "float32"}}
"""
  done = subprocess.run(
    [sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT), "JAX_ENABLE_X64": "1"},
    text=True, check=False)
  assert done.returncode == 0, done.stderr
