"""Compares rollouts and updates of a small model with straightforward code.

In fp32, with products in fp32, too: what differs is an error, not rounding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import sampler as samplers
from benchmarks import straightforward
from benchmarks import throughput
from benchmarks.accelerator import arrays
from benchmarks.accelerator import kernels
from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl import validate
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.sampling import denoise
from dlrl.storage import array_checksums

THRESHOLD = "dual cache, threshold 0.5"
MODES: dict[str, dict[str, Any]] = {
  "exact": {}, "prefix cache": {"cache": "prefix"},
  "dual cache": {"cache": "dual"},
  THRESHOLD: {"cache": "dual", "threshold": 0.5}}
# Two tokens that are equally likely but for rounding may change places, and
# everything after them. A wrong sampler finds one token in thousands.
TOKENS = 0.95
GRADIENT = 1e-4
UPDATE, BITS = "an update", "the same update twice"


def setup_of(
  scale: scale_lib.Scale, device: jax.Device, **model: str
) -> setup_lib.Setup:
  """The small shape of `benchmarks.throughput` on a device."""
  cfg = throughput.get_config()
  if scale.dry:
    scale_lib.shrink(cfg)
    cfg.learn.n_mc = 2
  cfg.model.update(model)
  setup = setup_lib.make(validate.from_dict(cfg), [device])
  return dataclasses.replace(setup, model=transformer.build(
    setup.cfg.model, setup.cfg.model.vocab_size - 1))


def sampler_of(setup: setup_lib.Setup, mode: str) -> config.SamplerConfig:
  """The greedy sampler of a mode."""
  return dataclasses.replace(
    setup.cfg.rollout.sampler, temperature=0.0, **MODES[mode])


def decode(
  setup: setup_lib.Setup, mode: str, params: Any, batch: update.Batch
) -> jax.Array:
  """Completions [b, t]."""
  return denoise.decode(
    setup.model, params, batch.prompt, batch.prompt_length, batch.keys,
    sampler=sampler_of(setup, mode)).completion


def programs(scale: scale_lib.Scale) -> dict[str, programs_lib.Program]:
  """The modes, an update in fp32, and one as a run computes it."""
  modes = ("exact", THRESHOLD) if scale.dry else MODES
  first = scale.devices[0]
  setup = setup_of(scale, first)
  fast = setup_of(scale, first, compute_dtype="bfloat16")
  args = setup.abstract_params(), arrays.batch_shapes(setup)
  return {
    **{mode: programs_lib.Program(
      jax.jit(_precise(functools.partial(decode, setup, mode))), args,
      setup.mesh) for mode in modes},
    UPDATE: _update(setup, _precise(_step(setup))),
    BITS: _update(fast, _step(fast))}


def _precise(fn: Callable[..., Any]) -> Callable[..., Any]:
  """`fn` with products in fp32, which GPUs and TPUs round by default."""
  def run(*args: Any) -> Any:
    with jax.default_matmul_precision("highest"):
      return fn(*args)

  return run


def _step(setup: setup_lib.Setup) -> update.Update:
  return update.make(setup.model, setup.cfg.learn, optimizer.for_rl(setup.cfg))


def _update(setup: setup_lib.Setup, fn: Callable[..., Any]
            ) -> programs_lib.Program:
  return programs_lib.Program(
    jax.jit(fn), (train_state.abstract_rl(setup), arrays.batch_shapes(setup)),
    setup.mesh)


def wanted_tokens(setup: setup_lib.Setup, mode: str, params: Any,
                  batch: update.Batch) -> jax.Array:
  """Completions by the CPU; the exact ones from all logits of whole rows."""
  if mode == "exact":
    return jax.jit(lambda params, batch: samplers.straightforward(
      setup.model, params, batch.prompt, batch.prompt_length,
      sampler_of(setup, mode)))(params, batch)
  return jax.jit(functools.partial(decode, setup, mode))(params, batch)


def wanted_moment(setup: setup_lib.Setup, params: Any, batch: update.Batch
                  ) -> tuple[jax.Array, Any]:
  """Loss, and Adam's first moment after a step, by straightforward code."""
  loss, grads = jax.jit(functools.partial(
    straightforward.batch_grads, setup.model, setup.cfg.learn))(params, batch)
  cfg = setup.cfg.learn.optimizer
  clip = optax.clip_by_global_norm(cfg.clip_norm)
  clipped, _ = clip.update(grads, clip.init(params))
  return loss, jax.tree.map(lambda x: (1 - cfg.b1) * x, clipped)


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Compares everything with the CPU, and an update with itself."""
  scale = scale_lib.present(rows, dry=dry)
  setup = setup_of(scale, scale.devices[0])
  on_cpu = setup_of(scale, jax.local_devices(backend="cpu")[0])
  params, batch = arrays.weights(setup.abstract_params()), arrays.batch(setup)
  # Three times as large, predictions are less alike.
  params = jax.tree.map(lambda x: x * 3, params)
  there = kernels.on_cpu((params, batch))

  def sample(mode: str, program: Any) -> None:
    got = np.asarray(program(params, batch))
    with jax.set_mesh(on_cpu.mesh):
      want = np.asarray(wanted_tokens(on_cpu, mode, *there))
    same = float(np.mean(got == want))
    rows.put(f"sampler, {mode}", ok=same >= TOKENS, tokens_equal=same)

  def learn(program: Any) -> None:
    first = dataclasses.replace(arrays.state(setup), params=params)
    state, metrics = program(first, batch)
    with jax.set_mesh(on_cpu.mesh):
      loss, moment = wanted_moment(on_cpu, *there)
    got, want = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
                 for tree in (optax.tree.get(state.opt_state, "mu"), moment))
    rows.check(UPDATE, GRADIENT, gradient=kernels.error(got, want),
               loss=abs(float(metrics["loss"]) / float(loss) - 1))

  def twice(program: Any) -> None:
    first = arrays.state(setup)
    a, b = (array_checksums.leaves(program(first, batch)) for _ in range(2))
    rows.put(BITS, ok=a == b, differ=[k for k in a if a[k] != b[k]][:5])

  for name, program in programs_lib.compiled(programs(scale), rows):
    if name in MODES:
      rows.attempt(name, sample, name, program)
    else:
      rows.attempt(name, learn if name == UPDATE else twice, program)
