"""Numbers of the published PyTorch code for models of SDAR's kind."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import models
from dlrl.diffusion import blocks
from dlrl.diffusion import model_input
from dlrl.models import families
from dlrl.models.published import tensors as tensors_lib

pytestmark = pytest.mark.usefixtures("unoptimized")


def read(shared, **options):
  root = shared / "golden" / "sdar_tiny"
  model, params = models.load(root, dtype="float32", **options)
  return model, params, np.load(root / "golden.npz")


def assert_golden(grads, data, stem):
  """Gradients are those that the file has, by their published names."""
  checked = 0
  family = families.FAMILIES["sdar"]
  for path, leaf in jax.tree.leaves_with_path(grads):
    path = networks.path_of(path)
    stack = leaf if tensors_lib.stacked(path) else leaf[None]
    for i, grad in enumerate(stack):
      want = data.get(stem + family.names[path].format(i))
      if want is not None:
        grad = grad.T if tensors_lib.transposed(path) else grad
        np.testing.assert_allclose(
          grad, want, rtol=0, atol=1e-4 * np.abs(want).max())
        checked += 1
  assert checked == sum(key.startswith(stem) for key in data.files) == 3


@pytest.mark.shared_data
def test_golden_logits_of_both_streams(shared):
  model, params, data = read(shared)
  clean, lengths, live = (data[k] for k in ("input_ids", "lengths", "valid"))
  assert (model.mask_id, model.cfg.block_length) == (318, 4)
  logits = jax.jit(model.logits)(params, clean, lengths)
  np.testing.assert_allclose(
    logits[live], data["logits_block_causal"][live], rtol=0, atol=1e-4)
  run = jax.jit(model.noisy_logits)
  for hidden, want in zip(data["noise_masks"], data["logits_noisy"],
                          strict=True):
    got = run(params, np.where(hidden, model.mask_id, clean), clean, lengths)
    np.testing.assert_allclose(got[live], want[live], rtol=0, atol=1e-4)


@pytest.mark.shared_data
def test_golden_logits_with_another_block_length(shared):
  with pytest.warns(UserWarning, match="block_length is 8, but .* blocks of 4"):
    model, params, data = read(shared, block_length=8)
  clean, live = data["input_ids"], data["valid"]
  got = jax.jit(model.noisy_logits)(
    params, np.where(data["noise_masks"][2], model.mask_id, clean), clean,
    data["lengths"])
  np.testing.assert_allclose(
    got[live], data["logits_noisy_other_block_size"][live], rtol=0, atol=1e-4)


@pytest.mark.shared_data
@pytest.mark.parametrize("estimator", ["bgpo", "ebpo", "sft"])
def test_golden_gradients_of_draws_that_share_a_clean_stream(
    shared, estimator):
  model, params, data = read(shared)
  clean, lengths = data["input_ids"], data["lengths"]
  masks, p = (np.moveaxis(data[f"{estimator}.{name}"], 1, 0)
              for name in ("masks", "p_mask"))
  positions = np.tile(np.arange(clean.shape[1]), (len(clean), 1))

  def total(params):
    kept = model.clean_stream(params, clean, lengths)
    weight = np.where(masks, 1 / np.where(masks, p, 1), 0)

    def elbo(draw):
      hidden, weight = draw
      noisy = jnp.where(hidden, model.mask_id, clean)
      states = model.noisy_stream(params, noisy, positions, lengths, kept)
      logp = jax.nn.log_softmax(states @ model.unembed(params))
      logp = jnp.take_along_axis(logp, jnp.asarray(clean)[..., None], -1)
      return jnp.sum(logp[..., 0] * weight, -1)

    each = jax.lax.map(elbo, (jnp.asarray(masks), jnp.asarray(weight)))
    return jnp.sum(each.mean(0) * data["row_weights"]), each

  (value, each), grads = jax.jit(jax.value_and_grad(
    total, has_aux=True))(params)
  np.testing.assert_allclose(each.T, data[f"{estimator}.elbo"], rtol=1e-5)
  np.testing.assert_allclose(
    value, data[f"{estimator}.weighted_mean"], rtol=1e-5)
  assert_golden(grads, data, f"{estimator}.grad.")


@pytest.mark.shared_data
def test_golden_exact_elbo_and_its_gradient(shared):
  model, params, data = read(shared)
  ids, lengths = data["input_ids"], data["lengths"]
  prompts = data["prompt_lengths"]
  # Rows as prompts, padded on the right, and completions of unequal lengths.
  t = int((lengths - prompts).max())
  wide = np.pad(ids, ((0, 0), (0, t)))
  completion = np.take_along_axis(
    wide, prompts[:, None] + np.arange(t)[None], 1)

  def total(params):
    each = blocks.exact_elbo(
      model, params, ids[:, :prompts.max()], prompts, completion,
      lengths - prompts)
    return jnp.sum(each * data["row_weights"]), each

  (_, each), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
  np.testing.assert_allclose(each, data["exact.elbo"], rtol=1e-5)
  np.testing.assert_allclose(each, data["exact.elbo_float64"], rtol=1e-5)
  assert_golden(grads, data, "exact.grad.")


@pytest.mark.shared_data
@pytest.mark.parametrize("shrink", [1, 2])
def test_golden_rounds_of_the_trace(shared, shrink):
  model, params, _ = read(shared)
  data = np.load(shared / "golden" / "sdar_tiny" / "tracerl.npz")
  want = {name: data[f"shrink{shrink}.{name}"] for name in (
    "row_of", "noisy_response", "target", "target_logp")}
  response, prompts = data["response"], data["prompt_lengths"]
  size, left = int(data["block_size"]), data["prompt_ids_left_padded"]
  prompt = np.stack([np.roll(row, n - left.shape[1])
                     for row, n in zip(left, prompts, strict=True)])
  t = response.shape[1]
  found = []
  for j in range(size):
    mask, weight = blocks.rounds(
      jnp.asarray(data["step_map"]), jnp.ones(response.shape, bool), j, size,
      offset=prompts % size, block_length=size, shrink=shrink)
    row = model_input.blocks(
      jnp.where(mask, model.mask_id, response), prompt, prompts, size)
    clean = model.clean_rows(
      params, jnp.asarray(prompt), prompts, jnp.asarray(response), prompts + t)
    hidden = model.noisy_stream(
      params, row.ids, row.positions, prompts + t, clean)
    logp = jax.nn.log_softmax(
      model_input.canvas_of(hidden, prompts, size, t) @ model.unembed(params))
    logp = np.take_along_axis(np.asarray(logp), response[..., None], -1)[..., 0]
    found += [(i, np.where(mask, model.mask_id, response)[i],
               np.asarray(weight[i] > 0), logp[i])
              for i in range(len(response)) if weight[i].any()]
  assert len(found) == len(want["row_of"])
  for i, noisy, target, logp in found:
    rows = [k for k in range(len(found)) if want["row_of"][k] == i
            and (want["target"][k] == target).all()]
    assert len(rows) == 1
    np.testing.assert_array_equal(noisy, want["noisy_response"][rows[0]])
    np.testing.assert_allclose(
      np.where(target, logp, 0), want["target_logp"][rows[0]], atol=2e-4)
