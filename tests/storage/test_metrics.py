"""Rows and samples on disk."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tensorboard_events

from dlrl.storage import metrics
from dlrl.storage import samples


def write(root, steps, offset=0.0, **kwargs):
  with metrics.MetricsWriter(root, tensorboard=False, **kwargs) as w:
    for step in steps:
      w.write(step, {"loss": step + offset})


def test_rows_come_back_as_written(tmp_path):
  with metrics.MetricsWriter(tmp_path) as w:
    w.write(0, {"eval/solved": 0.1, "phase": "rl"})
    w.write(3, {"loss": np.float32(0.1), "norm": jnp.float32(2), "n": 5})
    assert metrics.rows(tmp_path) == [  # without a flush
      {"step": 0, "eval/solved": 0.1, "phase": "rl"},
      {"step": 3, "loss": float(np.float32(0.1)), "norm": 2.0, "n": 5.0}]


def test_what_is_not_finite_becomes_null_and_the_file_stays_json(tmp_path):
  with metrics.MetricsWriter(tmp_path) as w:
    w.write(1, {"a": float("nan"), "b": float("inf"), "c": -np.inf})

  def refuse(constant):
    raise AssertionError(constant)

  text = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(text, parse_constant=refuse) == {
    "step": 1, "a": None, "b": None, "c": None}


@pytest.mark.parametrize("step", [4, 5])
def test_a_step_twice_or_out_of_order_is_an_error(tmp_path, step):
  write(tmp_path, [1, 5])
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as w:  # also later
    with pytest.raises(ValueError, match=f"row of step {step} after .* 5"):
      w.write(step, {"loss": 0.0})
    w.write(6, {"loss": 0.0})
    with pytest.raises(ValueError, match=r"row of step 6 after .* 6"):
      w.write(6, {"loss": 0.0})
  assert [r["step"] for r in metrics.rows(tmp_path)] == [1, 5, 6]


def test_a_torn_last_line_is_left_out_and_the_next_row_is_whole(tmp_path):
  write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-4])
  assert [r["step"] for r in metrics.rows(tmp_path)] == [1]
  write(tmp_path, [2, 3])
  assert metrics.rows(tmp_path) == [
    {"step": step, "loss": float(step)} for step in (1, 2, 3)]


def test_a_last_line_that_lacks_only_its_newline_is_torn_too(tmp_path):
  write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-1])
  write(tmp_path, [2])
  assert [r["step"] for r in metrics.rows(tmp_path)] == [1, 2]


def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path):
  write(tmp_path, [1, 2, 3])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text().replace('{"step": 2', '{"st'))
  with pytest.raises(ValueError, match=r"metrics.jsonl:2 is not JSON"):
    metrics.rows(tmp_path)


def test_a_resumed_run_rewrites_the_rows_after_its_checkpoint(tmp_path):
  write(tmp_path, range(1, 8))
  with open(tmp_path / "metrics.jsonl", "ab") as f:
    f.write(b'{"step": 8, "lo')
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as w:
    w.truncate_after(4)
    assert [r["step"] for r in metrics.rows(tmp_path)] == [1, 2, 3, 4]
    w.write(5, {"loss": 55.0})
  assert metrics.rows(tmp_path)[-2:] == [
    {"step": 4, "loss": 4.0}, {"step": 5, "loss": 55.0}]
  assert not list(tmp_path.glob("*.tmp"))


def test_an_uninterrupted_and_a_resumed_file_are_the_same_bytes(tmp_path):
  values = np.random.default_rng(0).normal(size=9).astype(np.float32)

  def log(root, steps, resume=None):
    with metrics.MetricsWriter(root, tensorboard=False) as w:
      if resume is not None:
        w.truncate_after(resume)
      for step in steps:
        w.write(step, {"x": values[step], "nan": np.nan, "é": "ü"})

  for name in "ab":
    (tmp_path / name).mkdir()
  log(tmp_path / "a", range(9))
  log(tmp_path / "b", range(7))
  log(tmp_path / "b", range(5, 9), resume=4)
  assert ((tmp_path / "a" / "metrics.jsonl").read_bytes()
          == (tmp_path / "b" / "metrics.jsonl").read_bytes())


def test_without_a_checkpoint_everything_is_forgotten(tmp_path):
  write(tmp_path, range(3))
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as w:
    w.truncate_after(-1)
    w.write(0, {"loss": 9.0})
  assert metrics.rows(tmp_path) == [{"step": 0, "loss": 9.0}]


def test_samples_are_kept_up_to_the_checkpoint(tmp_path):
  with metrics.MetricsWriter(tmp_path, tensorboard=False) as w:
    for step in (0, 0, 2, 4):
      w.samples(step, [samples.Sample("1.2\n", "132", step / 4)])
    w.truncate_after(2)
    w.samples(3, [samples.Sample("p", "c", float("nan"))])
  assert [(s["step"], s["reward"]) for s in metrics.samples(tmp_path)] == [
    (0, 0.0), (0, 0.0), (2, 0.5), (3, None)]
  assert metrics.samples(tmp_path)[0]["prompt"] == "1.2\n"


def test_a_killed_process_loses_no_row(tmp_path):
  code = ("import os, sys; from dlrl.storage import metrics; "
          "w = metrics.MetricsWriter(sys.argv[1], tensorboard=False); "
          "w.write(1, {'loss': 1.0}); os.kill(os.getpid(), 9)")
  done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
  assert done.returncode == -9
  assert metrics.rows(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_a_directory_without_metrics_has_no_rows(tmp_path):
  assert metrics.rows(tmp_path) == []


def events(root):
  """Steps and scalars as TensorBoard reads them, honouring purges."""
  found = {}
  for event in tensorboard_events.read(root):
    if event.HasField("session_log"):
      found = {k: v for k, v in found.items() if k[1] < event.step}
    for value in event.summary.value:
      found[value.tag, event.step] = value.simple_value
  return found


def test_tensorboard_shows_the_rows_and_after_a_resume_only_the_new(tmp_path):
  with metrics.MetricsWriter(tmp_path) as w:
    for step in range(1, 5):
      w.write(step, {"loss": step, "text": "no", "bad": float("nan")})
    w.flush()
    assert events(tmp_path)["loss", 4] == 4.0  # while the run goes on
  with metrics.MetricsWriter(tmp_path) as w:
    w.truncate_after(2)
    w.write(3, {"loss": 33})
  assert events(tmp_path) == {
    ("loss", 1): 1.0, ("loss", 2): 2.0, ("loss", 3): 33.0}


def test_tensorboard_can_be_left_out(tmp_path):
  write(tmp_path, [1])
  assert not (tmp_path / "tensorboard").exists()
