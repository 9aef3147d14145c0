"""What an update costs per method: memory, and FLOPs of a Monte-Carlo draw.

    python -m benchmarks.method_cost --out=benchmarks/results

Each objective as its config sets it, on the batch and network of
`configs/bgpo.py`, compiled for one CPU device with several numbers of draws;
nothing runs. For contrast, a joint objective that keeps what all draws leave.
Writes `method_cost.json` and `method_cost.png` and prints the table of
`docs/methods.md`; about 3 minutes on 2 CPU cores.
"""

import dataclasses
import json
import pathlib
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app
from absl import flags
from matplotlib import figure

from configs import bgpo
from configs import coupled_grpo
from configs import diffu_grpo
from configs import ebpo
from configs import elbo_reinforce
from configs import espo
from configs import gdsd
from configs import spg
from configs import stable_drl
from configs import trace_rl
from configs import unigrpo
from configs import vrpo_offline
from configs import vrpo_online
from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import update
from dlrl import validate
from dlrl.costs.flops import flops
from dlrl.diffusion import montecarlo
from dlrl.models import char_tokenizer
from dlrl.models import transformer
from dlrl.runtime import progress

CONFIGS = {
  "bgpo": bgpo,
  "bgpo_clipped": bgpo,
  "coupled_grpo": coupled_grpo,
  "diffu_grpo": diffu_grpo,
  "ebpo": ebpo,
  "elbo_reinforce": elbo_reinforce,
  "espo": espo,
  "gdsd": gdsd,
  "spg": spg,
  "stable_drl": stable_drl,
  "trace_rl": trace_rl,
  "unigrpo": unigrpo,
  "vrpo_offline": vrpo_offline,
  "vrpo_online": vrpo_online,
}
NS = (2, 16, 64)
TRIPLES = (3, 15, 63)  # the nearest that coupled draws can be
CONTRAST = "vrpo_online"
# Less to compile; what XLA plans, buffers too, is the same.
FAST: Any = {"xla_backend_optimization_level": 0,
             "xla_llvm_disable_expensive_passes": True}


def settings(name: str) -> config.LearnConfig:
  """Of the method's update."""
  learn = validate.from_dict(CONFIGS[name].get_config()).learn
  return dataclasses.replace(learn, loss=name)


def shapes(
  rows: int | None = None
) -> tuple[transformer.Model, Any, update.Batch]:
  """The model, shapes of its parameters, and of a batch of the config's rows.

  Or of others.
  """
  cfg = validate.from_dict(bgpo.get_config())
  model = transformer.build(cfg.model, char_tokenizer.CharTokenizer().mask_id)
  rows = rows or cfg.rollout.prompts * cfg.rollout.group_size
  t, p = cfg.rollout.sampler.gen_length, cfg.task.prompt_length

  def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype)

  batch = update.Batch(
    prompt=shape("int32", rows, p), prompt_length=shape("int32", rows),
    completion=shape("int32", rows, t), maskable=shape("bool", rows, t),
    advantage=shape("float32", rows),
    keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
    trace=shape("int32", rows, t))
  params = jax.eval_shape(model.init, jax.random.key(0))
  return model, params, batch


def program(learn: config.LearnConfig, rows: int | None = None):
  """(the update, shapes of its arguments)."""
  model, params, batch = shapes(rows)
  tx = optimizer.make(learn.optimizer, 10)
  objective = losses.OBJECTIVES[learn.loss](**learn.loss_args)
  state = jax.eval_shape(lambda p: update.TrainState(
    step=jnp.int32(0), params=p, opt_state=tx.init(p),
    key=jax.random.key_data(jax.random.key(0)),
    ref_params=p if objective.needs_ref else None), params)
  return update.make(model, learn, tx), (state, batch)


def forwards(name: str) -> dict[str, float]:
  """FLOPs per draw over those of one forward: of the update, of its gradient.

  The update also scores the draws by the rollout's parameters, where they are
  not the trained ones, and by the reference's, where there is a KL.
  """
  learn = dataclasses.replace(settings(name), n_mc=6)
  model, params, batch = shapes()
  one = flops(
    lambda p, b: update.draw_logps(model, learn, p, b, 0)[1], params, batch)
  objective = losses.OBJECTIVES[name](**learn.loss_args)
  scores: Any = jax.ShapeDtypeStruct(
    (batch.completion.shape[0], learn.n_mc, batch.completion.shape[1]),
    "float32")
  batch = dataclasses.replace(
    batch, old_logps=scores, ref_logps=scores if objective.needs_ref else None)
  gradient = flops(
    lambda *args: update.batch_grads(model, learn, *args),
    params, batch)
  run, args = program(learn)
  draws = learn.n_mc * learn.epochs
  return {"gradient": round(gradient / learn.n_mc / one, 3),
          "update": round(flops(run, *args) / draws / one, 3)}


def temporaries(learn: config.LearnConfig) -> int:
  """Bytes that the compiled update needs beside arguments and results."""
  run, args = program(learn)
  memory = jax.jit(run).lower(*args).compile(FAST).memory_analysis()
  assert memory is not None  # every backend in use has it
  return memory.temp_size_in_bytes


def measure(name: str) -> dict[str, Any]:
  """Passes over the draws, FLOPs, and bytes of temporaries by draws."""
  learn = settings(name)
  objective = losses.OBJECTIVES[name](**learn.loss_args)
  ns = TRIPLES if learn.forward_process == "coupled" else NS
  return {
    "passes": 1 if isinstance(objective, losses.Separable) else 2,
    "forwards": forwards(name),
    "temporaries": {
      str(n): temporaries(dataclasses.replace(learn, n_mc=n)) for n in ns}}


def kept_value_and_grad(objective, score, rows, params, n, onto):
  """Of a joint loss: draw after draw, all graphs kept until the backward."""
  def loss(params):
    def one(j):
      draw, metrics = score(params, j)
      return objective.statistic(draw, rows), jax.lax.stop_gradient(metrics)

    statistic, metrics = jax.tree.map(
      lambda x: jnp.mean(x, 0), jax.lax.map(one, jnp.arange(n)))
    value, more = objective.outer(statistic, rows)
    return jnp.mean(value), metrics | more

  value, grads = jax.value_and_grad(loss, has_aux=True)(params)
  return value, montecarlo.add(onto, grads)


def table(result: dict[str, Any]) -> str:
  """The rows of `docs/methods.md`."""
  lines = [
    "| loss | passes | gradient | with old and reference | "
    + " | ".join(f"{n} draws" for n in NS) + " |",
    "| --- | --- | --- | --- | --- | --- | --- |"]
  for name, row in (result["methods"] | result["contrast"]).items():
    mib = [f"{size / 2**20:.1f}" for size in row["temporaries"].values()]
    counts = [f"{x:.2f}" for x in row["forwards"].values()]
    lines.append(
      f"| {' | '.join([name, str(row['passes']), *counts, *mib])} |")
  return "\n".join(lines)


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
  """Temporaries over draws; methods on the same line share it."""
  lines: dict[tuple[tuple[int, float], ...], list[str]] = {}
  for name, row in (result["methods"] | result["contrast"]).items():
    points = tuple((int(n), round(size / 2**20, 1))
                   for n, size in row["temporaries"].items())
    lines.setdefault(points, []).append(name)
  fig = figure.Figure(figsize=(7, 4.6), layout="constrained")
  ax = fig.add_subplot()
  for points, names in lines.items():
    ax.loglog(*zip(*points, strict=True), marker="o", markersize=3,
              label=", ".join(names))
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel="temporaries of the compiled update, MiB")
  ax.set_xticks(NS, [str(n) for n in NS])
  sizes = (10, 30, 100, 300)
  ax.set_yticks(sizes, [str(size) for size in sizes])
  ax.minorticks_off()
  ax.grid(alpha=0.3)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(frameon=False, fontsize="small")
  fig.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
  """Compiles everything, writes both files, prints the table."""
  del argv
  methods = {}
  for name in CONFIGS:
    methods[name] = measure(name)
    progress.say(f"{name}: {methods[name]}")
  contrast = {}
  for name, value_and_grad in (
      ("graphs kept", kept_value_and_grad),
      ("draws in one batch", montecarlo.stacked_value_and_grad)):
    with mock.patch.object(montecarlo, "value_and_grad", value_and_grad):
      contrast[f"{CONTRAST}, {name}"] = measure(CONTRAST) | {"passes": 1}
  result = {"command": "python -m benchmarks.method_cost",
            "methods": methods, "contrast": contrast}
  out = pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  (out / "method_cost.json").write_text(json.dumps(result, indent=1) + "\n")
  plot(result, out / "method_cost.png")
  print(table(result))


if __name__ == "__main__":
  # Here, so that tests can import this module next to others.
  flags.DEFINE_string("out", "benchmarks/results", "directory")
  app.run(main)
