"""The benchmark of continuous batching, on a few rows."""

import dataclasses

import pytest

from benchmarks import block_decode


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
def test_one_slot_never_idles_and_several_wait_for_the_last_row():
  case = block_decode.synthetic()
  case = dataclasses.replace(
    case, prompt=case.prompt[:6], prompt_length=case.prompt_length[:6],
    sampler=dataclasses.replace(case.sampler, gen_length=16, steps=16))
  found = block_decode.measure(case, (1, 6))
  assert found["1"]["ratio"] == 1
  assert found["6"]["forwards"] == found["6"]["most"] > found["6"]["least"]
  assert found["6"]["ratio"] == pytest.approx(
    6 * found["6"]["most"] / found["6"]["needed"])
  assert 1 < found["1"]["tokens_per_step"] < 4
  assert "| 1 | " in block_decode.table(found)
