"""A step of fine-tuning against its loss with all logits at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from updates import FAST
from updates import MASK
from updates import B
from updates import T
from updates import assert_same
from updates import first_state
from updates import make_batch
from updates import tiny

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import optimizer
from dlrl import sft
from dlrl.diffusion import forward_process
from dlrl.diffusion import model_input


def test_a_step_s_loss_weights_k_masked_tokens_of_m_by_m_over_k():
  (model, params), batch = tiny(), make_batch()
  cfg = config.SftConfig(
    batch_size=B, gen_length=T, logps_chunk=2 * B,
    optimizer=config.OptimizerConfig(clip_norm=1e9))
  tx = optimizer.make(cfg.optimizer, cfg.steps)
  state = dataclasses.replace(first_state(params, tx), step=jnp.int32(3))
  new, metrics = jax.jit(
    sft.make_step(model, cfg, tx, 1), compiler_options=FAST)(
    state, {"prompt_ids": batch.prompt, "prompt_length": batch.prompt_length,
            "completion": batch.completion})

  # The draws of step 3: k tokens are masked in a row, 1 to m.
  keys = jax.random.split(jax.random.fold_in(keys_lib.of(
    jax.random.key(0), keys_lib.Seed.FINE_TUNING), 3), B)
  mask, _ = jax.jit(forward_process.exact_k)(
    keys, jnp.ones((B, T), bool), jnp.int32(0), 1)
  k = np.asarray(mask).sum(-1)
  assert k.min() >= 1 and len(set(k.tolist())) > 2

  def oracle(params):
    hidden = model.hidden(params, *model_input.assemble(
      jnp.where(mask, MASK, batch.completion), batch.prompt,
      batch.prompt_length))[:, :T]
    logps = jax.nn.log_softmax(hidden @ params["unembed"]["kernel"])
    logps = jnp.take_along_axis(logps, batch.completion[..., None], -1)[..., 0]
    return -jnp.mean(T / k * jnp.sum(jnp.where(mask, logps, 0.0), -1) / T)

  value, grads = jax.jit(
    jax.value_and_grad(oracle), compiler_options=FAST)(params)
  np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
  assert_same(jax.tree.map(  # the first moment after one step
    lambda m: m / (1 - cfg.optimizer.b1), optax.tree.get(new.opt_state, "mu")),
    grads)
  assert new.step == 4
