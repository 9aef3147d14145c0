"""Losses against their formulas, written again in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import losses
from dlrl.losses import ratio as ratio_lib

N, B, T = 3, 4, 5
A = np.array([1.5, -0.7, 0.0, 0.4])
RNG = np.random.default_rng(0)
LOGPS, OLD, REF = (-RNG.exponential(size=(N, B, T)) for _ in range(3))
MASK = RNG.random((N, B, T)) < 0.6
MASK[0, 0] = False  # a draw that masked nothing
VALID = np.arange(T) < np.array([5, 3, 5, 4])[:, None]


def f32(x):
  return jnp.asarray(x, jnp.float32)


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def surrogate(ratio, a, low, high):
  """PPO's clipped surrogate of a scalar ratio, case by case."""
  if a >= 0:
    return min(ratio, 1 + high) * a
  return max(ratio, 1 - low) * a


def test_the_clip_limits_gains_and_not_losses():
  ratio = np.array([0.5, 0.9, 1.0, 1.2, 2.0])
  for a in (2.0, 0.0, -3.0):
    got, flat = ratio_lib.clipped(f32(ratio), f32(np.full(5, a)), (0.2, 0.4))
    close(got, [surrogate(r, a, 0.2, 0.4) for r in ratio])
    want = (ratio > 1.4) if a > 0 else (ratio < 0.8) & (a < 0)
    np.testing.assert_array_equal(flat, want)


def test_kl_estimators():
  d = LOGPS - REF
  for kind, want in (("k1", d), ("k2", d**2 / 2), ("k3", np.exp(-d) + d - 1)):
    close(losses.kl(f32(LOGPS), f32(REF), kind), want)


def token_terms(clip, kl_coef):
  ratio = np.exp(LOGPS - OLD)
  terms = np.array([[[-surrogate(ratio[j, b, t], A[b], clip, clip)
                      for t in range(T)] for b in range(B)] for j in range(N)])
  d = LOGPS - REF
  return terms + kl_coef * (np.exp(-d) + d - 1)


def test_diffu_grpo_is_a_mean_over_tokens():
  loss, _ = losses.diffu_grpo(
    f32(LOGPS), f32(OLD), f32(A), jnp.asarray(VALID), clip=0.3,
    ref_logps=f32(REF), kl_coef=0.2)
  terms = token_terms(0.3, 0.2)
  close(loss.mean(), (terms * VALID).sum() / (N * VALID.sum()))


def test_unigrpo_is_a_mean_over_a_draws_masked_tokens():
  loss, _ = losses.unigrpo(
    f32(LOGPS), f32(OLD), f32(A), jnp.asarray(MASK), clip=0.3,
    ref_logps=f32(REF), kl_coef=0.2)
  terms = token_terms(0.3, 0.2)
  close(loss, np.mean([[terms[j, b][MASK[j, b]].mean() if MASK[j, b].any()
                        else 0 for b in range(B)] for j in range(N)], 0))


def test_espo_takes_the_ratio_per_token():
  score, old, ref = LOGPS.sum(2), OLD.sum(2), REF.sum(2)
  loss, _ = losses.espo(f32(score), f32(old), f32(A), length=T, clip=0.1,
                        ref_score=f32(ref), kl_coef=0.3)
  ratio = np.exp((score - old).mean(0) / T)
  want = [-surrogate(r, a, 0.1, 0.1) for r, a in zip(ratio, A, strict=True)]
  close(loss, want + 0.3 * (score - ref).mean(0) ** 2 / 2 / T)


def test_wd1_weighs_by_two_softmaxes():
  loss, _ = losses.wd1(f32(LOGPS[0]), f32(A), jnp.asarray(VALID),
                       group_size=2, psi=1.7)
  total = 0.0
  for g in (slice(0, 2), slice(2, 4)):
    up, down = np.exp(1.7 * A[g]), np.exp(-1.7 * A[g])
    total += ((down / down.sum() - up / up.sum())
              * (LOGPS[0] * VALID).sum(1)[g]).sum()
  close(loss.mean(), total / 2)


def test_spg_mixes_its_bounds_where_the_advantage_is_not_positive():
  beta, mix = 1.5, 0.3
  want = []
  for b in range(B):
    live, length = MASK[:, b] & VALID[b], VALID[b].sum()
    elbo = np.mean([LOGPS[j, b][live[j]].mean() if live[j].any() else 0
                    for j in range(N)])
    inner = np.mean([np.exp(beta * LOGPS[j, b]) * live[j]
                     / (max(live[j].sum(), 1) / length) for j in range(N)], 0)
    eubo = np.log(inner[inner > 0]).mean() / beta
    bound = elbo if A[b] > 0 else mix * eubo + (1 - mix) * elbo
    want.append(-A[b] * bound * length / VALID.sum(1).mean())
  loss, _ = losses.spg(f32(LOGPS), f32(MASK), f32(A), jnp.asarray(VALID),
                       beta=beta, mix=mix)
  close(loss, want)


def test_gdsd_is_a_squared_error_per_draw():
  score, old = 0.1 * LOGPS.sum(2), 0.1 * OLD.sum(2)
  loss, _ = losses.gdsd(
    f32(score), f32(old), f32(A), length=T, clip=0.1, psi=0.5)
  delta = np.clip(score - old, np.log(0.9), np.log(1.1))
  assert (delta == score - old).any()
  assert (delta != score - old).any()
  close(loss, np.mean((delta / T - 0.5 * A) ** 2, 0))


def test_gdsd_s_kl_is_per_token():
  score, ref = 0.1 * LOGPS.sum(2), 0.1 * REF.sum(2)
  loss, metrics = losses.gdsd(
    f32(score), f32(score), f32(np.zeros(B)), length=T, clip=0.1,
    ref_score=f32(ref), kl_coef=0.3)
  kl = ((score - ref) ** 2 / 2 / T).mean(0)
  close(metrics["kl"], kl)
  close(loss, 0.3 * kl)


def test_stable_drl_is_a_convex_combination_of_a_group_s_gradients():
  score, old = LOGPS.sum(2), OLD.sum(2)

  def loss_of(score):
    return losses.stable_drl(score, f32(old), f32(A), length=T, clip=0.2,
                             group_size=2)[0].sum()

  ratio = np.exp((score - old).mean(0) / T)
  weight = np.clip(ratio, 0.8, 1.2)
  assert (weight != ratio).any()
  assert (weight == ratio).any()
  pairs = weight.reshape(-1, 2)
  share = (pairs / pairs.sum(1, keepdims=True)).reshape(-1)
  close(loss_of(f32(score)), -(2 * share * A * score.mean(0) / T).sum())
  # The weights are constants: they only scale each response's gradient.
  close(jax.grad(loss_of)(f32(score)),
        np.broadcast_to(-2 * share * A / T / N, score.shape))


def test_ebpo_clips_the_ratio_of_whole_likelihoods():
  objective = losses.OBJECTIVES["ebpo"](clip_low=0.1, clip_high=0.3)
  means = f32(0.1 * LOGPS.sum(2)[0]), f32(0.1 * OLD.sum(2)[0]), None
  rows = losses.Responses(f32(A), jnp.asarray(VALID), f32(np.full(B, T)))
  loss, _ = objective.outer(means, rows)
  ratio = np.exp(0.1 * (LOGPS - OLD).sum(2)[0])
  close(loss, [-surrogate(r, a, 0.1, 0.3)
               for r, a in zip(ratio, A, strict=True)])


def test_trace_rl_is_a_mean_over_what_a_slice_committed():
  loss, metrics = losses.trace_rl(
    f32(LOGPS), f32(OLD), f32(A), jnp.asarray(MASK), clip=0.3, kl_coef=0.2)
  ratio = np.exp(LOGPS - OLD)
  terms = token_terms(0.3, 0.0) + 0.2 * (1 / ratio + np.log(ratio) - 1)
  close(loss, np.mean([[terms[j, b][MASK[j, b]].mean() if MASK[j, b].any()
                        else 0 for b in range(B)] for j in range(N)], 0))
  assert set(metrics) == {"clip", "kl"}


def test_pairs_of_rows_are_ranked_by_their_advantage():
  objective = losses.OBJECTIVES["vrpo_offline"](beta=0.2)
  score, ref = LOGPS.sum(2)[0], REF.sum(2)[0]
  change = score - ref
  for a, chosen in (([1, -1, -1, 1], (0, 3)), ([-1, 1, 0.5, -0.5], (1, 2))):
    rows = losses.Responses(f32(a), jnp.asarray(VALID), f32(np.full(B, T)))
    loss, metrics = objective.outer((f32(score), f32(ref)), rows)
    margin = [0.2 * (change[c] - change[c ^ 1]) for c in chosen]
    close(loss, np.repeat(np.log1p(np.exp(-np.array(margin))), 2))
    close(metrics["margin"], np.repeat(margin, 2))
  rows = losses.Responses(f32(np.zeros(B)), jnp.asarray(VALID), f32(np.ones(B)))
  close(objective.outer((f32(score), f32(ref)), rows)[0], np.zeros(B))


def test_offline_vrpo_is_dpo_on_mean_scores():
  pair = [LOGPS.sum(2), OLD.sum(2)]
  ref = [REF.sum(2), -np.ones((N, B))]
  loss, metrics = losses.vrpo_offline(
    *map(f32, (*pair, *ref)), beta=0.2)
  margin = 0.2 * ((pair[0] - ref[0]).mean(0) - (pair[1] - ref[1]).mean(0))
  close(loss, -np.log(1 / (1 + np.exp(-margin))))
  np.testing.assert_array_equal(metrics["right"], margin > 0)
