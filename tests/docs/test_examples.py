"""The examples of the documentation run and do what they say."""

import re
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import runs

from dlrl import losses

ROOT = runs.ROOT
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_is_short_and_makes_the_good_completion_likelier(
    path, capsys):
  assert len(path.read_text().splitlines()) <= 40
  if path.stem == "equinox_module":
    pytest.importorskip("equinox", reason="equinox is not installed")
  with jax.numpy_rank_promotion("allow"):  # as with most users
    runpy.run_path(str(path))
  numbers = re.findall(r"-?\d+\.\d+", capsys.readouterr().out)
  good, bad = map(float, numbers)
  assert good > bad + 0.1


@pytest.mark.parametrize("name", ["floored", "floored_mean"])
def test_the_losses_of_the_page_on_own_losses_work(name, monkeypatch, capsys):
  text = (EXAMPLES[0].parents[1] / "own_loss.md").read_text()
  page = {}
  for block in re.findall(r"```python\n(.*?)```", text, re.S):
    exec(block, page)
  make = page[f"{name}_objective"]

  ones = jnp.ones((3, 1))
  scored = losses.Scored(
    jnp.array([[-9.0], [-9.0], [-2.0]]), ones, None, ones > 0, ones)
  rows = losses.Responses(jnp.array([1.0, -1.0, -1.0]), ones > 0, jnp.ones(3))
  found = make(floor=-5.0)
  loss, metrics = (found.loss(scored, rows) if name == "floored" else
                   found.outer(found.statistic(scored, rows), rows))
  assert loss.tolist() == [9, 0, -2]
  assert metrics["floored"].tolist() == [0, 1, 0]

  monkeypatch.setattr(losses, "bgpo_objective", make)
  with jax.numpy_rank_promotion("allow"):
    runpy.run_path(str(ROOT / "docs" / "examples" / "plain_function.py"))
  good, bad = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
  assert good > bad + 0.1


@pytest.mark.parametrize("page", [
  ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=lambda p: p.stem)
def test_what_a_page_links_to_is_there(page):
  for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
    assert (page.parent / target).exists(), target


def test_the_losses_import_neither_data_nor_checkpoint_libraries():
  code = ("import sys, dlrl.losses, dlrl.diffusion.montecarlo; "
          "sys.exit(bool({'grain', 'orbax', 'tensorflow_datasets'} "
          "& set(sys.modules)))")
  assert subprocess.run([sys.executable, "-c", code], check=False
                        ).returncode == 0
