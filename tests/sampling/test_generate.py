"""`generate` against golden tokens, and what its options promise."""

import sys

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl import models
from dlrl import strict
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.sampling import denoise
from dlrl.sampling import forward
from dlrl.sampling import generate
from dlrl.sampling import predict
from dlrl.sampling import remasking

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS = 2, 1
PROMPTS = [[3, 9, 4, 17, 5], [8, 8], [20, 3, 11]]
SMALL = {"gen_length": 8, "block_length": 4}


@pytest.mark.shared_data
@pytest.mark.parametrize("case", [
  "llada_g32_s12_b16_cfg0", "llada_g32_s16_b8_cfg0_leftpad",
  "llada_g32_s32_b32_cfg1.5", "llada_g32_s16_b8_cfg1.5",
  "llada_g64_s32_b16_cfg1.5", "llada_g32_s16_b8_cfg1.5_leftpad",
  "fast_nocache_g64_s32_b16_thr0.9", "fast_nocache_g64_s32_b16_thr0.6",
  "fast_prefix_g64_s32_b16_thrNone", "fast_prefix_g64_s32_b16_thr0.9",
  "fast_prefix_g32_s16_b8_thrNone", "fast_prefix_g64_s64_b32_thrNone",
  "fast_dual_g64_s32_b16_thrNone", "fast_dual_g64_s32_b16_thr0.6",
  "fast_dual_g64_s32_b16_thr0.9", "fast_dual_g32_s16_b8_thrNone",
  "fast_dual_g64_s64_b32_thrNone"])
def test_golden_tokens(shared, case):
  """Fast-dLLM's golden rows were decoded one by one, here they are a batch."""
  folder = shared / "golden" / "llada_tiny"
  model, params = networks.published(folder)
  golden = np.load(folder / "sampler.npz")
  prompt, want, (gen_length, steps, block_length, last) = (
    golden[f"{case}.{k}"] for k in ("prompt", "output", "settings"))
  options = {}
  if case.startswith("llada"):
    live = golden[f"{case}.attention_mask"]
    options["cfg_scale"] = float(last)
  else:
    live = np.ones_like(prompt)
    options["threshold"] = float(last) if last >= 0 else None
    cache = case.split("_")[1]
    options["cache"] = None if cache == "nocache" else cache
  prompts = [row[keep == 1].tolist()
             for row, keep in zip(prompt, live, strict=True)]
  got = generate(
    model, params, prompts, gen_length=int(gen_length), steps=int(steps),
    block_length=int(block_length), **options)
  np.testing.assert_array_equal(got, want[:, prompt.shape[1]:])


@pytest.mark.shared_data
@pytest.mark.parametrize("case, rule", [
  ("g32_s16_maskgit_plus", "low_confidence"), ("g32_s16_topk_margin", "margin"),
  ("g32_s16_entropy", "entropy")])
def test_rules_choose_what_dreams_sampler_chose(shared, case, rule):
  folder = shared / "golden" / "dream_tiny"
  model, params = models.load(folder, dtype="float32")
  golden = np.load(folder / "sampler.npz")
  history, counts, prompt = (golden[f"dream_{case}.{k}"] for k in (
    "history", "tokens_per_step", "prompt"))
  p = prompt.shape[1]
  look = forward.Forward(
    model, params, jnp.asarray(prompt, jnp.int32), jnp.full(2, p), 0.0)
  sampler = config.SamplerConfig(remasking=rule)

  @jax.jit
  def step(canvas, count):
    masked = canvas == model.mask_id
    token, score, _ = predict.predict(
      look.logits(look.block(canvas, jnp.zeros(2, int), canvas.shape[1])),
      None, None, sampler, None)
    chosen = remasking.highest(score, masked, count)
    return jnp.where(chosen, token, canvas)

  for before, after, count in zip(
      history[:-1], history[1:], counts, strict=True):
    got = step(jnp.asarray(before[:, p:], jnp.int32),
               jnp.full(2, int(count), jnp.int32))
    np.testing.assert_array_equal(got, after[:, p:])


def run(**options):
  model, params = networks.decodable()
  return generate(model, params, PROMPTS, **(SMALL | options))


def decoded(canvas=None, prompts=PROMPTS, **options):
  model, params = networks.decodable()
  ids = np.zeros((len(prompts), 5), np.int32)
  for row, prompt in zip(ids, prompts, strict=True):
    row[:len(prompt)] = prompt
  return decode_jit(
    model,
    params,
    jnp.asarray(ids),
    jnp.asarray([len(p) for p in prompts]),
    jax.random.split(jax.random.key(0), len(prompts)),
    sampler=config.SamplerConfig(**({"steps": 8} | SMALL | options)),
    eos_id=EOS,
    canvas=canvas,
  )


decode_jit = jax.jit(
  denoise.decode, static_argnums=0, static_argnames=("sampler", "eos_id"))


@pytest.mark.parametrize("options", [
  {}, {"cache": "prefix"}, {"cache": "dual"}, {"cfg_scale": 1.0},
  {"cache": "dual", "cfg_scale": 1.0, "threshold": 0.2},
  {"temperature": 1.0, "remasking": "random"}, {"temperature": 0.5,
   "top_p": 0.8}], ids=str)
def test_a_row_does_not_depend_on_the_others_and_no_mask_is_left(options):
  model, params = networks.decodable()
  whole = run(**options)
  assert whole.shape == (3, 8)
  assert (whole != MASK).all()
  if "temperature" not in options:  # a row's key depends on its index
    for row, prompt in zip(whole, PROMPTS, strict=True):
      alone = generate(model, params, [prompt], **(SMALL | options))
      np.testing.assert_array_equal(alone[0], row)


def test_a_threshold_commits_the_sure_ones_and_at_least_one():
  confidence = jnp.asarray([[0.9, 0.2, 0.95, 0.89], [0.3, 0.1, 0.2, 0.99]])
  masked = jnp.asarray([[True, True, True, False], [True, True, True, False]])
  np.testing.assert_array_equal(
    remasking.confident(confidence, masked, 0.9),
    [[True, False, True, False], [True, False, False, False]])


def test_a_factor_commits_the_longest_run_that_is_sure_enough():
  rng = np.random.default_rng(0)
  confidence = rng.random((200, 6)) ** 0.2
  masked = rng.random((200, 6)) < 0.8
  got = np.asarray(remasking.by_factor(
    jnp.asarray(confidence, jnp.float32), jnp.asarray(masked), 0.5))
  sizes = set()
  for row, live, chosen in zip(confidence, masked, got, strict=True):
    order = sorted(np.flatnonzero(live), key=lambda i: -row[i])
    n = min(1, len(order))
    while n < len(order) and (n + 2) * (1 - row[order[n]]) <= 0.5:
      n += 1
    assert set(np.flatnonzero(chosen)) == set(order[:n])
    sizes.add(n)
  assert len(sizes) > 3


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_scores_that_are_no_numbers_are_committed_last_but_committed(bad):
  score = jnp.asarray([[bad, 0.2, 0.9, 0.4]])
  masked = jnp.asarray([[True, True, False, True]])
  for count, want in ((2, [False, True, False, True]),
                      (3, [True, True, False, True])):
    np.testing.assert_array_equal(
      remasking.highest(score, masked, jnp.asarray([count])), [want])


def test_rules_are_what_their_names_say():
  logits = np.float32([[[2.0, 1.0, -np.inf, 0.0], [3.0, 2.9, -np.inf, -9.0]]])
  probs = np.exp(logits.astype(np.float64))
  probs /= probs.sum(-1, keepdims=True)
  logs = np.log(np.where(probs == 0, 1, probs))
  token = jnp.asarray([[1, 0]])
  noise = jnp.asarray([[0.3, 0.6]])
  for rule, want in {
      "low_confidence": [[probs[0, 0, 1], probs[0, 1, 0]]],
      "random": [[0.3, 0.6]],
      "margin": probs[..., 0] - probs[..., 1],
      "entropy": (probs * logs).sum(-1),
      "left_to_right": [[0.0, -1.0]]}.items():
    np.testing.assert_allclose(
      remasking.RULES[rule](jnp.asarray(logits), token, noise), want,
      rtol=1e-5, err_msg=rule)


def test_left_to_right_commits_in_order():
  trace = np.asarray(decoded(remasking="left_to_right").trace)
  np.testing.assert_array_equal(trace, [list(range(8))] * 3)


def test_random_order_is_any_order():
  trace = np.asarray(decoded(
    remasking="random", prompts=[PROMPTS[0]] * 600, steps=8).trace)
  first = np.argmin(trace[:, :4], 1)
  share = np.bincount(first, minlength=4) / 600
  assert abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 600)


def test_confidence_is_the_probability_at_the_time_of_commitment():
  out = decoded(threshold=0.5)
  confidence = np.asarray(out.confidence)
  assert ((confidence > 0) & (confidence <= 1)).all()
  # Where a step commits several tokens, all pass the threshold.
  trace = np.asarray(out.trace)
  for row, steps in zip(confidence, trace, strict=True):
    for step in set(steps):
      together = row[steps == step]
      assert together.size == 1 or (together >= 0.5).all()


class Fixed:
  """Predicts fixed logits at each column of the canvas."""

  mask_id = MASK

  def __init__(self, logits):
    self.logits = jnp.asarray(logits, jnp.float32)  # [t, v]

  def hidden(self, params, ids, positions, lengths, columns):
    return self.logits[columns]

  def unembed(self, params):
    return jnp.eye(self.logits.shape[1])


def of_fixed(logits, **options):
  t = len(logits)
  return denoise.decode(
    Fixed(logits), {}, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32),
    jax.random.split(jax.random.key(0), 1), eos_id=EOS,
    sampler=config.SamplerConfig(**({
      "gen_length": t, "block_length": t, "steps": t} | options)))


def scores(*tokens):
  """Logits whose likeliest tokens are these, the first ones the surest."""
  table = np.zeros((len(tokens), 6))
  for i, token in enumerate(tokens):
    table[i, token] = 5 - i / 10
    table[i, 3] += 1
  return table


def test_eos_is_suppressed_last_or_the_end():
  table = scores(4, EOS, 5, 5)
  free = of_fixed(table)
  assert free.completion.tolist() == [[4, EOS, 5, 5]]
  assert free.trace.tolist() == [[0, 1, 2, 3]]
  assert of_fixed(table, eos="suppress").completion.tolist() == [[4, 3, 5, 5]]
  last = of_fixed(table, eos="last")
  assert last.completion.tolist() == free.completion.tolist()
  assert last.trace.tolist() == [[0, 3, 1, 2]]
  slow = of_fixed(table, eos="last", threshold=0.1)
  assert slow.trace.tolist() == [[0, 1, 0, 0]]
  stop = of_fixed(table, eos="stop")
  assert stop.completion.tolist() == [[4, EOS, EOS, EOS]]
  assert int(stop.forwards) == 2
  # An EOS with masks before it is not the end yet.
  gap = of_fixed(table[[1, 0, 2, 3]][:, :], eos="stop", remasking="random")
  assert gap.completion.tolist()[0][0] == EOS


def test_top_p_never_samples_outside_the_nucleus():
  probs = np.array([[0.45, 0.3, 1e-9, 0.15, 0.1]])
  n = 4000
  for top_p, allowed in ((0.4, {0}), (0.5, {0, 1}), (0.8, {0, 1, 3}),
                         (1.0, {0, 1, 3, 4})):
    out = denoise.decode(
      Fixed(np.log(probs)), {}, jnp.zeros((n, 1), jnp.int32),
      jnp.ones(n, jnp.int32), jax.random.split(jax.random.key(1), n),
      sampler=config.SamplerConfig(gen_length=1, block_length=1, steps=1,
                             temperature=1.0, top_p=top_p))
    found = np.bincount(np.asarray(out.completion)[:, 0], minlength=5) / n
    assert set(np.flatnonzero(found)) == allowed
    inside = np.where([i in allowed for i in range(5)], probs[0], 0)
    inside /= inside.sum()
    error = np.sqrt(inside * (1 - inside) / n)
    assert (abs(found - inside) <= 5 * error).all()


@pytest.mark.parametrize("field, options", [
  ("block_length", {"block_length": 3}), ("steps", {"steps": 9}),
  ("steps", {"steps": 3}), ("threshold", {"threshold": 1.5}),
  ("factor", {"threshold": 0.9, "factor": 1.0}), ("cache", {"cache": "both"}),
  ("remasking", {"remasking": "best"}),
  ("remasking", {"remasking": "margin", "threshold": 0.9}),
  ("top_p", {"top_p": 0.0}), ("eos_id", {"eos": "stop"}),
  ("temperature", {"temperature": -1.0}), ("cfg_scale", {"cfg_scale": -1.0})])
def test_what_cannot_work_is_an_error_that_names_it(field, options):
  value = options.get(field)
  with pytest.raises(strict.ArgumentError) as error:
    run(**options)
  assert str(error.value).startswith(f"generate({field}={value!r}): ")


def test_no_prompt_is_an_error():
  model, params = networks.decodable()
  with pytest.raises(strict.ArgumentError, match="at least one prompt"):
    generate(model, params, [])


def test_prompts_of_like_lengths_share_a_program():
  model, params = networks.decodable()
  programs = sys.modules["dlrl.sampling.generate"]._decode._cache_size
  generate(model, params, [[5]] * 2, **SMALL)
  before = programs()
  generate(model, params, [[7, 8, 9], [5]], **SMALL, seed=3)
  assert programs() == before


def test_without_a_sure_token_the_leftmost_is_committed():
  confidence = jnp.asarray([[0.3, 0.2, 0.6, 0.4], [0.3, 0.95, 0.92, 0.1]])
  masked = jnp.asarray([[False, True, True, True], [True, True, True, False]])
  np.testing.assert_array_equal(
    remasking.FALLBACKS["leftmost"](confidence, masked, 0.9),
    [[False, True, False, False], [False, True, True, False]])


def test_forks_score_each_unsure_token_as_the_sampler_saw_it():
  model, params = networks.decodable()
  ids = np.zeros((3, 5), np.int32)
  for row, prompt in zip(ids, PROMPTS, strict=True):
    row[:len(prompt)] = prompt
  ids, lengths = jnp.asarray(ids), jnp.asarray([len(p) for p in PROMPTS])
  threshold, t = 0.4, SMALL["gen_length"]
  out = decoded(threshold=threshold, fallback="leftmost", temperature=1.0)
  unsure = out.confidence < threshold
  steps = method_processes.fork_steps(out.trace, unsure)
  maskable = jnp.ones((3, t), bool)

  @jax.jit
  def scored(j):
    draw = method_processes.forks(steps, maskable, j, t)
    noisy = jnp.where(draw.mask, MASK, out.completion)
    row = model_input.assemble(noisy, ids, lengths)
    logits = model.hidden(params, *row)[:, :t] @ model.unembed(params)
    logps = jax.nn.log_softmax(logits.at[:, :, MASK].set(-jnp.inf))
    logps = jnp.take_along_axis(logps, out.completion[..., None], -1)[..., 0]
    return draw.weight, logps

  weight, logps = jax.lax.map(scored, jnp.arange(t))
  np.testing.assert_array_equal(weight.sum(0), t * unsure)
  found = np.exp(np.where(weight > 0, logps, 0).sum(0))[np.asarray(unsure)]
  want = np.asarray(out.confidence)[np.asarray(unsure)]
  assert want.size > 6
  np.testing.assert_allclose(found, want, rtol=1e-3)
  assert int(unsure.sum(1).min()) < t  # some were sure
