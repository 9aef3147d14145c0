"""The table of methods says what the code does."""

import pathlib

import pytest

from dlrl import losses
from dlrl.diffusion import masks

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "methods.md"
ROWS = {
  cells[0].strip("`"): cells for cells in (
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines() if line.startswith("| `"))}


def test_every_loss_has_its_row():
  assert ROWS.keys() == losses.OBJECTIVES.keys()


@pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
def test_a_row_is_right(name):
  _, _, _, process, advantage, kl, passes = ROWS[name]
  objective = losses.OBJECTIVES[name]()
  assert process.strip("`") in masks.PROCESSES | masks.OF_TRACE
  assert advantage.strip("`") in losses.ADVANTAGES
  assert int(passes) == (1 if isinstance(objective, losses.Separable) else 2)
  try:
    with_kl = losses.OBJECTIVES[name](kl_coef=0.1)
  except TypeError:
    assert kl in ("-", "in the ratio")
    assert losses.OBJECTIVES[name]().needs_ref == (kl != "-")
  else:
    assert kl != "-"
    assert with_kl.needs_ref == (kl != "k3 to the rollout")
