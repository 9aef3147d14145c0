"""The examples of the documentation run and do what they say."""

import pathlib
import re
import runpy
import subprocess
import sys

import jax
import pytest

EXAMPLES = sorted(
  (pathlib.Path(__file__).parents[1] / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short_and_makes_the_good_completion_likelier(
    path, capsys):
  assert len(path.read_text().splitlines()) <= 40
  with jax.numpy_rank_promotion("allow"):  # as with most users
    runpy.run_path(str(path))
  numbers = re.findall(r"-?\d+\.\d+", capsys.readouterr().out)
  good, bad = map(float, numbers)
  assert good > bad + 0.1


def test_the_losses_import_neither_data_nor_checkpoint_libraries():
  code = ("import sys, dlrl.losses, dlrl.diffusion.montecarlo; "
          "sys.exit(bool({'grain', 'orbax', 'tensorflow_datasets'} "
          "& set(sys.modules)))")
  assert subprocess.run([sys.executable, "-c", code], check=False
                        ).returncode == 0
