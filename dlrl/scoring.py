"""Log-probs of completions: what the draws of a policy's score are made of.

    completions -> draws -> noisy canvases -> hidden states -> log-probs

A model with full attention sees each draw with its prompt. A block-diffusion
model sees it after the clean blocks before it, which all draws share
(`prepare`), and a prompt's blocks are shared by its completions, too.
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl import strict
from dlrl.diffusion import batch as batch_lib
from dlrl.diffusion import blocks
from dlrl.diffusion import forward_process
from dlrl.diffusion import method_processes
from dlrl.diffusion import model_input
from dlrl.diffusion import montecarlo
from dlrl.diffusion import token_logps
from dlrl.diffusion import token_noise
from dlrl.diffusion.batch import Batch
from dlrl.losses import floats
from dlrl.losses import objective as losses
from dlrl.models import transformer
from dlrl.models.mlp import routes
from dlrl.own_code import imported
from dlrl.own_code import trial
from dlrl.runtime import mesh as mesh_lib

_Sums = tuple[jax.Array, jax.Array]


# Their first argument is the trace of decoding instead of keys.
OF_TRACE = method_processes.OF_TRACE | blocks.OF_TRACE
PROCESSES = method_processes.PROCESSES | blocks.PROCESSES | OF_TRACE


def process(
  name: str, prompt_length: jax.Array, block_length: int
) -> Callable[..., forward_process.Draw]:
  """Returns a forward process, on the blocks of these rows if it has blocks.

  Args:
    name: a key of `PROCESSES`, or the user's `package.module:name`.
    prompt_length: [b] int.
    block_length: tokens per block of the model; 0: attention is full.
  """
  found: Callable[..., forward_process.Draw] = imported.find(
    PROCESSES, name, "learn.forward_process")
  if not of_blocks(name, found):
    return found
  return functools.partial(
    found, offset=prompt_length % block_length,
    block_length=block_length)


def of_blocks(name: str, found: Callable[..., forward_process.Draw]) -> bool:
  """Whether a process is for models with blocks."""
  if imported.named(name):
    return trial.takes_blocks(found)
  return name in blocks.PROCESSES | blocks.OF_TRACE


def check_noise(cfg: config.LearnConfig, problems: strict.Problems) -> None:
  """Adds noise on visible tokens where their log-probs mean something else.

  With it a score is no bound of a likelihood, which other losses take it for.
  """
  rate = cfg.token_noise
  problems.require(
    not rate or cfg.loss == "ebpo" or imported.named(cfg.loss),
    "learn.token_noise", rate, f"must be 0 with learn.loss = {cfg.loss!r}, "
    "whose scores are bounds of likelihoods; 'ebpo' only compares them")
  problems.require(
    not rate or cfg.forward_process not in OF_TRACE, "learn.token_noise", rate,
    f"must be 0 with {cfg.forward_process!r}: the sampler saw no such tokens")


def check_replay(
  cfg: config.LearnConfig, experts: config.ExpertsConfig,
  problems: strict.Problems,
) -> None:
  """Adds a replay of experts that are not there, or that would not differ."""
  if not cfg.replay_routing or not problems.sound(
      "learn.epochs", "learn.updates_per_rollout"):
    return
  problems.require(
    experts.number > 0 and cfg.epochs * cfg.updates_per_rollout > 1,
    "learn.replay_routing", True, "must be False: " + (
      "with a single update per rollout (learn.epochs = "
      "learn.updates_per_rollout = 1) the parameters are those of the rollout, "
      "and choose the same experts" if experts.number else
      "the model has no experts"))


def shared_rows(model: transformer.Model, rows: int, group: int) -> int:
  """The completions of a prompt that are computed side by side and share it.

  Args:
    model: shares nothing if its attention is full.
    rows: completions per forward pass, over all devices.
    group: completions of each prompt, after one another.
  """
  if not model.cfg.block_length:
    return 1
  return math.gcd(rows // mesh_lib.batch_parts(rows), group)


def prepare(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, batch: Batch,
  share: int = 1,
) -> Any:
  """Computes what all draws of these completions use, by `Model.clean_rows`.

  Args:
    model: the policy's model.
    cfg: the update's settings.
    params: the policy's parameters.
    batch: the completions.
    share: completions after one another that have the same prompt.

  Returns:
    Keys and values of the clean rows; () if attention is full.
  """
  if not model.cfg.block_length:
    return ()
  if batch.routing is not None:
    *prompts, rows = batch.routing.shared
    model = routes.replaying(model, [*(x[::share] for x in prompts), rows])
  return model.clean_rows(
    params, batch.prompt[::share], batch.prompt_length[::share],
    batch.completion, _lengths(model, cfg, batch))


def draw_logps(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, batch: Batch,
  j: jax.Array | int, shared: Any = None,
) -> tuple[forward_process.Draw, token_logps.TokenLogps]:
  """Draw j of every row, and log-probs and entropies of its tokens [b, t].

  Args:
    model: the policy's model.
    cfg: the update's settings.
    params: the policy's parameters.
    batch: the completions.
    j: the draw, 0..n_mc - 1; or several, [k] int, of a model with full
      attention: one forward pass of b k rows gives arrays [k, b, t].
    shared: from `prepare`; None: computed here.
  """
  several = jnp.ndim(j) > 0
  if batch.routing is not None:
    experts = batch.routing.noisy[:, j]
    model = routes.replaying(
      model, [batch_lib.merged(experts) if several else experts])
  # Regenerated from their keys whenever they are needed, so that the n_mc noisy
  # copies of the batch never exist side by side.
  noisy_of = functools.partial(_noisy, model, cfg, batch)
  if not several:
    draw, noisy, prompt = noisy_of(j)
    return _noisy_logps(model, cfg, params, batch, draw, noisy, prompt, shared)
  k = jnp.shape(j)[0]
  draw, noisy, prompt = jax.tree.map(
    batch_lib.merged, jax.vmap(noisy_of, out_axes=1)(j))
  out = _noisy_logps(
    model, cfg, params, batch_lib.repeated(batch, k), draw, noisy, prompt,
    shared)
  return jax.tree.map(
    lambda x: x.reshape(-1, k, x.shape[1]).swapaxes(0, 1), out)


def _noisy_logps(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, batch: Batch,
  draw: forward_process.Draw, noisy: jax.Array, prompt: jax.Array, shared: Any,
) -> tuple[forward_process.Draw, token_logps.TokenLogps]:
  """The draw with the score's norm, and what the model says of its tokens."""
  if not model.cfg.block_length:
    row = model_input.assemble(noisy, prompt, batch.prompt_length)
    # The canvas comes first in a row, so these are its columns.
    hidden = model.hidden(params, *row)[:, : noisy.shape[1]]
  else:
    if shared is None:
      shared = prepare(model, cfg, params, batch)
    hidden = blocks.noisy_hidden(
      model, params, noisy, prompt, batch.prompt_length,
      _lengths(model, cfg, batch), shared)
  mask, weight = draw
  tokens = token_logps.token_logps(
    hidden, model.unembed(params), batch.completion, weight > 0,
    chunk=cfg.logps_chunk, shards=mesh_lib.batch_parts(noisy.shape[0]),
    drawn=batch.drawn)
  if cfg.score_norm == "step":
    weight *= _shares(model, batch)
  norm = noisy.shape[1] if cfg.score_norm == "token" else 1
  return forward_process.Draw(mask, weight / norm), tokens


def _shares(model: transformer.Model, batch: Batch) -> jax.Array:
  """Each token's share of its response, see `blocks.shares`."""
  # With full attention the canvas is one block.
  size, offset = batch.trace.shape[1], jnp.zeros_like(batch.prompt_length)
  if model.cfg.block_length:
    size = model.cfg.block_length
    offset = batch.prompt_length % size
  return blocks.shares(
    batch.trace, batch.valid, offset=offset, block_length=size)


@jax.named_scope("update/forward")
def batch_logps(
  model: transformer.Model, cfg: config.LearnConfig, params: Any, batch: Batch,
  group: int = 1, *, others: losses.Others = "tokens", records: bool = False,
) -> tuple[jax.Array, jax.Array, batch_lib.Routing | None]:
  """Computes the log-probs of draws, as an objective reads them, and scores.

  Computed `micro_batch` rows at a time, and no more is stored.

  Args:
    model: the policy's model.
    cfg: the update's settings.
    params: the policy's parameters.
    batch: the completions.
    group: completions of each prompt, after one another.
    others: what the objective reads.
    records: whether to record the experts that tokens have, of a mixture.

  Returns:
    log-probs [b, n_mc, t], scores [b, n_mc], or means [b, t]; scores [b, n_mc];
    all fp32; and the experts, or None.
  """
  share = shared_rows(
    model, min(cfg.micro_batch, batch.completion.shape[0]), group)

  def noting(fn: Callable[[transformer.Model], Any]) -> tuple[Any, Any]:
    return routes.recorded(model, fn) if records else (fn(model), None)

  def of_rows(part: Batch) -> Any:
    shared, experts = noting(
      lambda model: prepare(model, cfg, params, part, share))

    def of_draw(sums: _Sums, j: jax.Array) -> tuple[_Sums, Any]:
      (draw, (logps, _)), noisy = noting(
        lambda model: draw_logps(model, cfg, params, part, j, shared))
      product = floats.weighted(logps, draw.weight)
      score = jnp.sum(product, -1)
      if others == "means":
        product, weight = (
          jnp.sum(x.reshape(-1, *part.completion.shape), 0)
          for x in (product, draw.weight))
        sums = sums[0] + product, sums[1] + weight
      return sums, ((logps if others == "tokens" else score, score), noisy)

    none = jnp.zeros_like(part.maskable, jnp.float32)
    (total, weight), (found, noisy) = jax.lax.scan(
      of_draw, (none, none), montecarlo.draws(cfg.n_mc, cfg.draws_at_once))
    if cfg.draws_at_once > 1:
      found = jax.tree.map(batch_lib.merged, found)
    # Rows go first, as in every array of a batch.
    found, scores = jax.tree.map(lambda x: x.swapaxes(0, 1), found)
    if others == "means":
      found = total / jnp.where(weight > 0, weight, 1.0)
    return found, scores, _routing(part, experts, *noisy) if records else None

  found: tuple[jax.Array, jax.Array, batch_lib.Routing | None] = jax.tree.map(
    batch_lib.merged,
    jax.lax.map(of_rows, batch_lib.split(batch, cfg.micro_batch)))
  return found


def _routing(
  batch: Batch, shared: Sequence[jax.Array], noisy: jax.Array
) -> batch_lib.Routing:
  """Arranges the recorded experts by completions.

  Args:
    batch: the completions, b of them.
    shared: of `prepare`; prompts may be those of several completions.
    noisy: of `draw_logps`, [n / k, b k, m], of k draws at once.
  """
  b, m = len(batch.completion), noisy.shape[-1]
  return batch_lib.Routing(
    tuple(jnp.repeat(x, b // len(x), 0) for x in shared),
    noisy.reshape(len(noisy), b, -1, m).swapaxes(0, 1).reshape(b, -1, m))


def _draw(
  model: transformer.Model, cfg: config.LearnConfig, batch: Batch,
  j: jax.Array | int,
) -> tuple[forward_process.Draw, jax.Array]:
  """Draw j as the loss sees it, and all that the model does not see [b, t]."""
  name = cfg.forward_process
  drawn, rest = _existing(model, cfg, batch), jnp.zeros_like(batch.maskable)
  if PROCESSES.get(name) in method_processes.HIDES_REST:
    drawn, rest = batch.valid, batch.maskable & ~batch.valid
  mask, weight = process(name, batch.prompt_length, model.cfg.block_length)(
    batch.trace if name in OF_TRACE else batch.keys, drawn, j, cfg.n_mc,
    **cfg.process_args)
  return forward_process.Draw(
    mask & batch.valid, jnp.where(batch.valid, weight, 0.0)), mask | rest


def _existing(
  model: transformer.Model, cfg: config.LearnConfig, batch: Batch
) -> jax.Array:
  """The tokens that a draw may mask, [b, t] bool.

  The row of a block-diffusion model ends with the tokens that count, as in
  fine-tuning; but what the sampler wrote after the end of the text, in the same
  block, was there while the text was written, and so is part of its trace.
  """
  if not model.cfg.block_length or cfg.forward_process in OF_TRACE:
    return batch.maskable
  return batch.valid


def _lengths(
  model: transformer.Model, cfg: config.LearnConfig, batch: Batch
) -> jax.Array:
  """Tokens of each row of a block-diffusion model, [b] int."""
  exists = _existing(model, cfg, batch)
  columns = jnp.arange(1, exists.shape[1] + 1, dtype=batch.prompt_length.dtype)
  return batch.prompt_length + jnp.max(
    jnp.where(exists, columns[None], 0), -1)


def _noisy(
  model: transformer.Model, cfg: config.LearnConfig, batch: Batch,
  j: jax.Array | int,
) -> tuple[forward_process.Draw, jax.Array, jax.Array]:
  """Draw j, its noisy canvases [b, t] and its prompts [b, p]."""
  draw, hides = _draw(model, cfg, batch, j)
  noisy = jnp.where(hides, model.mask_id, batch.completion)
  if cfg.token_noise:
    chosen, ids = token_noise.replaced(
      batch.keys, batch.completion, batch.valid & ~hides, j,
      rate=cfg.token_noise, mask_id=model.mask_id,
      vocab_size=model.cfg.vocab_size)
    draw = token_noise.predicted(draw, chosen)
    noisy = jnp.where(chosen, ids, noisy)
  prompt = batch.prompt
  if cfg.prompt_noise:
    live = jnp.arange(prompt.shape[1])[None] < batch.prompt_length[:, None]
    hidden = method_processes.prompt_noise(
      batch.keys, live, j, cfg.n_mc, cfg.prompt_noise)
    prompt = jnp.where(hidden, model.mask_id, prompt)
  return draw, noisy, prompt
