"""Losses and their gradients against the published PyTorch trainers'."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import losses
from dlrl.diffusion import elbo

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def golden(shared):
  return np.load(shared / "golden" / "losses.npz")


def of(golden, method, *names):
  return tuple(golden[f"{method}.{name}"] for name in names)


def assert_golden(got, want):
  got, want = np.asarray(got), np.asarray(want)
  np.testing.assert_allclose(
    got, want, rtol=0, atol=2e-5 * max(np.abs(want).max(), 1e-3))


def mean_and_gradient(loss, x):
  """((mean over responses, metrics), gradient of the mean)."""
  def mean(x):
    each, metrics = loss(x)
    return jnp.mean(each), metrics

  return jax.value_and_grad(mean, has_aux=True)(jnp.asarray(x))


@pytest.mark.parametrize("high", [0.2, 0.28])
def test_bgpo_clipped(golden, high):
  old, new, a, mask = of(
    golden, "bgpo", "old_l_theta", "l_theta", "advantages", "response_mask")
  name = f"bgpo.token-mean.clip0.2_{high}"

  def total(new):
    # The published loss is per token: every token is a row with one draw.
    loss, metrics = losses.bgpo_clipped(
      new.reshape(1, -1), jnp.asarray(old.reshape(1, -1)),
      jnp.asarray(a.reshape(-1)), clip=(0.2, high), dual_clip=3.0)
    return jnp.sum(loss * mask.reshape(-1)) / mask.sum(), metrics

  (loss, _), grad = jax.value_and_grad(total, has_aux=True)(jnp.asarray(new))
  assert_golden(loss, golden[f"{name}.loss"])
  assert_golden(grad, golden[f"{name}.grad_l_theta"])


@pytest.mark.parametrize(("clip", "coef"), [
  ((0.2, 0.2), 0.01), ((0.2, 0.2), 0), ((0.2, 0.3), 0.001)])
def test_espo(golden, clip, coef):
  new, old, ref, a, length = of(
    golden, "espo", "seq_elbo", "old_seq_elbo", "ref_seq_elbo", "advantages",
    "completion_length")
  name = f"espo.eps{clip[0]}_{clip[1]}_beta{coef:g}"
  (loss, metrics), grad = mean_and_gradient(lambda x: losses.espo(
    x[None], old[None], a, length=float(length), clip=clip,
    ref_score=ref[None] if coef else None, kl_coef=coef), new)
  assert_golden(loss, golden[f"{name}.loss"])
  assert_golden(grad, golden[f"{name}.grad_seq_elbo"])
  if coef:
    assert_golden(jnp.mean(metrics["kl"]), golden[f"{name}.mean_kl"])
  both = golden[f"{name}.clip_low"] + golden[f"{name}.clip_high"]
  assert_golden(jnp.mean(metrics["clip"]), both)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators(golden, kind):
  new, ref, want, slope = of(
    golden, f"espo_kl.{kind}", "seq_elbo", "ref_seq_elbo", "kl", "grad_of_sum")
  assert_golden(losses.kl(jnp.asarray(new), ref, kind), want)
  assert_golden(
    jax.grad(lambda x: jnp.sum(losses.kl(x, ref, kind)))(new), slope)


def test_espo_elbo_of_complementary_masks(golden):
  first, second, mask, p, want, *slopes = of(
    golden, "espo_elbo", "token_logp", "coupled_token_logp", "mask", "p_mask",
    "elbo", "grad_token_logp", "grad_coupled_token_logp")
  rest = mask.shape[1] / (mask.shape[1] + 1) - p
  weight = np.stack([mask / p[:, None], ~mask / rest[:, None]])

  def total(logps):
    score = jnp.mean(jax.vmap(elbo.score, (0, 0, None))(
      logps, jnp.asarray(weight, jnp.float32), 1), 0)
    return jnp.sum(score), score

  grad, score = jax.grad(total, has_aux=True)(jnp.stack([first, second]))
  assert_golden(score, want)
  assert_golden(grad, np.stack(slopes))


@pytest.mark.parametrize(("clip", "coef"), [(0.5, 0.04), (0.2, 0)])
def test_diffu_grpo(golden, clip, coef):
  new, old, ref, a, mask = of(
    golden, "diffu_grpo", "logp", "old_logp", "ref_logp", "advantages",
    "completion_mask")
  name = f"diffu_grpo.eps{clip}_beta{coef}"
  (loss, metrics), grad = mean_and_gradient(lambda x: losses.diffu_grpo(
    x, old, a, mask > 0, clip=clip, ref_logps=ref if coef else None,
    kl_coef=coef), new)
  assert_golden(loss, golden[f"{name}.loss"])
  assert_golden(grad, golden[f"{name}.grad_logp"])
  # Their metric has the opposite meaning: tokens where the clip does not bind.
  ratio, by_token = np.exp(new - old), np.broadcast_to(a[:, None], new.shape)
  binds = ((ratio > 1 + clip) & (by_token > 0)) | (
    (ratio < 1 - clip) & (by_token < 0))
  assert_golden(jnp.mean(metrics["clip"]), (binds * mask).sum() / mask.sum())
  if coef:
    assert_golden(jnp.mean(metrics["kl"]), golden[f"{name}.mean_kl"])


def test_wd1(golden):
  logps, a, mask = of(golden, "wd1", "logp", "advantages", "completion_mask")
  (loss, _), grad = mean_and_gradient(lambda x: losses.wd1(
    x, a, mask > 0, group_size=len(a)), logps)
  assert_golden(loss, golden["wd1.neg_and_pos.loss"])
  assert_golden(grad, golden["wd1.neg_and_pos.grad_logp"])


@pytest.mark.parametrize(("mode", "beta", "mix"), [
  ("elbo_beta1.5_w0.5", 1.5, 0.0), ("eubo_beta1.5_w0.5", 1.5, 1.0),
  ("eubo_beta1_w0.5", 1.0, 1.0), ("mix_beta1.5_w0.5", 1.5, 0.5),
  ("mix_beta1_w0.25", 1.0, 0.25)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_spg(golden, mode, beta, mix, scale):
  logps, perturbed, mask, a = of(
    golden, "spg", "token_logp", "perturb_mask", "completion_mask",
    "advantages")
  weight = scale * np.swapaxes(perturbed, 0, 1).astype(np.float32)
  (loss, metrics), grad = mean_and_gradient(lambda x: losses.spg(
    x, weight, a, mask > 0, beta=beta, mix=mix), np.swapaxes(logps, 0, 1))
  assert_golden(loss, golden[f"spg.{mode}.loss"])
  assert_golden(np.swapaxes(grad, 0, 1), golden[f"spg.{mode}.grad_token_logp"])
  bound = jnp.where(a > 0, metrics["elbo"],
                    mix * metrics["eubo"] + (1 - mix) * metrics["elbo"])
  assert_golden(bound, golden[f"spg.{mode}.per_seq_logps"])


@pytest.mark.parametrize(("name", "clip", "coef"), [
  ("eps0.5_0.5_beta0.01", 0.5, 0.01), ("eps0.2_0.28_beta0", (0.2, 0.28), 0)])
def test_coupled_grpo(golden, name, clip, coef):
  logps, weights, mask, old, ref, a, valid, mean = of(
    golden, "coupled", "token_logp3", "weights", "mask", "old_logp",
    "ref_logp", "advantages", "completion_mask", "per_token_logp")
  masked = np.stack([np.ones_like(mask), mask, ~mask])
  weight = np.float32(1.5) * masked * weights[:, None, None]

  def spread(x):
    """Three draws whose weighted mean is x."""
    return np.where(weight > 0, 1.5 * x / np.where(weight > 0, weight, 1), 0)

  def loss(x):
    return losses.coupled_grpo(
      x, spread(old), weight, a, valid > 0, clip=clip,
      ref_logps=spread(ref) if coef else None, kl_coef=coef)

  np.testing.assert_allclose(np.mean(logps * weight, 0), mean, rtol=2e-5)
  (value, _), grad = mean_and_gradient(loss, logps)
  assert_golden(value, golden[f"coupled.{name}.loss"])
  slope = golden[f"coupled.{name}.grad_per_token_logp"]
  assert_golden(grad, slope[None] * weight / np.float32(3))


@pytest.mark.parametrize(("name", "function", "rtol"), [
  ("centered", losses.centered, 2e-5),
  # The published code adds 1e-4 to the standard deviation, ours 1e-6.
  ("grpo_scaled", losses.normalized, 1e-3),
  ("leave_one_out", losses.leave_one_out, 2e-5)])
def test_advantages(golden, name, function, rtol):
  reward, size = of(golden, "advantages", "rewards", "num_generations")
  np.testing.assert_allclose(
    function(jnp.asarray(reward), int(size)), golden[f"advantages.{name}"],
    rtol=rtol, atol=1e-6)
