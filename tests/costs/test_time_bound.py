"""The bound's terms by hand."""

import collections
import dataclasses

import pytest

from dlrl.costs import chips
from dlrl.costs import hlo
from dlrl.costs import program_report
from dlrl.costs import time_bound

# FLOPs take 1/10 s each, bytes 1 s, bytes over links 2 s.
CHIP = chips.Chip(flops=10, hbm=1, bandwidth=1, links=0.5)


def kernels(*found):
  return collections.Counter(
    {hlo.Kernel(f, a, o): n for f, a, o, n in found})


def test_products_of_8_bits_have_a_peak_of_their_own():
  fast = dataclasses.replace(CHIP, int8=20, fp8=40)
  # Of 100 FLOPs 40 are int8 and 40 fp8: 2 + 2 + 1 s, or 10 s at the bf16 peak;
  # in between the kernel's 7 bytes take longer.
  one = collections.Counter({hlo.Kernel(100, 7, False, 40, 40): 3})
  slow, found = (time_bound.seconds(one, [], 300, chip)
                 for chip in (CHIP, fast))
  assert (slow["products"], slow["memory"]) == (3 * 10, 0)
  assert (found["products"], found["memory"]) == (0, 3 * 7)
  assert fast.seconds(100, 40, 40) == 2 + 2 + 1
  report = program_report.Report(
    "x", 1, 1, 1, 1, 1, 1, 1, 350, 1, {}, hlo.Traffic(one, ()))
  assert report.product_seconds(fast) == 3 * 5 + 5


def moved(seconds, *, beside):
  """A collective that takes `seconds` on the links of `CHIP`."""
  one = hlo.Collective("collective-permute", seconds, 2, 1, beside)
  return one._replace(size=seconds // 2)


def test_kernels_add_up_each_by_what_it_waits_for():
  found = time_bound.seconds(
    kernels((100, 3, False, 2), (20, 7, False, 5), (0, 4, False, 1)), [], 300,
    CHIP)
  assert found == {"products": 2 * 10, "memory": 5 * 7 + 4, "links": 0,
                   "links beside": 0}
  assert list(found) == list(time_bound.TERMS)


@pytest.mark.parametrize("rest, products, memory", [
  (100, 10 + 10, 4), (30, 10, 4 + 6), (-5, 10, 4 + 6)])
def test_flops_that_no_kernel_shows_are_those_of_opaque_ones(
    rest, products, memory):
  found = time_bound.seconds(
    kernels((100, 1, False, 1), (0, 2, True, 3), (0, 4, False, 1)), [],
    100 + rest, CHIP)
  assert found["products"] == products
  assert found["memory"] == memory


def test_without_opaque_kernels_products_that_xla_dropped_take_no_time():
  assert sum(time_bound.seconds(
    kernels((100, 1, False, 1)), [], 500, CHIP).values()) == 10


@pytest.mark.parametrize("alone, beside, want", [
  (6, 0, (6, 0)), (6, 10, (6, 0)), (0, 30, (0, 30 - 14)), (6, 14, (6, 0))])
def test_links_add_what_no_kernel_hides(alone, beside, want):
  found = time_bound.seconds(
    kernels((100, 1, False, 1), (0, 4, False, 1)),
    [moved(alone, beside=False), moved(beside, beside=True)], 100, CHIP)
  assert (found["links"], found["links beside"]) == want
  assert (found["products"], found["memory"]) == (10, 4)


@pytest.mark.parametrize("platform, want", [
  ("gpu", 900), ("tpu", 1000), ("cpu", 1000)])
def test_a_gpus_pool_is_a_share_of_its_memory(platform, want):
  chip = chips.Chip(1, 1000, 1, 1)
  assert chips.pool(chip, platform, 0.9) == want
