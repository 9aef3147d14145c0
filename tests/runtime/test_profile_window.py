"""Names in programs and traces."""

import re

import jax
import pytest
import runs
import updates

from dlrl import train
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import profile_window


@pytest.mark.slow
def test_the_parts_of_a_step_have_names_in_its_programs(sudoku_dir):
  # A joint objective: draws are scored, too, before there are gradients.
  cfg = runs.tiny(
    sudoku_dir, learn__loss="espo", learn__loss_args={"kl_coef": 0.5},
    learn__score_norm="none")
  setup = setup_lib.make(cfg)
  tx, _, state = train_state.for_rl(setup)

  def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype)

  with jax.set_mesh(setup.mesh):
    rollout, learn = train.make_programs(setup, tx, state)
    rollout = rollout.lower(
      state, shape("int32", 4, 32), shape("int32", 4), shape("int32", 4),
      shape("int32", 4, 16))
    batch, _ = rollout.out_info
    learn = learn.lower(
      state, batch, shape("int32", 4), shape("float32", 16)).compile(
        updates.FAST)
  names = products(rollout.compile(updates.FAST))
  assert all("rollout/denoise/" in name for name in names)
  assert len([n for n in names if "rollout/unembed/" in n]) == 1
  assert len(names) > 4
  names = products(learn)
  forward, backward = (
    {n for n in names if f"update/{part}/" in n}
    for part in ("forward", "backward"))
  assert forward | backward == set(names)
  assert not forward & backward
  assert all("transpose" in n or "rematted" in n for n in backward)
  assert len(forward) >= 4 <= len(backward)
  assert "/optimizer/" in learn.as_text()


def products(compiled):
  """The names of a program's matrix products."""
  return re.findall(r' dot\(.*op_name="([^"]*)"', compiled.as_text())


@pytest.mark.slow
def test_steps_are_traced_with_their_rewards(sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, steps=4, sft__steps=0, profile__steps="2-3")
  runs.run_here(cfg, tmp_path / "run")
  files = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
  assert len(files) == 1
  data = jax.profiler.ProfileData.from_file(str(files[0]))
  events = [event for plane in data.planes for line in plane.lines
            for event in line.events]
  steps = sorted((event.start_ns, event.end_ns, dict(event.stats)["step_num"])
                 for event in events if event.name == "step")
  assert [number for *_, number in steps] == [2, 3]
  rewards = sorted((e.start_ns, e.end_ns) for e in events if e.name == "reward")
  assert len(rewards) == 2
  for (start, end, _), (began, ended) in zip(steps, rewards, strict=True):
    assert start < began < ended < end


def test_a_span_is_two_steps_or_one():
  assert profile_window.span("10-12") == (10, 12)
  assert profile_window.span("3") == (3, 3)
  assert profile_window.span("") is None
  for bad in ("x", "3-2", "0-1", "1-2-3", "-3", "2-"):
    with pytest.raises(ValueError):
      profile_window.span(bad)
