"""LLaDA2.1's loop that decodes and edits blocks, for one row, in NumPy.

Every pass computes the whole row, in float64, under the dense mask of
[noisy | clean]: no cache, no batch, no slots.
"""

import functools

import block_reference
import jax
import joint_forward
import networks
import numpy as np


@functools.cache
def editing(cfg, mask_id):
  """(model, params) that edits some tokens, and would rather keep the others.

  Its head has a part along the embedding; otherwise hardly a block settles.
  """
  model, params = networks.decodable(cfg, mask_id)
  table = params["embed"]["embedding"]
  head = params["unembed"]["kernel"] + 0.2 * table.T
  return model, params | {"unembed": {"kernel": head}}


def decode(model, params, prompt, key, sampler, length, ends=()):
  """One row, whose `length` tokens are prompt and completion.

  Returns:
    Tokens, step of the last write and its confidence, times that each token
    was replaced, all [length - len(prompt)]; the passes of each block, those of
    the prompt 0; and the row [length] before each pass and in the end.
  """
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  size, mask, first = model.cfg.block_length, model.mask_id, len(prompt)
  ids = np.array([*prompt, *[mask] * (length - first)])
  written, edits = np.full(length, -1), np.zeros(length, int)
  confidence, history = np.zeros(length), []
  passes = [0] * (first // size)
  each, extra = divmod(size, sampler.steps * size // sampler.gen_length)
  for start in range(first // size * size, length, size):
    block = range(max(start, first), min(start + size, length))
    passes.append(0)
    post = 0
    while True:
      masks = [i for i in block if ids[i] == mask]
      if not masks:
        post += 1
        if post > sampler.max_post_edit:
          break
      history.append(ids.copy())
      logits = joint_forward.logits(params, model.cfg, ids, ids)[:length]
      logits[:, mask] = -np.inf
      probs = block_reference.distribution(
        logits, sampler, sampler.temperature or 1.0)
      token = probs.argmax(-1)
      if sampler.temperature:
        noise = np.asarray(jax.random.gumbel(
          jax.random.fold_in(key, len(history) - 1), (size, probs.shape[-1])))
        with np.errstate(divide="ignore"):
          shown = np.log(probs[start:start + size])
        token[start:start + size] = (shown + noise[:len(shown)]).argmax(-1)
      sure = probs[np.arange(length), token]
      count = each + (passes[-1] < extra)
      best = sorted(masks, key=lambda i: -sure[i])
      above = [i for i in masks if sure[i] > sampler.threshold]
      fill = above if sampler.threshold and len(above) >= count else (
        best[:count])
      edit = [i for i in block if i not in masks and token[i] != ids[i]
              and sure[i] > sampler.edit_threshold]
      for i in (*fill, *edit):
        ids[i], confidence[i] = token[i], sure[i]
        written[i] = len(history) - 1
      edits[edit] += 1
      passes[-1] += 1
      if not masks and not edit:
        break
    if set(ids[first:block.stop]) & set(ends):
      break
  history.append(ids.copy())
  tokens = np.where(written >= 0, ids, ends[0] if ends else mask)
  return *(x[first:] for x in (tokens, written, confidence, edits)), (
    passes, np.array(history))
