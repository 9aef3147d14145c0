"""LLaDA-8B's shape in PyTorch with eager SDPA, on one GPU.

As dlrl does it: random bf16 weights; adapters on a frozen base, blocks that are
computed again for their gradient, logits of masked tokens alone, AdamW. The
sampler is LLaDA's, with all logits. Rows are full, so attention needs no mask.
"""

import importlib.util
from collections.abc import Callable

import jax

from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import rollouts
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib
from benchmarks.accelerator import updates

SAMPLER, UPDATE = "PyTorch, exact sampler", "PyTorch, update of a draw"


def run(rows: rows_lib.Rows, *, dry: bool) -> None:
  """Measures both; a line says so where there is no PyTorch or no GPU."""
  if importlib.util.find_spec("torch") is None:
    rows.put("PyTorch", skipped="this Python has no module torch")
    return
  import torch
  if not (torch.cuda.is_available() or dry):
    rows.put("PyTorch", skipped="torch finds no GPU")
    return
  from benchmarks.accelerator import torch_model
  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  torch.set_default_device(device)
  torch.set_default_dtype(torch.bfloat16)
  rows.put("PyTorch", version=torch.__version__, on=str(device))
  # Only for its settings: JAX sees nothing but the CPU here.
  scale = scale_lib.Scale(
    tuple(jax.devices()[:1]), "cpu", torch_model.limit(), dry)
  exact = rollouts.setups(scale)[rollouts.name_of(rollouts.EXACT)].cfg
  learned = updates.setup_of(scale, 1, {}).cfg
  model = torch_model.random_model(exact.model)

  def seconds(fn: Callable[[], None], times: int) -> float:
    return programs_lib.seconds(lambda: torch_model.done(fn), times)

  def sample() -> None:
    count = exact.rollout.prompts * exact.rollout.group_size
    settings = exact.rollout.sampler
    torch_model.sample(model, exact, count, blocks=1)  # warm
    took = seconds(lambda: torch_model.sample(model, exact, count), 1)
    tokens = count * settings.gen_length
    rows.put(SAMPLER, rows=count, tokens=tokens, seconds=took,
             tokens_per_s=tokens / took)

  def learn() -> None:
    step = torch_model.updates(model, learned)
    step()
    took = seconds(step, 3)
    rows.put(UPDATE, rows=learned.learn.micro_batch, seconds=took,
             peak_gib=torch_model.peak() / 2**30)

  rows.attempt(SAMPLER, sample)
  rows.attempt(UPDATE, learn)
