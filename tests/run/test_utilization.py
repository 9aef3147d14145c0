"""Rates of a step against counts by hand."""

import functools

import pytest
import runs

from dlrl import rollout
from dlrl import train
from dlrl.costs import chips
from dlrl.costs import memory
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.run import utilization

PEAK = 1e12
ROWS, P, T, N_MC = 16, 32, 16, 2  # of `runs.TINY`


def work(monkeypatch, data_dir, **changes):
  cfg = runs.tiny(data_dir, **changes)
  setup = setup_lib.make(cfg)
  monkeypatch.setitem(
    chips.CHIPS, "cpu", chips.Chip(PEAK, hbm=1, bandwidth=1, links=1))
  tx, _, abstract = train_state.for_rl(setup)
  programs = functools.partial(train.make_programs, tx=tx, abstract=abstract)
  return cfg, utilization.work(
    setup, programs, (abstract, *rollout.input_shapes(setup)))


HEAD = 2 * T * 16 * 40


def forward(columns):
  """FLOPs of a row: a layer of width 16, 2 heads of 8, an MLP of 16.

  Of the last layer, which is the only one, all columns have keys and values;
  a rollout needs no more than that of those beside the canvas.
  """
  keys_values = 2 * (P + T) * 2 * 16 * 16
  rest = 2 * columns * (2 * 16 * 16 + 3 * 16 * 16)
  attention = 2 * 2 * columns * (P + T) * 16
  return keys_values + rest + attention + HEAD


def test_the_flops_of_a_step_are_those_of_its_passes(monkeypatch, sudoku_dir):
  cfg, found = work(monkeypatch, sudoku_dir)
  assert found.peak == 8 * PEAK  # the devices of the tests
  assert found.rollout == {P: (0, ROWS * forward(T))}
  # One forward and a backward of two, of every draw, whatever remat computes
  # again; and logits again, which are never kept.
  assert found.update[0] == 0
  assert found.update[1] == pytest.approx(
    N_MC * ROWS * (3 * forward(P + T) + HEAD), rel=3e-3)
  row = {"rollout/free": 0.5, "rollout/forwards": 8.0, "update/computed": 0.5,
         "rollout/prompt_width": float(P),
         "time/rollout": 2.0, "time/update": 4.0}
  rates = utilization.rates(cfg, row, found)
  assert rates == {
    "speed/rollout_tokens_per_s": ROWS * T / 2 / 2.0,
    "speed/update_tokens_per_s": ROWS * T / 4.0,
    "speed/rollout_mfu": 8 * ROWS * forward(T) / 2.0 / (8 * PEAK),
    "speed/update_mfu": found.update[1] / 2 / 4.0 / (8 * PEAK)}


def test_the_pass_that_fills_the_rest_counts_once(monkeypatch, sudoku_dir):
  _, found = work(monkeypatch, sudoku_dir, rollout__sampler__fill_after=0.5)
  assert found.rollout == {P: (0, ROWS * forward(T))}


def test_rows_that_take_turns_have_passes_of_as_many(monkeypatch, sudoku_dir):
  _, found = work(
    monkeypatch, sudoku_dir, rollout__sampler__slots=8,
    rollout__sampler__fill_after=0.5)
  assert found.rollout == {P: (0, ROWS // 2 * forward(T))}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
  {"rollout__sampler__cache": "dual", "rollout__sampler__block_length": 8},
  {"model__block_length": 4, "rollout__sampler__block_length": 4,
   "eval__sampler__block_length": 4}], ids=["cache", "blocks"])
def test_what_is_not_known_is_not_logged(
    monkeypatch, sudoku_dir, capsys, changes):
  cfg, found = work(monkeypatch, sudoku_dir, **changes)
  row = {"rollout/free": 1.0, "rollout/forwards": 8.0, "update/computed": 1.0,
         "time/rollout": 2.0, "time/update": 4.0}
  assert found.rollout is None
  assert "speed/rollout_mfu" not in utilization.rates(cfg, row, found)
  assert not [k for k in utilization.rates(cfg, row, None) if "mfu" in k]

  def unknown(*args, **kwargs):
    raise ValueError("the FLOPs of 'x' are not known")

  monkeypatch.setattr(utilization, "flops", unknown)
  assert work(monkeypatch, sudoku_dir)[1] is None
  assert "not logged: the FLOPs of 'x'" in capsys.readouterr().out
  monkeypatch.delitem(chips.CHIPS, "cpu")
  assert utilization.work(setup_lib.make(cfg), None, None) is None


def test_memory_is_of_the_fullest_device_or_of_none(monkeypatch):
  assert memory.in_use() == {}  # a CPU says nothing

  class Device:
    def __init__(self, now, peak):
      self.stats = {"bytes_in_use": now, "peak_bytes_in_use": peak}

    def memory_stats(self):
      return self.stats

  monkeypatch.setattr(memory.jax, "local_devices", lambda: [
    Device(2**30, 2**32), Device(2**31, 2**31)])
  assert memory.in_use() == {
    "memory/in_use_gib": 2.0, "memory/peak_gib": 4.0}
