"""Learning curves: which panels are drawn and what they show."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import figure
from matplotlib import image

from dlrl.storage import plots


def run_rows():
  rows = []
  for step in range(11):
    row = {"step": step}
    if step:
      row |= {
        "reward/mean": step / 10, "rollout/solved": step / 20,
        "update/grad_norm": 1.0 + step, "update/score_mean": -1.0,
        "update/score_std": 0.25, "update/zero_groups": 0.5,
        "time/rollout": 100.0 if step == 1 else 1.0, "time/reward": 0.1,
        "time/update": 2.0}
    if step % 5 == 0:
      row |= {"eval/solved": 0.5, "eval/solved_low": 0.4,
              "eval/solved_high": 0.6}
    rows.append(row)
  return rows


@pytest.fixture
def draw(tmp_path, monkeypatch):
  """Draws, and returns the panels by their titles."""
  pages = []
  save = figure.Figure.savefig
  monkeypatch.setattr(figure.Figure, "savefig", lambda self, *a, **k: (
    pages.append(self), save(self, *a, **k)))

  def run(rows):
    plots.curves(rows, tmp_path / "curves.png", title="a run")
    return {ax.get_title(loc="left"): ax for ax in pages[-1].axes}

  return run


def test_the_file_is_a_png_with_something_on_it(tmp_path):
  plots.curves(run_rows(), tmp_path / "curves.png", title="a run")
  pixels = image.imread(tmp_path / "curves.png")
  assert pixels.shape[0] > 500
  assert pixels.shape[1] > 1500
  assert 0.01 < np.mean(pixels[..., :3].min(-1) < 0.9) < 0.5


def test_there_is_a_panel_for_each_kind_of_metric_that_exists(draw):
  assert len(draw(run_rows())) == 6
  assert list(draw([{"step": 1, "sft/loss": 2.0}])) == ["fine-tuning loss"]
  assert list(draw([{"step": 3, "time/reward": 1.0, "other": "x"}])) == [
    "seconds per step (outliers cut off)"]


def test_rows_without_the_key_or_with_null_are_passed_over(draw):
  rows = [{"step": 0}, {"step": 1, "sft/loss": 2.0},
          {"step": 2, "sft/loss": None}, {"step": 5, "sft/loss": 1.0}]
  (line,) = draw(rows)["fine-tuning loss"].lines
  np.testing.assert_array_equal(line.get_xydata(), [[1, 2], [5, 1]])


def band(ax):
  points = ax.collections[0].get_paths()[0].vertices
  return points.min(0).tolist(), points.max(0).tolist()


def test_the_bands_are_the_interval_and_the_deviation(draw):
  panels = draw(run_rows())
  assert band(panels["held-out items solved (share)"]) == (
    [0.0, 0.4], [10.0, 0.6])
  assert band(panels["ELBO, normalized by learn.score_norm (nats)"]) == (
    [1.0, -1.25], [10.0, -0.75])


def legend(ax):
  return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_legend_names_every_line_and_band_that_is_drawn(draw):
  rows = run_rows()
  title = "held-out items solved (share)"
  assert legend(draw(rows)[title]) == ["evaluations during RL", "95% interval"]
  rows[0]["test/solved"] = rows[-1]["test/solved"] = 0.5
  assert legend(draw(rows)[title]) == [
    "evaluations during RL", "test items, before and after", "95% interval"]


def test_equal_lines_are_one_line_with_both_names(draw):
  rows = [row | {"reward/mean": row["rollout/solved"]}
          for row in run_rows() if row["step"]]
  panel = draw(rows)["training rollouts"]
  assert legend(panel) == ["mean reward and share solved"]
  assert len(panel.lines) == 1


def test_evaluations_without_an_interval_are_drawn_without_a_band(draw):
  (ax,) = draw([{"step": 0, "eval/solved": 0.3}]).values()
  np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0.3]])
  assert ax.lines[0].get_marker() == "o"


def test_compilation_does_not_flatten_the_times_and_spikes_stay_in_the_norm(
    draw):
  panels = draw(run_rows())
  assert 2 < panels["seconds per step (outliers cut off)"].get_ylim()[1] < 10
  assert panels["gradient norm"].get_ylim()[1] >= 11


def test_shares_are_on_the_scale_of_one_and_larger_rewards_still_fit(draw):
  rows = run_rows()
  assert draw(rows)["training rollouts"].get_ylim() == (-0.02, 1.02)
  rows[-1]["reward/mean"] = 3.0
  assert draw(rows)["training rollouts"].get_ylim()[1] > 3


def test_nothing_to_draw_is_an_error_and_writes_nothing(tmp_path):
  with pytest.raises(ValueError, match="none of the 1 rows has a metric"):
    plots.curves([{"step": 0}], tmp_path / "x.png", title="t")
  assert not (tmp_path / "x.png").exists()


def test_pyplot_and_its_global_state_are_not_imported():
  code = ("import sys; from dlrl.storage import plots; "
          "sys.exit('matplotlib.pyplot' in sys.modules)")
  subprocess.run([sys.executable, "-c", code], check=True)
