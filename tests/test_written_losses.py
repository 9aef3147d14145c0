"""Losses against their formulas, written again in float64 NumPy."""

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
  """Case by case: what PPO's clip leaves of the ratio."""
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


def test_offline_vrpo_is_dpo_on_mean_scores():
  pair = [LOGPS.sum(2), OLD.sum(2)]
  ref = [REF.sum(2), -np.ones((N, B))]
  loss, metrics = losses.vrpo_offline(
    *map(f32, (*pair, *ref)), beta=0.2)
  margin = 0.2 * ((pair[0] - ref[0]).mean(0) - (pair[1] - ref[1]).mean(0))
  close(loss, -np.log(1 / (1 + np.exp(-margin))))
  np.testing.assert_array_equal(metrics["right"], margin > 0)
