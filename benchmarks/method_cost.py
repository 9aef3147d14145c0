"""Cost of an update per method: memory, and FLOPs of a Monte-Carlo draw.

    python -m benchmarks.method_cost --out=benchmarks/results

Compiles each objective, set up as its config does, with the batch and network
of `configs/bgpo.py` and several numbers of draws, for one CPU device; nothing
runs. Two baselines show a joint objective the usual way: the graphs of all
draws kept until one backward pass, and all draws in one batch. Writes
`method_cost.json` and `method_cost.png` and prints the table of
`docs/methods.md`; about 3 minutes on 2 CPU cores.
"""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app
from absl import flags
from matplotlib import figure

from benchmarks import results
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
TRIPLES = (3, 15, 63)  # coupled draws come in threes
CONTRAST = "vrpo_online"
BASELINES = {
  f"{CONTRAST}, draws in one batch":
    "baseline: vrpo_online, all samples in one batch",
  f"{CONTRAST}, graphs kept": "baseline: vrpo_online, all graphs kept",
}
# Skips LLVM's optimizations, which take most of the compile time and do not
# change XLA's buffer assignment.
FAST: Any = {"xla_backend_optimization_level": 0,
             "xla_llvm_disable_expensive_passes": True}


def settings(name: str) -> config.LearnConfig:
  """The config section `learn` of the method's own config."""
  learn = validate.from_dict(CONFIGS[name].get_config()).learn
  return dataclasses.replace(learn, loss=name)


def shapes(rows: int | None = None
           ) -> tuple[transformer.Model, Any, update.Batch]:
  """The model, and shapes of its parameters and of a batch.

  Args:
    rows: size of the batch; None: as many rows as a step of the config has.
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


def program(learn: config.LearnConfig, rows: int | None = None
            ) -> tuple[Callable[..., Any], tuple[Any, update.Batch]]:
  """The update of `rows` rows, see `shapes`, and shapes of its arguments."""
  model, params, batch = shapes(rows)
  tx = optimizer.make(learn.optimizer, 10)
  objective = losses.OBJECTIVES[learn.loss](**learn.loss_args)
  state = jax.eval_shape(lambda p: update.TrainState(
    step=jnp.int32(0), params=p, opt_state=tx.init(p),
    key=jax.random.key_data(jax.random.key(0)),
    ref_params=p if objective.needs_ref else None), params)
  return update.make(model, learn, tx), (state, batch)


def forwards(name: str) -> dict[str, float]:
  """FLOPs per draw of the gradient and of the whole update, in forward passes.

  The update also scores the draws by the rollout's parameters, where the loss
  compares with them, and by the reference's, where it has a KL term.
  """
  learn = dataclasses.replace(settings(name), n_mc=6)
  model, params, batch = shapes()
  one = flops(
    lambda p, b: update.draw_logps(model, learn, p, b, 0)[1], params, batch)
  objective = losses.OBJECTIVES[name](**learn.loss_args)
  rows, tokens = batch.completion.shape
  # What is kept of the log-probs of other policies.
  kept: Any = jax.ShapeDtypeStruct({
    "tokens": (rows, learn.n_mc, tokens), "scores": (rows, learn.n_mc),
    "means": (rows, tokens)}[objective.others], "float32")
  batch = dataclasses.replace(
    batch, old_logps=kept, ref_logps=kept if objective.needs_ref else None,
    old_scores=jax.ShapeDtypeStruct((rows, learn.n_mc), "float32")
    if objective.others == "means" else None)
  gradient = flops(
    lambda *args: update.batch_grads(model, learn, *args),
    params, batch)
  run, args = program(learn)
  draws = learn.n_mc * learn.epochs
  return {"gradient": round(gradient / learn.n_mc / one, 3),
          "update": round(flops(run, *args) / draws / one, 3)}


def temporaries(learn: config.LearnConfig) -> int:
  """Bytes of temporaries that XLA plans for the update."""
  run, args = program(learn)
  memory = jax.jit(run).lower(*args).compile(FAST).memory_analysis()
  assert memory is not None  # CPUs, GPUs and TPUs all report it
  return memory.temp_size_in_bytes


def measure(name: str) -> dict[str, Any]:
  """Passes over the draws, relative FLOPs, and temporaries per n_mc."""
  learn = settings(name)
  objective = losses.OBJECTIVES[name](**learn.loss_args)
  ns = TRIPLES if learn.forward_process == "coupled" else NS
  return {
    "passes": 1 if isinstance(objective, losses.Separable) else 2,
    "forwards": forwards(name),
    "temporaries": {
      str(n): temporaries(dataclasses.replace(learn, n_mc=n)) for n in ns}}


def batched_value_and_grad(*args: Any, at_once: int) -> tuple[Any, Any]:
  """`montecarlo.stacked_value_and_grad`, called as `value_and_grad` is."""
  assert at_once == 1
  found: tuple[Any, Any] = montecarlo.stacked_value_and_grad(*args)
  return found


def kept_value_and_grad(
  objective: Any, score: Any, rows: losses.Responses, params: Any, n: int,
  onto: Any, *, at_once: int
) -> tuple[Any, Any]:
  """`montecarlo.value_and_grad` of a joint loss the usual way.

  Draws follow one another, and the graphs of all are kept until one backward
  pass.
  """
  assert at_once == 1

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
  """The table of `docs/methods.md`; temporaries in MiB."""
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


def plot(result: dict[str, Any]) -> figure.Figure:
  """Temporaries over draws."""
  fig, (ax,) = results.page(
    "Temporary memory of one update, by loss: tiny model, compiled for a CPU",
    size=(7, 5.2))
  lines = {name: [(int(n), size / 2**20)
                  for n, size in row["temporaries"].items()]
           for name, row in (result["methods"] | result["contrast"]).items()}
  results.draw_groups(ax, lines, BASELINES)
  results.ticks(ax, x=NS, y=(10, 20, 50, 100, 200, 500))
  ax.set(xlabel="Monte-Carlo samples per completion",
         ylabel="temporaries of the update (MiB)")
  fig.legend(loc="outside lower left", frameon=False, fontsize=9)
  return fig


def measure_all() -> dict[str, Any]:
  """Compiles all methods and both baselines."""
  methods = {}
  for name in CONFIGS:
    methods[name] = measure(name)
    progress.say(f"{name}: {methods[name]}")
  contrast = {}
  for name, value_and_grad in (
      ("graphs kept", kept_value_and_grad),
      ("draws in one batch", batched_value_and_grad)):
    with mock.patch.object(montecarlo, "value_and_grad", value_and_grad):
      contrast[f"{CONTRAST}, {name}"] = measure(CONTRAST) | {"passes": 1}
  return {"command": results.command(), "methods": methods,
          "contrast": contrast}


def main(argv: list[str]) -> None:
  """Compiles everything, draws, prints the table."""
  del argv
  result = results.obtain("method_cost", measure_all)
  results.show("method_cost", plot(result), table(result))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  app.run(main)
