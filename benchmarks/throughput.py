"""Tokens per second of a rollout and samples per second of an update, warm.

    python -m benchmarks.throughput --vs --out=benchmarks/results
    python -m benchmarks.throughput --config=configs/bgpo.py:llada_8b_math \\
      --config.model.param_dtype=bfloat16 --config.rollout.prompts=1 \\
      --config.learn.micro_batch=8 --config.learn.n_mc=4 --out=DIR

The first is of this file's own config: 8 layers of width 512 under a head that
has a fourteenth of the products, as LLaDA-8B's; 3 to 5 minutes on 2 CPU cores.
Another config gives the model, mesh, sampler, rows and update. Weights, prompts
and completions are random; prompts are as long as they may be. The rollout is
`denoise.decode`, greedy. The update is its gradient, without the optimizer's
step, of rows that all have an advantage; a sample is a draw of a completion.

With `--vs` straightforward JAX takes turns with them: a sampler that computes
all logits of whole rows at every step, and all draws of an update in one batch
with all their logits (`benchmarks/straightforward.py`). Results are compared
first, in fp32: equal tokens, the same loss and gradients.

The second is for one large device; weights are made in the host's memory.

Writes `throughput.json`. FLOPs are what the model needs, as in a run's
`speed/*_mfu`; a rollout with a cache has none, as its passes differ. There is
no `mfu` where the devices' peak is not known, as a CPU's.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import app
from absl import flags
from ml_collections import config_flags

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
from dlrl.models import transformer
from dlrl.run import utilization
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import denoise

Jobs = dict[str, dict[str, Any]]  # job -> side -> function of the parameters


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
  """Refuses what would not be measured as it is set.

  Raises:
    strict.ConfigError: that; with `vs`, also as of `straightforward.check`.
  """
  attention.check(cfg.model, mesh)
  learn = cfg.learn
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  needs_ref = losses.OBJECTIVES[learn.loss](**learn.loss_args).needs_ref
  for ok, field, value, fix in (
    (
      learn.micro_batch % parts == 0,
      "learn.micro_batch",
      learn.micro_batch,
      f"must be a multiple of mesh.data * mesh.fsdp = {parts}",
    ),
    (
      not cfg.lora.rank,
      "lora.rank",
      cfg.lora.rank,
      "must be 0: adapters are not measured here",
    ),
    (
      learn.forward_process in method_processes.PROCESSES,
      "learn.forward_process",
      learn.forward_process,
      "must not need a rollout's trace, as 'balanced'",
    ),
    (
      not needs_ref,
      "learn.loss",
      learn.loss,
      "must not need a reference, as 'bgpo'",
    ),
  ):
    strict.require(ok, field, value, fix)
  if vs:
    straightforward.check(cfg)


def inputs(cfg: config.Config, mask_id: int) -> update.Batch:
  """Random tokens; every row has an advantage."""
  b = cfg.rollout.prompts * cfg.rollout.group_size
  p, t = cfg.task.prompt_length, cfg.rollout.sampler.gen_length
  tokens = jax.random.randint(jax.random.key(1), (b, p + t), 0, mask_id)
  return update.Batch(
    prompt=tokens[:, :p], prompt_length=jnp.full(b, p),
    completion=tokens[:, p:], maskable=jnp.ones((b, t), bool),
    advantage=jnp.where(jnp.arange(b) % 2 == 0, 1.0, -0.5),
    keys=jax.random.split(jax.random.key(2), b))


def jobs_of(
  cfg: config.Config, batch: update.Batch, vs: bool, **changes: Any
) -> Jobs:
  """What is measured, of the config's model with some changes."""
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
  """Programs of the jobs."""
  return jax.tree.map(lambda job: jax.jit(job).lower(params).compile(), jobs)


def turns(programs: Jobs, params: Any, repeats: int) -> Jobs:
  """Seconds, in the place of functions; of a warm-up before them, none."""
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
  """Median, least and most."""
  values = list(values)
  return {"median": statistics.median(values), "least": min(values),
          "most": max(values)}


def row(unit: str, amount: int, work: int | None, sides: dict[str, Any],
        seconds: dict[str, list[float]]) -> dict[str, Any]:
  """Of a job that takes `work` FLOPs, None: unknown, for `amount` units."""
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
  """Both jobs' rows.

  Raises:
    strict.ConfigError: as of `check`.
    AssertionError: with `vs`, results differ.
  """
  greedy = dataclasses.replace(cfg.rollout.sampler, temperature=0.0)
  cfg = dataclasses.replace(
    cfg, rollout=dataclasses.replace(cfg.rollout, sampler=greedy))
  mesh = mesh_lib.make(cfg.mesh)
  check(cfg, mesh, vs=vs)
  mask_id = cfg.model.vocab_size - 1
  batch = inputs(cfg, mask_id)
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    params = samplers.random_params(transformer.build(cfg.model, mask_id))
  params = jax.device_put(params, mesh_lib.param_shardings(
    mesh, transformer.SHARDING, params))
  with jax.set_mesh(mesh):
    if vs:  # Of bf16 or TF32, tokens soon part ways.
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
    # Kernels do not say what they compute; remat would compute it again.
    seen = jobs_of(cfg, batch, vs, attention="xla", remat="none")
    work = {"rollout": None, "update": flops(seen["update"]["ours"], params)}
    passes = utilization.rollout_flops(
      seen["rollout"]["ours"], (params,), greedy
    )
    if passes is not None:
      forwards = int(programs["rollout"]["ours"](params).forwards)
      work["rollout"] = passes[0] + forwards * passes[1]
  b = len(batch.advantage)
  return {
    job: row(unit, b * each, work[job], programs[job], seconds[job])
    for job, unit, each in (("rollout", "tokens", greedy.gen_length),
                            ("update", "samples", cfg.learn.n_mc))}


def main(argv: list[str]) -> None:
  """Measures, writes the file, prints the rows."""
  del argv
  options = flags.FLAGS
  cfg = validate.from_dict(options.config)
  mesh_lib.split_cpu(cfg.mesh.cpu_devices)
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  jobs = measure(cfg, options.repeats, vs=options.vs)
  (out / "throughput.json").write_text(json.dumps({
    "command": " ".join(["python -m benchmarks.throughput", *sys.argv[1:]]),
    "device": jax.devices()[0].device_kind, "devices": jax.device_count(),
    "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__,
    "jobs": jobs}, indent=1) + "\n")
  for job, found in jobs.items():
    values = (f"{name} {v['median']:.3g} ({v['least']:.3g} to {v['most']:.3g})"
              for name, v in found.items()
              if isinstance(v, dict) and "median" in v)
    print(f"{job}: {', '.join(values)}")


if __name__ == "__main__":
  # Here, so that tests can import this module next to others.
  config_flags.DEFINE_config_file("config", __file__)
  flags.DEFINE_string("out", "benchmarks/results", "directory")
  flags.DEFINE_integer("repeats", 3, "turns", lower_bound=1)
  flags.DEFINE_boolean("vs", False, "straightforward JAX takes turns")
  app.run(main)
