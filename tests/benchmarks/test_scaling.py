"""`benchmarks.scaling`: numbers read from compiled programs."""

import pytest

from benchmarks import scaling


@pytest.mark.slow
def test_a_device_has_the_same_work_however_many_there_are():
  one, four = (
    {row["program"]: row for row in scaling.measure("fsdp", n)}
    for n in (1, 4))
  parameters = one["update"]["state_bytes"] / 3  # and Adam's two moments
  for program in scaling.PROGRAMS:
    a, b = one[program], four[program]
    assert b["flops"] == a["flops"] > 0
    assert b["state_bytes"] == pytest.approx(a["state_bytes"] / 4, rel=0.02)
    assert b["temp_bytes"] == pytest.approx(a["temp_bytes"], rel=0.2)
    assert a["exchanged_bytes"] == {}
  # Once for a denoising step; forward and backward for each of 16 draws.
  step, update = (four[p]["exchanged_bytes"] for p in scaling.PROGRAMS)
  assert step["all-gather"] == pytest.approx(0.75 * parameters, rel=0.02)
  assert update["all-gather"] == pytest.approx(
    0.75 * 2 * 16 * parameters, rel=0.05)
