"""Numbers of the published PyTorch code for models that denoise blocks."""

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


# With the block length of its numbers, and another.
GOLDEN = {"sdar_tiny": (4, 8), "sdar_moe_tiny": (4, 8), "llada2_tiny": (8, 4)}
golden = pytest.mark.parametrize("name", GOLDEN)


def read(shared, name="sdar_tiny", block_length=None):
  root = shared / "golden" / name
  # Neither mixture's config.json has the mask's id or a block length.
  model, params = models.load(
    root, dtype="float32", mask_id=318,
    block_length=block_length or GOLDEN[name][0])
  return model, params, np.load(root / "golden.npz")


def assert_golden(grads, data, stem, name):
  """Gradients are those that the file has, by their published names."""
  leaves = {networks.path_of(path): np.asarray(leaf)
            for path, leaf in jax.tree.leaves_with_path(grads)}
  model_type = {"llada2_tiny": "llada2_moe"}.get(
    name, name.removesuffix("_tiny"))
  found = {}
  for piece in tensors_lib.pieces(
      families.FAMILIES[model_type].names,
      {path: leaf.shape for path, leaf in leaves.items()}):
    grad = leaves[piece.path][piece.index]
    found.setdefault(stem + piece.name, []).append(
      grad.T if tensors_lib.transposed(piece.path) else grad)
  wanted = [key for key in data.files if key.startswith(stem)]
  for key in wanted:
    np.testing.assert_allclose(
      np.concatenate(found[key]), data[key], rtol=0,
      atol=1e-4 * np.abs(data[key]).max(), err_msg=key)
  assert len(wanted) == {
    "sdar_tiny": 3, "sdar_moe_tiny": 4, "llada2_tiny": 5}[name]


@pytest.mark.slow
@pytest.mark.shared_data
@golden
def test_golden_logits_of_both_streams(shared, name):
  model, params, data = read(shared, name)
  clean, lengths, live = (data[k] for k in ("input_ids", "lengths", "valid"))
  assert (model.mask_id, model.cfg.block_length) == (
    data["mask_token_id"], data["block_size"])
  logits = jax.jit(model.logits)(params, clean, lengths)
  np.testing.assert_allclose(
    logits[live], data["logits_block_causal"][live], rtol=0, atol=1e-4)
  run = jax.jit(model.noisy_logits)
  for hidden, want, logp in zip(
      data["noise_masks"], data["logits_noisy"], data["token_logp"],
      strict=True):
    got = run(params, np.where(hidden, model.mask_id, clean), clean, lengths)
    np.testing.assert_allclose(got[live], want[live], rtol=0, atol=1e-4)
    found = np.take_along_axis(
      np.asarray(jax.nn.log_softmax(got)), clean[..., None], -1)[..., 0]
    np.testing.assert_allclose(
      np.where(hidden, found, 0), logp, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.shared_data
@golden
@pytest.mark.filterwarnings("ignore:block_length is 8, but")
def test_golden_logits_with_another_block_length(shared, name):
  model, params, data = read(shared, name, GOLDEN[name][1])
  assert model.cfg.block_length == data["other_block_size"]
  clean, live = data["input_ids"], data["valid"]
  got = jax.jit(model.noisy_logits)(
    params, np.where(data["noise_masks"][2], model.mask_id, clean), clean,
    data["lengths"])
  np.testing.assert_allclose(
    got[live], data["logits_noisy_other_block_size"][live], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.shared_data
@golden
def test_golden_gradients_of_draws_that_share_a_clean_stream(shared, name):
  model, params, data = read(shared, name)
  clean, lengths = data["input_ids"], data["lengths"]
  positions = np.tile(np.arange(clean.shape[1]), (len(clean), 1))

  def total(params, masks, weights):
    kept = model.clean_stream(params, clean, lengths)

    def elbo(draw):
      hidden, weight = draw
      noisy = jnp.where(hidden, model.mask_id, clean)
      states = model.noisy_stream(params, noisy, positions, lengths, kept)
      logp = jax.nn.log_softmax(states @ model.unembed(params))
      logp = jnp.take_along_axis(logp, jnp.asarray(clean)[..., None], -1)
      return jnp.sum(logp[..., 0] * weight, -1)

    each = jax.lax.map(elbo, (masks, weights))
    return jnp.sum(each.mean(0) * data["row_weights"]), each

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  for estimator in ("bgpo", "ebpo", "sft"):
    masks, p = (np.moveaxis(data[f"{estimator}.{field}"], 1, 0)
                for field in ("masks", "p_mask"))
    weights = np.where(masks, 1 / np.where(masks, p, 1), 0)
    (value, each), grads = run(params, masks, weights)
    np.testing.assert_allclose(each.T, data[f"{estimator}.elbo"], rtol=1e-5)
    np.testing.assert_allclose(
      value, data[f"{estimator}.weighted_mean"], rtol=1e-5)
    assert_golden(grads, data, f"{estimator}.grad.", name)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", [
  "sdar_tiny", "sdar_moe_tiny",
  # 255 masks instead of 15.
  pytest.param("llada2_tiny", marks=pytest.mark.slow)])
def test_golden_exact_elbo_and_its_gradient(shared, name):
  model, params, data = read(shared, name)
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
  assert_golden(grads, data, "exact.grad.", name)


@pytest.mark.slow
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
