"""What `generate` takes from other programs, and what it refuses."""

import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import models
from dlrl import strict
from dlrl.sampling import generate

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS = 2, 1
PROMPTS = [[3, 9, 4, 17, 5], [8, 8], [20, 3, 11]]
SMALL = {"gen_length": 8, "block_length": 4}


def run(**options):
  model, params = networks.decodable()
  return generate(model, params, PROMPTS, **(SMALL | options))


@pytest.mark.parametrize("prompts, place, fix", [
  ([[1, 2, 99999]], "[0][2]=99999", "must be in 0..23"),
  ([[1, 2, 24]], "[0][2]=24", "must be in 0..23"),
  ([[3], [1, -5]], "[1][1]=-5", "must be in 0..23"),
  ([[1, 2**31]], "[0][1]=2147483648", "must be in 0..23"),
  ([[1, 2**70]], "[0][1]=1180591620717411303424", "must be in 0..23"),
  ([[1.0, 2.5]], "[0][0]=1.0", "must be an integer"),
  ([[1, np.nan]], "[0][1]=nan", "must be an integer"),
  ([[1, True]], "[0][1]=True", "must be an integer"),
  ([[1, None]], "[0][1]=None", "must be an integer"),
  ([[1, "2"]], "[0][1]='2'", "must be an integer"),
  ([[[1, 2]]], "[0][0]=[1, 2]", "must be an integer"),
  (np.ones((1, 2)), "[0][0]=1.0", "must be an integer"),
  (jnp.ones((1, 2)), "[0][0]=1.0", "must be an integer"),
  (np.ones((1, 2), bool), "[0][0]=True", "must be an integer"),
  ([np.array([3, -1])], "[0][1]=-1", "must be in 0..23"),
  ([1, 2, 3], "[0]=1", "put a single prompt into a list"),
  (np.array([1, 2, 3]), "[0]=1", "put a single prompt into a list"),
  (3, "=3", "must be a list of prompts"), (None, "=None", "a list of prompts"),
  ({3: [1]}, "={3: [1]}", "must be a list of prompts"),
  ("1 2 3", "='1 2 3'", "encode texts first"),
  (["What is 1+1?"], "[0]='What is 1+1?'", "encode texts first"),
  ([b"ab"], "[0]=b'ab'", "encode texts first"),
  ([[{"role": "user", "content": "1"}]], "[0][0]={", "must be an integer")],
  ids=str)
def test_prompts_that_are_no_ids_of_the_vocabulary_are_refused(
    prompts, place, fix):
  model, params = networks.decodable()
  with pytest.raises(strict.ArgumentError) as error:
    generate(model, params, prompts, **SMALL)
  assert str(error.value).startswith(f"generate(prompts{place}")
  assert fix in str(error.value)


@pytest.mark.shared_data
def test_an_id_past_the_vocabulary_of_a_published_model_is_refused(shared):
  model, params = models.load(shared / "golden" / "llada_tiny")
  with pytest.raises(strict.ArgumentError, match="10000"):
    generate(model, params, [[1, 2, 10000]], gen_length=8, block_length=4)


@pytest.mark.parametrize("make", [
  lambda p: tuple(map(tuple, p)), lambda p: [np.array(row) for row in p],
  lambda p: [jnp.array(row) for row in p],
  lambda p: [[np.uint8(i) for i in row] for row in p],
  lambda p: [[jnp.int32(i) for i in row] for row in p],
  lambda p: map(iter, p)], ids=range(6))
def test_prompts_may_be_of_any_kind_of_integers(make):
  model, params = networks.decodable()
  np.testing.assert_array_equal(
    generate(model, params, make(PROMPTS), **SMALL), run())


def test_prompts_of_one_length_may_be_one_array():
  model, params = networks.decodable()
  want = generate(model, params, [[3, 4], [5, 6]], **SMALL)
  for array in (np.array, jnp.array):
    np.testing.assert_array_equal(
      generate(model, params, array([[3, 4], [5, 6]]), **SMALL), want)


@pytest.mark.parametrize("field, value", [
  *[("eos_id", value) for value in (
    -1, 24, 99999, MASK, 1.0, True, "1", [1, 3], [], 2**40)],
  *[("seed", value) for value in (
    -1, 2**32, 2**40, 1.0, True, None, "0", [0], np.int64(2**32))],
  *[(name, value) for name in (
      "temperature", "cfg_scale", "threshold", "factor", "top_p")
    for value in (np.nan, np.inf, -np.inf, "1", [1.0], -1.0, True, 1j,
                  jnp.float32(np.inf), np.ones(2), 10**400, 1e300, 10**39)],
  *[(name, value) for name in ("gen_length", "block_length", "steps")
    for value in (8.0, "8", True, -8, 0, [8], np.nan, jnp.float32(8))],
  *[(name, value) for name in ("remasking", "eos", "cache")
    for value in (1, True, ["free"], {}, "best", b"free", "")],
  ("eos", None), ("remasking", None), ("temperature", None)], ids=repr)
def test_each_argument_is_read_by_type_and_range(field, value):
  options = {"eos_id": EOS} | {field: value}
  with pytest.raises(strict.ArgumentError) as error:
    run(eos=options.pop("eos", "stop"), **options)
  assert str(error.value).startswith(f"generate({field}=")


@pytest.mark.parametrize("field, value", [
  ("temperature", 1.0), ("cfg_scale", 1.5), ("threshold", 0.25),
  ("top_p", 0.5), ("factor", 0.5)])
def test_numbers_may_be_scalars_of_other_libraries(field, value):
  want = run(**{field: value})
  for scalar in (np.float32, np.float64, jnp.float32, jnp.bfloat16, np.array):
    np.testing.assert_array_equal(run(**{field: scalar(value)}), want)


def test_counts_may_be_scalars_of_other_libraries():
  want = run(seed=3, temperature=1.0, eos="stop", eos_id=EOS, steps=4)
  for scalar in (np.int64, np.uint32, jnp.int32):
    np.testing.assert_array_equal(want, run(
      seed=scalar(3), temperature=1, eos="stop", eos_id=scalar(EOS),
      steps=scalar(4), gen_length=scalar(8), block_length=scalar(4)))
  np.testing.assert_array_equal(
    run(seed=2**32 - 1, temperature=1.0),
    run(seed=np.uint32(2**32 - 1), temperature=1.0))


def test_all_wrong_arguments_are_named_together():
  model, params = networks.decodable()
  with pytest.raises(strict.ConfigErrors) as error:
    generate(model, params, "text", seed=-1, eos_id=99, temperature="hot")
  for name in ("prompts=", "seed=", "eos_id=", "temperature="):
    assert f"generate({name}" in str(error.value)


def test_a_message_about_many_prompts_is_short():
  model, params = networks.decodable()
  with pytest.raises(strict.ArgumentError) as error:
    generate(model, params, [[[1] * 10_000] * 100], **SMALL)
  assert len(str(error.value)) < 500
