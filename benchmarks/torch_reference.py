"""The update and the exact sampler against plain PyTorch on the same CPU.

    python -m benchmarks.torch_reference --out=benchmarks/results \\
      --torch_python=/path/to/a/python/with/torch

Both sides use the small shape of `benchmarks.sampler` in fp32 and the same
random weights. The update is the gradient of one Monte-Carlo sample of the ELBO
of 4 completions of 256 tokens after prompts of 256, half of them masked.
PyTorch computes it in three ways: with log-probs as in BGPO's published actor
(`update_bgpo`), as in LLaDA's fine-tuning code (`update`), and with logits of
the masked positions alone (`update_lean`), as dlrl does. The sampler is
LLaDA's, greedy, 128 tokens in 64 steps. `benchmarks/torch_llada.py` is the
PyTorch side.

How much faster an update could be is measured, too: `products_seconds` are
those of its matrix products alone, see `benchmarks/cpu_products.py`, and
`update_shares` says where its time goes, see `benchmarks/cpu_profile.py`.

Logits, gradients and completions are compared first. Then the sides take turns,
each while the other waits, and the ratio is the median over turns. In its turn
a side runs twice, and the second run counts, as in training: memory returned to
the system while waiting can take seconds to get back. Both sides see
`GLIBC_TUNABLES`; `docs/models.md` says what it is good for. Writes
`torch_reference.json`; about 15 minutes on 2 idle cores.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags

from benchmarks import cpu_products
from benchmarks import cpu_profile
from benchmarks import results
from benchmarks import sampler
from dlrl import config
from dlrl import update
from dlrl.diffusion import method_processes
from dlrl.models import transformer
from dlrl.runtime import progress
from dlrl.sampling import denoise

ROWS, PROMPT, COMPLETION = 4, 256, 256
# Few logits at a time: the last ones are padded to as many, and on a CPU that
# costs more than reading the head once more does.
LEARN = config.LearnConfig(
  loss="elbo_reinforce", forward_process="quadrature", n_mc=1,
  micro_batch=ROWS, logps_chunk=64)
NAME = "torch_reference"
# Jobs of dlrl, and the jobs of PyTorch that each is compared with.
JOBS = {"logits": ["logits"],
        "update": ["update", "update_lean", "update_bgpo"],
        "generate": ["generate"]}


@dataclasses.dataclass
class Torch:
  """The child process with torch, and the folder that both sides share."""

  process: subprocess.Popen[str]
  folder: pathlib.Path

  def run(self, job: str) -> float:
    """Runs a job; returns its seconds."""
    assert self.process.stdin is not None
    self.process.stdin.write(job + "\n")
    self.process.stdin.flush()
    return float(self.line())

  def line(self) -> str:
    """The child's next line of output.

    Raises:
      RuntimeError: the child has ended; its stderr says why.
    """
    assert self.process.stdout is not None
    line = self.process.stdout.readline()
    if not line:
      raise RuntimeError(
        "the process of --torch_python has ended; its error is above")
    return line.strip()

  def result(self, job: str) -> dict[str, np.ndarray]:
    """Outputs of the last run of a job."""
    return dict(np.load(self.folder / f"{job}.npz"))


@contextlib.contextmanager
def child(python: str, threads: int, inputs: dict[str, Any]) -> Iterator[Torch]:
  """Starts the process with torch and gives it the inputs."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    np.savez(path / "inputs.npz", **inputs)
    script = pathlib.Path(__file__).with_name("torch_llada.py")
    with subprocess.Popen(
        [python, str(script), folder, str(threads)], encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
      try:
        yield Torch(process, path)
      finally:
        process.kill()


def problem(model: transformer.Model) -> tuple[Any, update.Batch, jax.Array]:
  """Random parameters, a batch to learn from, and prompts to complete."""
  params = sampler.random_params(model)
  # The mask token is never predicted: `dlrl` rules it out, LLaDA's `generate`
  # does not.
  head = params["unembed"]["kernel"].at[:, model.mask_id].set(0)
  params |= {"unembed": {"kernel": head}}
  keys = jax.random.split(jax.random.key(1), 4)

  def tokens(key, width):
    return jax.random.randint(key, (ROWS, width), 0, model.mask_id)

  batch = update.Batch(
    prompt=tokens(keys[0], PROMPT), prompt_length=jnp.full(ROWS, PROMPT),
    completion=tokens(keys[1], COMPLETION),
    maskable=jnp.ones((ROWS, COMPLETION), bool),
    advantage=jnp.asarray([1.0, -0.5, 0.25, -0.75]),
    keys=jax.random.split(keys[2], ROWS))
  return params, batch, tokens(keys[3], sampler.PROMPT)


def torch_inputs(
  model: transformer.Model, params: Any, batch: update.Batch, prompt: jax.Array
) -> dict[str, Any]:
  """The inputs as PyTorch takes them: rows are [prompt | completion]."""
  mask, weight = method_processes.PROCESSES[LEARN.forward_process](
    batch.keys, batch.maskable, 0, 1)
  before = [(0, 0), (PROMPT, 0)]
  exact = sampler.EXACT
  inputs = {
    "ids": np.concatenate([batch.prompt, batch.completion], 1, dtype=np.int64),
    "mask": np.pad(mask, before), "weight": np.pad(weight / COMPLETION, before),
    "advantage": batch.advantage, "prompt": np.asarray(prompt, np.int64),
    "mask_id": model.mask_id, "rope_theta": model.cfg.rope_theta,
    "gen_length": exact.gen_length, "block_length": exact.block_length,
    "steps": exact.steps}
  for name in ("vocab_size", "width", "heads", "layers", "mlp_width"):
    inputs[f"sizes/{name}"] = getattr(model.cfg, name)
  for path, leaf in _leaves(params):
    inputs[f"params/{path}"] = np.asarray(leaf)
  return inputs


def programs(
  model: transformer.Model, params: Any, batch: update.Batch, prompt: jax.Array
) -> tuple[dict[str, Callable[[], Any]], jax.stages.Compiled]:
  """The jobs of `dlrl` by the names in JOBS, and the update's program."""
  lengths = jnp.full(ROWS, prompt.shape[1])
  keys = jax.random.split(jax.random.key(0), ROWS)
  ids = jnp.concatenate([batch.prompt, batch.completion], 1)
  lowered = {
    "logits": jax.jit(model.logits).lower(params, ids),
    "update": jax.jit(lambda params: update.batch_grads(
      model, LEARN, params, batch)).lower(params),
    "generate": jax.jit(lambda params: denoise.decode(
      model, params, prompt, lengths, keys, sampler=sampler.EXACT
    ).completion).lower(params)}
  compiled = {name: program.compile() for name, program in lowered.items()}
  return {
    "logits": functools.partial(compiled["logits"], params, ids),
    "update": functools.partial(compiled["update"], params),
    "generate": functools.partial(compiled["generate"], params),
  }, compiled["update"]


def compare(ours: Mapping[str, Callable[[], Any]], torch: Torch,
            jobs: Sequence[str]) -> dict[str, Any]:
  """Differences between the results; both sides are warm afterwards.

  Raises:
    AssertionError: results differ by more than rounding explains.
  """
  for job in itertools.chain(*(JOBS[name] for name in ("logits", *jobs))):
    torch.run(job)
  logits = np.asarray(ours["logits"]())
  error = float(abs(logits - torch.result("logits")["logits"]).max())
  assert error < 1e-3, f"logits differ by {error}"
  found = {"logits_max_difference": error}
  if "update" in jobs:
    metrics, grads = ours["update"]()
    worst = 0.0
    for theirs in map(torch.result, JOBS["update"]):
      np.testing.assert_allclose(metrics["loss"], theirs["loss"], rtol=1e-3)
      for path, leaf in _leaves(grads):
        want = _as_ours(path, theirs)
        worst = max(worst, float(abs(leaf - want).max() / abs(want).max()))
    assert worst < 1e-3, f"gradients differ by {worst} of the largest"
    found["gradients_max_relative"] = worst
  if "generate" in jobs:
    same = np.asarray(ours["generate"]()) == torch.result(
      "generate")["completion"]
    assert same.mean() > 0.9, f"only {same.mean():.0%} of the tokens agree"
    found["tokens_equal"] = float(same.mean())
  return found


def _leaves(tree: Any) -> list[tuple[str, Any]]:
  flat, _ = jax.tree.flatten_with_path(tree)
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
          for path, leaf in flat]


def _as_ours(path: str, theirs: dict[str, np.ndarray]) -> np.ndarray:
  """PyTorch's gradient of the parameter at `path`, in the layout of `dlrl`."""
  module = path.split("/")[-2]
  if path.startswith("layers/"):
    layers = sorted(
      (int(name.split(".")[1]), grad) for name, grad in theirs.items()
      if name.startswith("grad/blocks.") and f".{module}." in name)
    value = np.stack([grad for _, grad in layers])
  else:
    value = theirs[f"grad/{module}.weight"]
  return value.swapaxes(-1, -2) if path.endswith("kernel") else value


def measure(ours: Mapping[str, Callable[[], Any]], torch: Torch, repeats: int,
            jobs: Sequence[str]) -> dict[str, Any]:
  """Seconds of both sides in turns, and the median over turns of the ratio."""
  result: dict[str, Any] = {}
  # More turns for the update: it is short, and the time that the system takes
  # to provide memory varies.
  for job in jobs:
    turns = 4 * repeats if job == "update" else repeats
    mine: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in JOBS[job]}
    for i in range(turns):
      mine.append(_warm(functools.partial(_seconds, ours[job])))
      for name, seconds in theirs.items():
        seconds.append(_warm(functools.partial(torch.run, name)))
        progress.say(f"{name} {i + 1}/{turns}: ours {mine[-1]:.2f} s, "
                     f"torch's {seconds[-1]:.2f} s")
    for name, seconds in theirs.items():
      ratios = [b / a for a, b in zip(mine, seconds, strict=True)]
      result[name] = {
        "ours_seconds": statistics.median(mine),
        "torch_seconds": statistics.median(seconds),
        "ratio": statistics.median(ratios), "ratios": ratios}
  return result


def _warm(run: Callable[[], float]) -> float:
  run()
  return run()


def _seconds(job: Callable[[], Any]) -> float:
  start = time.monotonic()
  jax.block_until_ready(job())
  return time.monotonic() - start


def measure_all() -> dict[str, Any]:
  """Compares and measures as the flags say."""
  options = flags.FLAGS
  if not options.torch_python:
    raise app.UsageError(
      "--torch_python is missing; give a Python that can import torch")
  # The fastest remat policy here: what it keeps costs time to allocate.
  cfg = dataclasses.replace(sampler.SMALL, remat="dots")
  model = transformer.build(cfg, cfg.vocab_size - 1)
  params, batch, prompt = problem(model)
  ours, program = programs(model, params, batch, prompt)
  cores = len(os.sched_getaffinity(0))
  with child(options.torch_python, cores,
             torch_inputs(model, params, batch, prompt)) as torch:
    version = torch.line()
    checked = compare(ours, torch, options.jobs)
    progress.say(f"compared: {checked}")
    jobs = {
      name: {"torch": version} | row for name, row in
      measure(ours, torch, options.repeats, options.jobs).items()}
  shares = cpu_profile.shares(program, ours["update"])
  masked = int(torch_inputs(model, params, batch, prompt)["mask"].sum())
  products = cpu_products.of_update(
    cfg, ROWS, PROMPT + COMPLETION, masked)
  if set(options.jobs) != {"update", "generate"}:
    stored = results.read(NAME)
    checked, jobs = stored["compared"] | checked, stored["jobs"] | jobs
  return {
    "command": "python -m benchmarks.torch_reference", "cores": cores,
    "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    "jax": jax.__version__, "compared": checked,
    "jobs": jobs, "update_shares": shares,
    "products_gflops": cpu_products.flops(products) / 1e9,
    "products_seconds": cpu_products.seconds(products)}


def main(argv: list[str]) -> None:
  """Compares, measures, writes the file, prints the ratios."""
  del argv
  result = results.obtain(NAME, measure_all)
  for job, row in result["jobs"].items():
    print(f"{job}: {row['ratio']:.2f} times as fast as torch "
          f"{row['torch']}")
  rate = result["products_gflops"] / result["products_seconds"]
  update = result["jobs"]["update"]["ours_seconds"]
  print(f"products alone: {rate:.0f} GFLOP/s, "
        f"{result['products_seconds'] / update:.0%} of an update's time")
  print("time of an update: " + ", ".join(
    f"{kind} {share:.0%}" for kind, share in result["update_shares"].items()))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  flags.DEFINE_string("torch_python", None, "a Python that can import torch")
  flags.DEFINE_multi_enum(
    "jobs", ["update", "generate"], ["update", "generate"],
    "what is timed; of the other, the stored result stays")
  flags.DEFINE_integer(
    "repeats", 3, "turns of the sampler; the update takes four times as many",
    lower_bound=1)
  app.run(main)
