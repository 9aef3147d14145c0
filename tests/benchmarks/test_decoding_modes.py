"""Learning by kinds of rollouts: what the benchmark computes, and its page."""

import json
import pathlib

from benchmarks import decoding_modes

ROOT = pathlib.Path(__file__).parents[2]
STORED = ROOT / "benchmarks/results/decoding_modes.json"


def run(seed, *solved):
  """A run that was evaluated at steps 0, 10, 20."""
  return {"seed": seed, "forwards": 8.0, "before": {"solved": solved[0]},
          "after": {"solved": solved[-1]},
          "curve": [[10 * i, x] for i, x in enumerate(solved)]}


RESULT = {
  "rl": {"steps": 20},
  "seconds": {"exact": {"rollout": 3.0, "update": 1.0},
              "dual cache": {"rollout": 1.0, "update": 1.0}},
  "modes": {
    "exact": {"runs": [run(0, .2, .6, .7), run(1, .4, .6, .9)]},
    "dual cache": {"runs": [run(0, .2, .5, .6), run(1, .4, .7, .9)]}}}


def test_the_slower_mode_is_read_where_the_faster_one_has_finished():
  assert decoding_modes.at_equal_time(RESULT, "exact") == [.6, .6]
  assert decoding_modes.at_equal_time(RESULT, "dual cache") == [.6, .9]


def test_differences_are_those_of_each_seed():
  *_, line, _, before = decoding_modes.table(RESULT).splitlines()
  cells = [cell.strip() for cell in line.strip("|").split("|")]
  # -10 and 0 points: a mean of -5, and 12.706 standard errors of 5.
  assert cells[:4] == ["dual cache", "8.0", "1.000", "1.000"]
  assert cells[5] == "-5.0 [-68.5, +58.5]"
  assert before.startswith("before RL: 30.0 [")


def test_modes_differ_in_their_rollouts_alone_and_begin_with_one_model(
    monkeypatch, tmp_path):
  commands = []
  monkeypatch.setattr(
    decoding_modes.subprocess, "run",
    lambda command, check: commands.append(set(command)))
  monkeypatch.setattr(decoding_modes, "_root", lambda: tmp_path)
  for number, mode in enumerate(decoding_modes.MODES):
    decoding_modes.start_rl(tmp_path / str(number), mode, 3)
  shared = set.intersection(*commands)
  assert f"--config.init_from={tmp_path}/tuned-3" in shared
  assert "--config.sft.steps=0" in shared and "--config.seed=3" in shared
  own = [{arg for arg in command - shared if "workdir" not in arg}
         for command in commands]
  assert own[0] == set()
  assert own[-1] == {"--config.rollout.sampler.cache=dual",
                     "--config.rollout.sampler.threshold=0.9"}


def test_the_page_shows_what_was_measured():
  stored = json.loads(STORED.read_text())
  assert decoding_modes.table(stored) in (ROOT / "docs/models.md").read_text()
  assert {len(mode["runs"]) for mode in stored["modes"].values()} == {5}
