"""`benchmarks.memory`: its points, its straight lines, its figure."""

import json

import pytest

from benchmarks import memory


def point(mode, n, temp, *, needed=None, name="vrpo_online"):
  return {"objective": name, "mode": mode, "shape": "llada_8b",
          "platform": "v5e-64", "n_mc": n, "temp_bytes": temp,
          "argument_bytes": 10, "limit_bytes": 1000,
          "needed_bytes": needed or 10 + temp}


def test_the_most_samples_are_where_the_line_meets_the_device():
  rows = [point("joint", n, 100) for n in (2, 16, 128)]
  rows += [point("joint", 1, 70)]  # without a loop
  rows += [point("stacked", n, 100 + 50 * n) for n in (1, 2, 8)]
  rows += [point("stacked", 64, None, needed=2000)]  # refused: no point of it
  found = memory.most(rows, 1000)
  assert found == {"VRPO-OL, joint": None, "VRPO-OL, stacked": 17}
  assert memory.most(rows, 120)["VRPO-OL, stacked"] == 0


def test_every_line_has_its_points_and_pairs_are_even():
  cases = list(memory.cases(memory.DRAWS))
  lines = {case[:2] for case in cases}
  assert lines == set(memory.LABELS)
  assert all(n % 2 == 0 for name, _, n in cases if name == "espo")
  assert len(cases) == 6 * 8 - 1


@pytest.mark.slow
def test_stacked_grows_with_the_samples_and_joint_does_not():
  rows = [memory.measure_tiny("vrpo_online", mode, n)
          for mode in ("joint", "stacked") for n in (2, 16)]
  few, many, kept_few, kept_many = (r["temp_bytes"] for r in rows)
  assert many < 1.1 * few
  assert kept_many - kept_few > 0.5 * few
  assert rows[3]["measured_bytes"] > 0.7 * kept_many
  assert all(set(r) >= {"objective", "mode", "shape", "platform", "n_mc",
                        "temp_bytes"} for r in rows)

def test_the_figure_names_every_objective_and_shows_refused_programs():
  rows = [point(mode, n, temp, name=name)
          for name, mode, n, temp in [
            ("bgpo", "separable", 2, 100), ("bgpo", "separable", 128, 100),
            ("vrpo_online", "joint", 2, 100),
            ("vrpo_online", "joint", 128, 101),
            ("espo", "joint", 2, 150), ("espo", "joint", 128, 160),
            ("vrpo_online", "stacked", 2, 200)]]
  rows.append(point("stacked", 64, None, needed=2000))
  (ax,) = memory.plot(json.loads(json.dumps(rows))).axes
  names = [text.get_text() for text in ax.get_legend().get_texts()]
  assert names == [
    "VRPO-OL, stacked (baseline)", "ESPO", "BGPO, VRPO-OL",
    "refused: does not fit a device", "free for temporaries on a device"]
  low, high = ax.get_ylim()
  for line in ax.lines:
    assert all(low <= y <= high for y in line.get_ydata())


def test_the_large_shape_has_the_objectives_own_draws():
  cfg = memory.large("spg", 8)
  assert (cfg.learn.loss, cfg.learn.forward_process) == ("spg", "block")
  assert cfg.learn.n_mc == 8
  assert cfg.model.layers == 32
  assert cfg.learn.micro_batch == 64
