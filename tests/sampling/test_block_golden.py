"""Block-wise decoding against what SDAR's published loop gave."""

import functools

import jax
import numpy as np
import pytest

from dlrl import config
from dlrl import models
from dlrl.sampling import block_decode
from dlrl.sampling import predict

pytestmark = [
  pytest.mark.shared_data, pytest.mark.usefixtures("unoptimized")]

CASES = [
  "b4_s4_static_P8", "b4_s4_static_P6", "b4_s2_static_P8", "b4_s3_static_P5",
  "b4_s4_dyn0.9_P7", "b4_s4_dyn0.5_P8", "b4_s2_dyn0.5_P6", "b4_s4_dyn0.5_P3",
  "b4_s4_seq_P5", "b4_s2_seq_P8", "b8_s8_static_P10", "b8_s4_static_P8",
  "b8_s3_static_P10", "b8_s8_dyn0.5_P13", "b8_s8_dyn0.9_P8", "b8_s8_seq_P11",
  "b8_s5_seq_P3", "b4_s4_static_P6_T0.7_k8_p0.9",
  "b4_s4_dyn0.7_P8_T0.5_k0_p0.95", "b8_s8_dyn0.8_P9_T1.3_k5_p1",
  "b4_s4_dyn0.5_P6_stop", "b8_s8_static_P8_stop", "b4_s4_seq_P9_stop2",
  "topk1_b4_s4_dyn0.9_P6", "trap_b4_s2_static_P7", "trap_b4_s2_dyn_P8"]


# Of these the mixture has the same cases, with prompts and tokens of its own.
FOLDERS = ("sdar_tiny", "sdar_moe_tiny")
WIDTH, GEN = 16, 32  # of all cases, so that they share programs


@functools.cache
def loaded(root, size):
  return models.load(root, dtype="float32", block_length=size, mask_id=318)


def case(root, name):
  with np.load(root / "sampler.npz") as golden:
    return {key.removeprefix(f"{name}."): golden[key] for key in golden.files
            if key.startswith(f"{name}.")}


def arguments(root, want):
  """(positional, named) ones of `decode`, and the first tokens that count."""
  _, size, steps, threshold, temperature, top_k, top_p = (
    want["settings"].tolist())
  model, params = loaded(root, int(size))
  prompt, strategy = want["prompt"], str(want["strategy"])
  sampler = config.SamplerConfig(
    gen_length=GEN, block_length=int(size), steps=int(steps * GEN // size),
    threshold=threshold if "dynamic" in strategy else 0,
    remasking=("left_to_right" if strategy == "sequential"
               else "low_confidence"),
    temperature=temperature, top_k=int(top_k), top_p=top_p)
  padded = np.zeros((1, WIDTH), np.int32)
  padded[0, :len(prompt)] = prompt
  return (model, params, padded, np.array([len(prompt)]),
          jax.random.split(jax.random.key(0), 1)), {
    "sampler": sampler, "lengths": np.array([len(want["output"])]),
    "eos_ids": tuple(want["stop_ids"].tolist())}


def compare(got, want):
  first, size = len(want["prompt"]), int(want["settings"][1])
  there = slice(0, len(want["output"]) - first)
  completion, trace = (
    np.asarray(x)[0][there] for x in (got.completion, got.trace))
  step = want["commit_step"][first:]
  decoded = step >= 0
  np.testing.assert_array_equal(trace >= 0, decoded)
  np.testing.assert_array_equal(
    completion[decoded], want["output"][first:][decoded])
  # Steps are counted over the row here, and within a block there.
  before = np.cumsum(want["denoise_steps"]) - want["denoise_steps"]
  block = np.arange(first, len(want["output"])) // size
  np.testing.assert_array_equal(
    trace[decoded], (step + before[block])[decoded])
  assert got.forwards == want["forwards"][1] == want["denoise_steps"].sum()
  if len(want["stop_ids"]):
    assert (completion[~decoded] == want["stop_ids"][0]).all()


@functools.cache
def compiled(**options):
  """One program for all cases with the same settings."""
  return jax.jit(functools.partial(
    block_decode.decode, **options), static_argnums=0)


@pytest.mark.filterwarnings("ignore:.*blocks of:UserWarning")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_tokens_steps_and_forwards(shared, monkeypatch, folder, name):
  # The golden rows are of the likeliest token in the place of a drawn one.
  monkeypatch.setattr(predict, "perturb", lambda logits, *_, **__: logits)
  root = shared / "golden" / folder
  want = case(root, name)
  args, options = arguments(root, want)
  lengths = options.pop("lengths")
  compare(compiled(**options)(*args, lengths=lengths), want)


@pytest.mark.parametrize("folder", FOLDERS)
def test_these_are_all_cases(shared, folder):
  with np.load(shared / "golden" / folder / "sampler.npz") as golden:
    assert golden["case_names"].tolist() == CASES
