"""Tokens per second of a step, and the share of the devices' peak it used."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax

from dlrl import config
from dlrl import data
from dlrl import update
from dlrl.costs import chips
from dlrl.costs.flops import flops
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

# setup -> (rollout, learn), see `train.make_programs`
Programs = Callable[[setup_lib.Setup], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Work:
  """FLOPs of a step's programs as the model needs them, without recomputation.

  Attributes:
    peak: bf16 FLOPs per second of all devices.
    rollout: by the width of prompts, FLOPs besides the forward passes, and of
      one pass; None where passes differ, with a cache.
    update: FLOPs besides the micro-batches, and of all micro-batches.
  """

  peak: float
  rollout: dict[int, tuple[int, int]] | None
  update: tuple[int, int]


def work(setup: setup_lib.Setup, programs: Programs, args: tuple[Any, ...]
         ) -> Work | None:
  """Counts the FLOPs of a run's programs; None if the peak is unknown.

  Args:
    setup: the run's fixed parts.
    programs: makes the programs.
    args: shapes of a rollout's arguments, the state first.
  """
  chip = chips.find(jax.devices()[0].device_kind)
  if chip is None:
    return None
  try:
    return counted(setup, programs, args, chip.flops * jax.device_count())
  except ValueError as e:
    progress.say(f"MFU is not logged: {e}")
    return None


def counted(setup: setup_lib.Setup, programs: Programs, args: tuple[Any, ...],
            peak: float) -> Work:
  """Counts the FLOPs of a run's programs, which need not run here.

  Args:
    setup: the run's fixed parts.
    programs: makes the programs.
    args: shapes of a rollout's arguments, the state first.
    peak: bf16 FLOPs per second of all devices.

  Raises:
    ValueError: see `costs.flops.flops`.
  """
  # Counted without kernels, whose FLOPs are opaque, and without remat, whose
  # recomputation is not the model's own work.
  setup = dataclasses.replace(setup, model=transformer.build(
    dataclasses.replace(setup.cfg.model, attention="xla", remat="none"),
    setup.model.mask_id, setup.cfg.lora))
  cfg = setup.cfg
  rollout, learn = programs(setup)
  state, prompt, *others = args
  index = others[1]
  batch, _ = jax.eval_shape(rollout, *args)
  learned = state, batch, index, *update.reward_shapes(cfg.rollout)
  least = flops(learn, *learned, branch=min)
  passes = None
  # With blocks passes differ, too: some store a block.
  if cfg.rollout.sampler.cache == "none" and not cfg.model.block_length:
    passes = {width: rollout_flops(
      rollout, (state, prompt.update(shape=(len(prompt), width)), *others),
      cfg.rollout.sampler, cfg.rollout.prompts * cfg.rollout.group_size)
      for width in data.widths(cfg.task.prompt_length)}
  return Work(peak, passes, (least, flops(learn, *learned) - least))


def rollout_flops(
  rollout: Callable[..., Any], args: tuple[Any, ...],
  sampler: config.SamplerConfig, rows: int,
) -> tuple[int, int]:
  """FLOPs besides the forward passes, and of one pass.

  Args:
    rollout: decodes with `sampler`.
    args: its arguments, or their shapes.
    sampler: the sampler's settings, without a cache, with which passes differ.
    rows: how many it decodes.

  Raises:
    ValueError: see `costs.flops.flops`.
  """
  *turns, _ = denoise.most_trips(sampler, rows)
  none, one = (flops(rollout, *args, while_trips=(*(1,) * len(turns), n))
               for n in (0, 1))
  # The pass that fills the rest stands outside of the loop over steps.
  last = one - none if sampler.fill_after < 1 else 0
  return none - last, one - none


def rates(cfg: config.Config, row: Mapping[str, float], work: Work | None
          ) -> dict[str, float]:
  """Tokens per second and MFU of the step that `row`, with its times, is of.
  """
  sampler = cfg.rollout.sampler
  tokens = cfg.rollout.prompts * cfg.rollout.group_size * sampler.gen_length
  # At least 1e-6: the clock may not have moved.
  seconds = {k: max(row[f"time/{k}"], 1e-6) for k in ("rollout", "update")}
  found = {
    "speed/rollout_tokens_per_s": (
      tokens * row["rollout/free"] / seconds["rollout"]),
    "speed/update_tokens_per_s": tokens / seconds["update"]}
  if work is None:
    return found
  for part, done in done_in(row, work).items():
    found[f"speed/{part}_mfu"] = done / seconds[part] / work.peak
  return found


def done_in(row: Mapping[str, float], work: Work) -> dict[str, float]:
  """FLOPs of the update, and of the rollout if known, of a step's `row`."""
  rest, all_parts = work.update
  found = {"update": rest + row["update/computed"] * all_parts}
  if work.rollout is not None:
    rest, each = work.rollout[int(row["rollout/prompt_width"])]
    found["rollout"] = rest + row["rollout/forwards"] * each
  return found
