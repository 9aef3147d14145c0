"""Tokens per second of a rollout and samples per second of an update, warm.

    python -m benchmarks.throughput --vs --out=benchmarks/results

On this file's own config: 8 layers of width 512, whose head takes a fourteenth
of the FLOPs, as in LLaDA-8B; 3 to 5 minutes on 2 CPU cores. Another config sets
the model, mesh, sampler, rows and update; weights are made in the host's
memory. At the size of accelerators there is `benchmarks.accelerator`. Weights,
prompts and completions are random, and prompts have the maximum length. The
rollout is `denoise.decode`, greedy. The update is the gradient of rows that all
have an advantage, without the optimizer's step; a sample is one Monte-Carlo
sample of one completion.

With `--vs`, straightforward JAX takes turns with `dlrl`: a sampler that
computes all logits of whole rows at every step, and an update with all samples
and all their logits in one batch (`benchmarks/straightforward.py`). Results are
compared first, in fp32: equal tokens, the same loss and gradients.

Writes `throughput.json`. FLOPs are what the model needs, as in a run's
`speed/*_mfu`; there are none for a rollout with a cache, whose passes differ.
MFU is left out where the devices' peak is unknown, as for CPUs.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import app
from absl import flags
from ml_collections import config_flags

from benchmarks import results
from benchmarks import sampler as samplers
from benchmarks import straightforward
from dlrl import config
from dlrl import losses
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.costs import chips
from dlrl.costs.flops import flops
from dlrl.diffusion import method_processes
from dlrl.models import attention
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.run import utilization
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

Jobs = dict[str, dict[str, Any]]  # job -> side -> function of parameters


def get_config() -> ml_collections.ConfigDict:
  """The small shape: 4 completions of 64 tokens after 64, in 32 steps."""
  cfg = config.default()
  cfg.model.update(dataclasses.asdict(samplers.SMALL) | {"vocab_size": 4096})
  cfg.task.prompt_length = 64
  cfg.rollout.prompts, cfg.rollout.group_size = 1, 4
  cfg.rollout.sampler.update(gen_length=64, block_length=32, steps=32)
  cfg.learn.n_mc, cfg.learn.micro_batch = 8, 4
  return cfg


def check(cfg: config.Config, mesh: jax.sharding.Mesh, *, vs: bool) -> None:
  """Refuses settings that the measurement would ignore.

  Raises:
    strict.ConfigError: the setting and a value that works; with `vs`, also
      those of `straightforward.check`.
  """
  attention.check(cfg.model, mesh)
  learn = cfg.learn
  parts = mesh_lib.shards(mesh.shape)
  needs_ref = losses.OBJECTIVES[learn.loss](**learn.loss_args).needs_ref
  for ok, field, value, fix in (
    (learn.micro_batch % parts == 0, "learn.micro_batch", learn.micro_batch,
     f"must be a multiple of mesh.data * mesh.expert * mesh.fsdp = {parts}"),
    (not cfg.lora.rank, "lora.rank", cfg.lora.rank,
     "must be 0: this benchmark does not measure adapters"),
    (learn.forward_process in method_processes.PROCESSES,
     "learn.forward_process", learn.forward_process,
     "must not need a rollout's trace; use 'balanced', for example"),
    (not needs_ref, "learn.loss", learn.loss,
     "must not need reference parameters; use 'bgpo', for example")):
    strict.require(ok, field, value, fix)
  if vs:
    straightforward.check(cfg)


def jobs_of(
  cfg: config.Config, batch: update.Batch, vs: bool, **changes: Any
) -> Jobs:
  """Rollout and update of the config's model, with `changes` to its config."""
  model = transformer.build(
    dataclasses.replace(cfg.model, **changes), cfg.model.vocab_size - 1)
  sampler, where = cfg.rollout.sampler, (batch.prompt, batch.prompt_length)
  jobs: Jobs = {
    "rollout": {"ours": lambda params: denoise.decode(
      model, params, *where, batch.keys, sampler=sampler, eos_id=0)},
    "update": {"ours": lambda params: update.batch_grads(
      model, cfg.learn, params, batch)}}
  if vs:
    jobs["rollout"]["plain"] = lambda params: samplers.straightforward(
      model, params, *where, sampler)
    jobs["update"]["plain"] = lambda params: straightforward.batch_grads(
      model, cfg.learn, params, batch)
  return jobs


def compiled(jobs: Jobs, params: Any) -> Jobs:
  """The jobs, jitted and compiled."""
  return jax.tree.map(lambda job: jax.jit(job).lower(params).compile(), jobs)


def turns(programs: Jobs, params: Any, repeats: int) -> Jobs:
  """Seconds of each turn in the place of the functions, without a warm-up."""
  seconds: Jobs = jax.tree.map(lambda _: [], programs)
  for i in range(repeats + 1):
    for job, sides in programs.items():
      for side, run in sides.items():
        start = time.monotonic()
        jax.block_until_ready(run(params))
        if i:
          seconds[job][side].append(time.monotonic() - start)
    progress.say(f"{i}/{repeats} turns")
  return seconds


def spread(values: Iterable[float]) -> dict[str, float]:
  """Median, minimum and maximum."""
  values = list(values)
  return {"median": statistics.median(values), "least": min(values),
          "most": max(values)}


def row(unit: str, amount: int, work: int | None, sides: dict[str, Any],
        seconds: dict[str, list[float]]) -> dict[str, Any]:
  """The result of one job.

  Args:
    unit: what the job makes, tokens or samples.
    amount: units per run of the job.
    work: FLOPs per run; None: unknown.
    sides: compiled programs, `ours` and, with --vs, `plain`.
    seconds: seconds of each turn, by side.
  """
  ours = seconds["ours"]
  found: dict[str, Any] = {
    f"{unit}_per_second": spread(amount / s for s in ours)}
  chip = chips.find(jax.devices()[0].device_kind)
  if work is not None:
    found["teraflops_per_second"] = spread(work / s / 1e12 for s in ours)
    if chip is not None:
      peak = chip.flops * jax.device_count()
      found["mfu"] = spread(work / s / peak for s in ours)
  if "plain" in seconds:
    found["speed_to_plain"] = spread(
      b / a for a, b in zip(ours, seconds["plain"], strict=True))
  return found | {"seconds": seconds, "temporary_mib": {
    side: program.memory_analysis().temp_size_in_bytes / 2**20
    for side, program in sides.items()}}


def measure(cfg: config.Config, repeats: int, *, vs: bool) -> dict[str, Any]:
  """Compiles and times rollout and update.

  Raises:
    strict.ConfigError: see `check`.
    AssertionError: with `vs`, the two sides' results differ.
  """
  greedy = dataclasses.replace(cfg.rollout.sampler, temperature=0.0)
  cfg = dataclasses.replace(
    cfg, rollout=dataclasses.replace(cfg.rollout, sampler=greedy))
  mesh = mesh_lib.make(cfg.mesh)
  check(cfg, mesh, vs=vs)
  mask_id = cfg.model.vocab_size - 1
  batch = straightforward.inputs(cfg, mask_id)
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    params = samplers.random_params(transformer.build(cfg.model, mask_id))
  params = jax.device_put(params, mesh_lib.param_shardings(
    mesh, layers.SHARDING, params))
  with jax.set_mesh(mesh):
    if vs:  # in fp32: rounded to bf16 or TF32, tokens soon differ
      with jax.default_matmul_precision("highest"):
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        straightforward.agree(compiled(jobs_of(
          cfg, batch, vs, compute_dtype="float32", param_dtype="float32"),
          wide), wide)
        del wide
      progress.say("compared")
    programs = compiled(jobs_of(cfg, batch, vs), params)
    progress.say("compiled")
    seconds = turns(programs, params, repeats)
    # FLOPs are counted without fused kernels, which do not report theirs, and
    # without remat, which would count twice what the model needs once.
    seen = jobs_of(cfg, batch, vs, attention="xla", remat="none")
    work = {"rollout": None, "update": flops(seen["update"]["ours"], params)}
    if greedy.cache == "none":  # with a cache, passes differ in FLOPs
      passes = utilization.rollout_flops(
        seen["rollout"]["ours"], (params,), greedy, len(batch.advantage))
      forwards = int(programs["rollout"]["ours"](params).forwards)
      work["rollout"] = passes[0] + forwards * passes[1]
  b = len(batch.advantage)
  return {
    job: row(unit, b * each, work[job], programs[job], seconds[job])
    for job, unit, each in (("rollout", "tokens", greedy.gen_length),
                            ("update", "samples", cfg.learn.n_mc))}


def measure_all() -> dict[str, Any]:
  """Measures as the flags say, and adds where and how."""
  options = flags.FLAGS
  cfg = validate.from_dict(options.config)
  mesh_lib.split_cpu(cfg.mesh.cpu_devices)
  jobs = measure(cfg, options.repeats, vs=options.vs)
  return {
    "command": results.command(), "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(), "cores": len(os.sched_getaffinity(0)),
    "jax": jax.__version__, "jobs": jobs}


def table(result: dict[str, Any]) -> str:
  """One line per job: medians, with minimum and maximum."""
  lines = []
  for job, found in result["jobs"].items():
    values = (f"{name} {v['median']:.3g} ({v['least']:.3g} to {v['most']:.3g})"
              for name, v in found.items()
              if isinstance(v, dict) and "median" in v)
    lines.append(f"{job}: {', '.join(values)}")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Measures, writes the file, prints the rates."""
  del argv
  print(table(results.obtain("throughput", measure_all)))


if __name__ == "__main__":
  # Not at module level, so that tests can import several benchmarks.
  flags.adopt_module_key_flags(results)
  config_flags.DEFINE_config_file("config", __file__)
  flags.DEFINE_integer("repeats", 3, "turns of every job", lower_bound=1)
  flags.DEFINE_boolean(
    "vs", False, "compare with straightforward JAX, which takes turns")
  app.run(main)
