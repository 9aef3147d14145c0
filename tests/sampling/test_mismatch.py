"""KLs of rollouts from exact decoding, against what the sampler computed."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.diffusion import model_input
from dlrl.models import transformer
from dlrl.sampling import denoise
from dlrl.sampling import mismatch
from dlrl.sampling.weights import prepare

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS = 2, 1
LENGTHS = np.array([5, 2, 3])
BASE = config.SamplerConfig(
  gen_length=8, block_length=4, steps=8, temperature=1.0)
BLOCKS = dataclasses.replace(networks.TINY, block_length=4)
SHIFTED = dataclasses.replace(networks.TINY, shifted=True)


class Recorder:
  """A model that keeps the hidden states that it was asked for last."""

  def __init__(self, model):
    self.model, self.mask_id, self.cfg = model, model.mask_id, model.cfg
    self.unembed = model.unembed

  def hidden(self, params, *args):
    self.last = self.model.hidden(params, *args)
    return self.last

  def hidden_and_cache(self, params, *args):
    self.last, cache = self.model.hidden_and_cache(params, *args)
    return self.last, cache

  def hidden_of_part(self, params, *args):
    self.last = self.model.hidden_of_part(params, *args)
    return self.last


def prompts(seed=0):
  ids = np.random.default_rng(seed).integers(3, 24, (len(LENGTHS), 5))
  return jnp.asarray(ids, jnp.int32), jnp.asarray(LENGTHS, jnp.int32)


def logps(model, params, hidden, sampler):
  """Log-probs [b, w, v]; with guidance hidden states are [2 b, w, d]."""
  logits = np.asarray(hidden, np.float64) @ np.asarray(
    model.unembed(params), np.float64)
  if sampler.cfg_scale:
    guided, unguided = np.split(logits, 2)
    logits = (1 + sampler.cfg_scale) * guided - sampler.cfg_scale * unguided
  logits[..., MASK] = -1e30
  logits /= sampler.temperature or 1.0
  logits -= logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def decoded_by_hand(model, params, sampler):
  """The last state, and log-probs [t, v] that each token was drawn from."""
  recorder = Recorder(model)
  if sampler.quantize != "none":
    params = prepare.in_eight_bits(params, sampler.quantize)
  prompt, length = prompts()
  keys = jax.random.split(jax.random.key(5), len(LENGTHS))
  steps, state = denoise._begin(
    denoise.Forward(recorder, params, prompt, length, sampler.cfg_scale), keys,
    sampler, None, EOS)

  def recorded(step, **settings):
    return jax.jit(lambda *args: (step(*args, **settings), recorder.last))

  q = np.full((len(LENGTHS), sampler.gen_length, 24), np.nan)

  def record(new, hidden, start):
    found = logps(model, params, hidden, sampler)
    whole = hidden.shape[1] > sampler.gen_length
    for row, col in zip(*np.nonzero(
        (new.trace >= 0) & (state.trace < 0)), strict=True):
      q[row, col] = found[row, col if whole else col - int(start[row])]
    return new

  for stop, columns in denoise._stages(sampler):
    first = recorded(steps.first, stop=stop)
    further = recorded(steps.next, columns=columns)
    while np.any(steps.unfinished(state, stop)):
      (new, start, cache), hidden = first(state)
      state = record(new, hidden, start)
      while cache is not None and steps.in_block(state, start):
        state = record(*further(state, start, cache), start)
  if sampler.fill_after < 1:
    state = record(*recorded(steps.fill)(state), np.zeros(len(LENGTHS), int))
  return state, q


hidden_of = jax.jit(transformer.Model.hidden, static_argnums=0)


def exact(model, params, sampler, canvas):
  """Log-probs [b, t, v] of whole canvases, canvas first."""
  prompt, length = prompts()
  asked = [prompt, jnp.full_like(prompt, MASK)][:1 + bool(sampler.cfg_scale)]
  hidden = [hidden_of(model, params, *model_input.assemble(
    jnp.asarray(canvas), each, length))[:, :canvas.shape[1]] for each in asked]
  return logps(model, params, np.concatenate(hidden), sampler)


def kl(q, p):
  return np.sum(np.exp(q) * (q - p), -1)


def wanted(model, params, sampler, state, q, of=exact):
  """Both KLs of all tokens [b, t]."""
  completion, trace = np.asarray(state.completion), np.asarray(state.trace)
  first, second = np.zeros(trace.shape), np.zeros(trace.shape)
  for col in range(trace.shape[1]):
    step = trace[:, [col]]
    beside = (trace < step) | (
      (trace == step) & (np.arange(trace.shape[1])[None] < col))
    p, r = (
      of(model, params, sampler, np.where(known, completion, MASK))[:, col]
      for known in (trace < step, beside))
    drawn_from = p if q is None else q[:, col]
    first[:, col], second[:, col] = kl(drawn_from, p), kl(drawn_from, r)
  return first, second


def found(model, params, sampler, state):
  prompt, length = prompts()
  decoded = mismatch.Decoded(prompt, length, state.completion, state.trace)
  fn = jax.jit(lambda column: mismatch.divergences(
    model, params, decoded, column, sampler=sampler, eos_id=EOS))
  each = [fn(jnp.full(len(LENGTHS), col, jnp.int32))
          for col in range(sampler.gen_length)]
  return tuple(np.stack(x, 1) for x in zip(*each, strict=True))


@pytest.mark.parametrize(("cfg", "settings"), [
  (networks.TINY, {"cache": "dual"}),
  (networks.TINY, {"cache": "prefix"}),
  (SHIFTED, {"cache": "dual", "threshold": 0.3, "temperature": 0.0}),
  (SHIFTED, {"cache": "prefix", "factor": 2.0, "temperature": 0.7}),
  (networks.TINY, {"cache": "dual", "fill_after": 0.4, "steps": 4}),
  # The pass that fills the rest comes in the middle of a block.
  (networks.TINY, {"cache": "dual", "fill_after": 0.6}),
  (networks.TINY, {"cache": "dual", "cfg_scale": 1.5}),
  (networks.TINY, {"threshold": 0.2}),
  (SHIFTED, {"quantize": "int8"}),
  (networks.TINY, {"quantize": "fp8", "cache": "dual", "threshold": 0.3}),
], ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else "")
def test_the_kls_are_those_of_what_the_sampler_computed(cfg, settings):
  model, params = networks.decodable(cfg)
  sampler = dataclasses.replace(BASE, **settings)
  state, q = decoded_by_hand(model, params, sampler)
  assert not np.isnan(q).any()
  got, want = (found(model, params, sampler, state),
               wanted(model, params, sampler, state, q))
  # An activation midway between two integers may become either.
  exactly = sampler.quantize == "none"
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(
      a, b, rtol=2e-3 if exactly else 0.1, atol=2e-5)
  approximate = (sampler.cache, sampler.quantize) != ("none", "none")
  assert (want[0].max() > 1e-4) == approximate
  assert mismatch.approximates(sampler)
  alone = sampler.steps == sampler.gen_length and not (
    sampler.threshold or sampler.factor or sampler.fill_after < 1)
  assert (abs(want[1] - want[0]).max() < 1e-9) == alone


def exact_in_blocks(model, params, sampler, canvas):
  """Log-probs [b, t, v] by the published forward pass, of each block's state.

  Its columns are predicted from clean blocks before it, which the rollout had
  committed: these are taken from the canvas, that has no masks there.
  """
  prompt, length = prompts()
  out = np.zeros((*canvas.shape, 24))
  for row, n in enumerate(np.asarray(length)):
    ids = np.concatenate([prompt[row, :n], canvas[row]])[None]
    logits = noisy_logits(model, params, ids, np.where(ids == MASK, 5, ids))
    hidden = np.asarray(logits[0, n:], np.float64)
    hidden[:, MASK] = -1e30
    hidden /= sampler.temperature or 1.0
    hidden -= hidden.max(-1, keepdims=True)
    out[row] = hidden - np.log(np.exp(hidden).sum(-1, keepdims=True))
  return out


noisy_logits = jax.jit(transformer.Model.noisy_logits, static_argnums=0)


@pytest.mark.slow
def test_with_blocks_only_tokens_drawn_together_have_one():
  model, params = networks.decodable(BLOCKS)
  sampler = dataclasses.replace(BASE, threshold=0.2)
  prompt, length = prompts()
  state = jax.jit(lambda keys: denoise.decode(
    model, params, prompt, length, keys, sampler=sampler, eos_id=None))(
    jax.random.split(jax.random.key(5), len(LENGTHS)))
  assert (state.trace >= 0).all()
  got = found(model, params, sampler, state)
  want = wanted(model, params, sampler, state, None, exact_in_blocks)
  assert (got[0] == 0).all()
  np.testing.assert_allclose(got[1], want[1], rtol=2e-3, atol=2e-5)
  assert want[1].max() > 1e-3


@pytest.mark.slow
def test_with_blocks_rounded_parameters_have_one():
  model, params = networks.decodable(BLOCKS)
  sampler = dataclasses.replace(BASE, quantize="int8")
  prompt, length = prompts()
  rounded = prepare.in_eight_bits(params, "int8")
  state = jax.jit(lambda keys: denoise.decode(
    model, params, prompt, length, keys, sampler=sampler, eos_id=None))(
    jax.random.split(jax.random.key(5), len(LENGTHS)))
  columns = range(sampler.gen_length)
  # The states before each token, from rounded parameters and from exact ones.
  before = [np.where(state.trace < np.asarray(state.trace)[:, [col]],
                     state.completion, MASK) for col in columns]
  q, p = (np.stack([exact_in_blocks(model, of, sampler, canvas)[:, col]
                    for col, canvas in zip(columns, before, strict=True)], 1)
          for of in (rounded, params))
  for got in found(model, params, sampler, state):  # one token a step
    np.testing.assert_allclose(got, kl(q, p), rtol=0.1, atol=2e-5)
  assert kl(q, p).max() > 1e-4


@pytest.mark.parametrize(("eos", "mean"), [
  ("stop", (1.0 + 3.5) / 2), ("free", 3.5)])
def test_the_metrics_are_means_over_tokens_that_were_drawn(
    eos, mean, monkeypatch):
  # As if each token's KL were its column, or twice that.
  monkeypatch.setattr(
    mismatch, "divergences",
    lambda model, params, decoded, column, **_: (column, 2 * column))
  sampler = dataclasses.replace(BASE, cache="dual", eos=eos)
  # The first row ends in its third column, the second nowhere, and in the third
  # nothing was drawn.
  completion = jnp.full((3, 8), 7).at[0, 2:].set(EOS)
  trace = jnp.zeros((3, 8), jnp.int32).at[2].set(-1)
  decoded = mismatch.Decoded(*prompts(), completion, trace)
  got = jax.jit(lambda keys: jax.lax.map(lambda key: mismatch.mismatch(
    None, None, decoded, jax.random.split(key, 3), sampler=sampler,
    eos_id=EOS), keys))(jax.random.split(jax.random.key(0), 512))
  for name, times in (("mismatch_kl", 1), ("parallel_kl", 2)):
    error = got[name].std() / 512**0.5
    assert 0 < error < 0.2
    assert abs(got[name].mean() - times * mean) < 4 * error


def test_exact_rollouts_have_none():
  model, params = networks.decodable()
  state, _ = decoded_by_hand(model, params, BASE)
  for kls in found(model, params, BASE, state):
    assert (kls == 0).all()
  assert not mismatch.approximates(BASE)


def test_edits_are_not_measured_as_no_trace_tells_what_was_before_them():
  sure = dataclasses.replace(BASE, threshold=0.7)
  assert mismatch.approximates(sure)
  assert not mismatch.approximates(
    dataclasses.replace(sure, edit_threshold=0.5))
