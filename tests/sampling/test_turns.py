"""Rows of full attention that take turns, against each row by itself."""

import functools
import math

import block_reference
import jax
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import denoise

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS, ROWS, WIDTH, T = 2, 7, 7, 4, 12
LENGTHS = np.array([5, 1, 4, 2, 5, 3, 3])
RNG = np.random.default_rng(0)
PROMPTS = RNG.integers(3, networks.TINY.vocab_size, (ROWS, 5)).astype(np.int32)
# From a full canvas to one of masks, so that rows differ in their steps.
CANVAS = np.where(
  RNG.random((ROWS, T)) < np.array([0.8, 1, 0.2, 0, 0.6, 1, 0.4])[:, None],
  MASK, RNG.integers(3, networks.TINY.vocab_size, (ROWS, T))).astype(np.int32)
KEYS = jax.random.split(jax.random.key(3), ROWS)
PLAIN = {"gen_length": T, "block_length": WIDTH, "steps": 6}
SURE = {"threshold": 0.35, "temperature": 1.0}


@functools.cache
def program(slots, candidates, settings):
  model, _ = networks.decodable()
  return jax.jit(functools.partial(
    denoise.decode, model, eos_id=EOS, candidates=candidates,
    sampler=config.SamplerConfig(
      **PLAIN | dict(settings), slots=slots)))


def decode(rows=slice(None), slots=0, candidates=0, **settings):
  run = program(slots, candidates, tuple(settings.items()))
  return jax.tree.map(np.asarray, run(
    networks.decodable()[1], PROMPTS[rows], LENGTHS[rows], KEYS[rows],
    canvas=CANVAS[rows]))


def alone(**settings):
  """All rows, each decoded by itself, and the passes that each took."""
  found = [decode(slice(i, i + 1), **settings) for i in range(ROWS)]
  return (jax.tree.map(lambda *x: np.concatenate(x), *(
    state._replace(forwards=np.ravel(state.forwards)) for state in found)))


def compare(got, want):
  for field in ("completion", "trace", "among"):
    np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
  np.testing.assert_allclose(got.confidence, want.confidence, atol=1e-5)


def in_phases(counts, slots):
  """Passes of rows that begin blocks together, each at its own, in slots.

  counts: of each row, the steps of its blocks, without those of no steps.
  """
  waiting, busy, passes = [list(row) for row in counts if row], [], 0
  while waiting or busy:
    while waiting and len(busy) < slots:
      busy.append(waiting.pop(0))
    passes += max(row[0] for row in busy)
    busy = [row[1:] for row in busy if row[1:]]
  return passes


def of_blocks(trace):
  """Steps of each row in its blocks; 0 where none of its tokens was masked."""
  return [[len(set(row[i:i + WIDTH]) - {-1}) for i in range(0, T, WIDTH)]
          for row in trace.tolist()]


@pytest.mark.parametrize("settings", [
  {}, {**SURE, "top_k": 6, "top_p": 0.8, "candidates": 6},
  {**SURE, "fallback": "leftmost"}, {"factor": 1.2, "cfg_scale": 1.0},
  {"remasking": "random", "temperature": 0.7, "eos": "suppress"},
  {"remasking": "margin", "eos": "last"},
  {"remasking": "entropy", "temperature": 1.0},
  {"remasking": "left_to_right", "temperature": 1.5, "eos": "stop"}], ids=str)
def test_rows_in_slots_are_those_of_each_row_alone(settings):
  want, got = alone(**settings), decode(slots=3, **settings)
  compare(got, want)
  assert len(set(want.taken.tolist())) > 2
  np.testing.assert_array_equal(want.forwards, want.taken)
  # As soon as a row has ended, the next one is in its place.
  assert got.forwards == block_reference.passes(
    [n for n in want.taken if n], 3)


@pytest.mark.parametrize("slots", [0, 1, 2, 6])
def test_the_number_of_slots_changes_no_token(slots):
  want, got = alone(**SURE), decode(slots=slots, **SURE)
  compare(got, want)
  # Without slots, the last row that ends is the last pass.
  assert got.forwards == block_reference.passes(
    [n for n in want.taken if n], slots or ROWS)


def test_a_row_is_at_a_block_of_its_own():
  canvas = np.full((ROWS, T), 4, np.int32)
  for row in range(ROWS):  # one block of masks, a third of the rows each
    canvas[row, row % 3 * WIDTH:][:WIDTH] = MASK
  for slots, passes in ((0, 2), (3, 6)):  # two steps each
    out = program(slots, 0, ())(
      networks.decodable()[1], PROMPTS, LENGTHS, KEYS, canvas=canvas)
    assert (out.taken == 2).all()
    assert out.forwards == passes


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "settings"), [
  ("prefix", {**SURE, "cfg_scale": 0.5}), ("dual", SURE),
  ("dual", {"remasking": "random", "eos": "stop"})], ids=str)
def test_rows_in_slots_have_caches_of_their_own(cache, settings):
  want = alone(cache=cache, **settings)
  for slots in (0, 3):
    got = decode(slots=slots, cache=cache, **settings)
    compare(got, want)
    counts = of_blocks(want.trace)
    if settings.get("eos") == "stop":
      continue  # what an end fills has the trace of another block
    size = slots or ROWS
    assert got.forwards == (
      in_phases([[n for n in row if n] for row in counts], size)
      if cache == "dual" else sum(
        in_phases([[n] if n else [] for n in block], size)
        for block in zip(*counts, strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
  {"fill_after": 0.5, "temperature": 1.0}, {"fill_after": 0.0},
  {"fill_after": 0.7, "cache": "dual"}, {"fill_after": 0.4, **SURE}], ids=str)
def test_rows_are_pruned_each_by_itself(settings):
  want, got = alone(**settings), decode(slots=3, **settings)
  compare(got, want)
  compare(decode(**settings), want)
  if settings.get("cache") or settings.get("threshold"):
    return
  free = (CANVAS == MASK).sum(1)
  filled = free > np.ceil(settings["fill_after"] * free - 1e-3)
  assert got.forwards == block_reference.passes(
    [n for n in want.taken - filled if n], 3) + math.ceil(filled.sum() / 3)


def test_one_program_serves_all_rows_and_never_asks_the_host():
  run = program(3, 0, tuple(SURE.items()))
  for shift in range(3):
    run(networks.decodable()[1], PROMPTS, LENGTHS, KEYS,
        canvas=np.roll(CANVAS, shift, 0))
  assert run._cache_size() == 1
  text = run.lower(networks.decodable()[1], PROMPTS, LENGTHS, KEYS,
                   canvas=CANVAS).as_text()
  assert "callback" not in text


@pytest.mark.slow
def test_slots_are_split_over_devices_and_rows_go_where_one_is_free():
  prompt, length, canvas = (
    np.tile(x, (4,) + (1,) * (x.ndim - 1))[:16]
    for x in (PROMPTS, LENGTHS, CANVAS))
  args = (networks.decodable()[1], prompt, length,
          jax.random.split(jax.random.key(3), 16))
  run = program(8, 0, tuple(SURE.items()))
  want = run(*args, canvas=canvas)
  mesh = mesh_lib.make(config.MeshConfig(8, 1, 1))
  with jax.set_mesh(mesh):
    split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    placed = jax.device_put((*args, canvas), (whole, *[split] * 4))
    program.cache_clear()
    run = program(2, 0, tuple(SURE.items()))  # rounded up, to 8
    got = run(*placed[:-1], canvas=placed[-1])
  compare(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, want))
  assert got.forwards == block_reference.passes(
    [n for n in np.asarray(want.taken) if n], 8)


@pytest.mark.parametrize("cache", denoise.CACHES)
@pytest.mark.parametrize("fill_after", [1.0, 2 / 3])
def test_rows_of_masks_take_as_many_passes_as_the_loops_are_bound_to(
    cache, fill_after):
  model, params = networks.decodable()
  sampler = config.SamplerConfig(
    **PLAIN, cache=cache, fill_after=fill_after, slots=3)
  out = jax.jit(functools.partial(denoise.decode, model, sampler=sampler))(
    params, PROMPTS, LENGTHS, KEYS)
  trips = denoise.most_trips(sampler, ROWS)
  assert trips[0] == 3
  passes = trips[0] * trips[1] * (1 + sum(trips[2:]))
  if cache == "prefix":
    passes *= round(fill_after * T / WIDTH)
  assert out.forwards == passes + trips[0] * (fill_after < 1)
