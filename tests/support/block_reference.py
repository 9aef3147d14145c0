"""A slow loop that decodes one row of a block-diffusion model, uncached."""

import functools

import jax
import numpy as np

from dlrl import keys as keys_lib
from dlrl.models import transformer


def distribution(logits, sampler, temperature):
  """Probabilities [w, v] in float64 after temperature, top-k and top-p."""
  scaled = np.asarray(logits, np.float64) / temperature
  if sampler.top_k:
    scaled[scaled < np.sort(scaled)[:, [-sampler.top_k]]] = -np.inf
  probs = np.exp(scaled - scaled.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  for row in probs:
    order = np.argsort(-row)
    kept = np.searchsorted(np.cumsum(row[order]), sampler.top_p) + 1
    if sampler.top_p < 1:
      row[order[kept:]] = 0
  return probs / probs.sum(-1, keepdims=True)


def chosen(probs, token, masked, within, sampler, size, uniform):
  """The columns that a step commits, one by one."""
  each, extra = divmod(size, sampler.steps * size // sampler.gen_length)
  count = min(each + (within < extra), len(masked))
  sure = {i: probs[i, token[i]] for i in masked}
  with np.errstate(divide="ignore", invalid="ignore"):
    entropy = -np.nansum(probs * np.log(probs), -1)
  best = sorted(masked, key={
    "low_confidence": lambda i: -sure[i], "entropy": lambda i: entropy[i],
    "left_to_right": lambda i: i, "random": lambda i: -uniform[i],
    "margin": lambda i: np.sort(probs[i])[-2] - np.sort(probs[i])[-1],
  }[sampler.remasking])
  if sampler.threshold and sampler.remasking == "entropy":
    while count < len(best) and (
        sum(entropy[best[:count]]) <= sampler.threshold):
      count += 1
  elif sampler.threshold:
    above = [i for i in masked if sure[i] > sampler.threshold]
    if len(above) >= count:
      return above
  return best[:count]


@functools.cache
def noisy_logits(model):
  return jax.jit(functools.partial(
    transformer.Model.noisy_logits, model))


def decode(model, params, prompt, key, sampler, length, ends=(), width=None):
  """(tokens, trace, confidence) of one row, [length - len(prompt)] each.

  Args:
    width: columns of the forward passes, so that rows share a program.
  """
  size, mask = model.cfg.block_length, model.mask_id
  ids = np.full(width or length, mask)
  ids[:len(prompt)] = prompt
  trace, confidence = np.full(length, -1), np.zeros(length)
  step, start = 0, len(prompt) // size * size
  while True:
    within, stop = 0, min(start + size, length)
    while masked := [i for i in range(stop - start)
                     if start + i >= len(prompt) and ids[start + i] == mask]:
      logits = np.array(noisy_logits(model)(
        params, ids[None], ids[None], np.array([length])))[0, start:stop]
      logits[:, mask] = -np.inf
      probs = distribution(logits, sampler, sampler.temperature or 1.0)
      token = probs.argmax(-1)
      if sampler.temperature:
        noise = np.asarray(jax.random.gumbel(
          jax.random.fold_in(key, step), (size, probs.shape[-1])))
        with np.errstate(divide="ignore"):
          token = (np.log(probs) + noise[:stop - start]).argmax(-1)
      uniform = np.asarray(jax.random.uniform(jax.random.fold_in(
        keys_lib.of(key, keys_lib.Sample.ORDER), step), (size,)))
      for i in chosen(probs, token, masked, within, sampler, size, uniform):
        ids[start + i], trace[start + i] = token[i], step
        confidence[start + i] = probs[i, token[i]]
      step, within = step + 1, within + 1
    if stop == length or set(ids[len(prompt):stop]) & set(ends):
      break
    start = stop
  after = slice(len(prompt), length)
  tokens = np.where(trace >= 0, ids[:length], ends[0] if ends else mask)
  return tokens[after], trace[after], confidence[after]


def passes(taken, slots):
  """Forward passes of a queue whose rows take so many steps, one by one."""
  waiting, busy, count = list(taken), [], 0
  while waiting or busy:
    while waiting and len(busy) < slots:
      busy.append(waiting.pop(0))
    busy = [left - 1 for left in busy if left > 1]
    count += 1
  return count
