"""The PyTorch side of `torch_side`; importing it needs torch."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import checkpoint

from benchmarks import torch_llada
from dlrl import config


class Adapted(nn.Module):
  """A frozen linear map with an adapter."""

  def __init__(self, base: nn.Linear, cfg: config.LoraConfig):
    super().__init__()
    self.base, self.scale = base, cfg.scale
    # In fp32, as dlrl's.
    self.a = nn.Parameter(torch.randn(
      cfg.rank, base.in_features, dtype=torch.float32)
      / math.sqrt(base.in_features))
    self.b = nn.Parameter(torch.zeros(
      base.out_features, cfg.rank, dtype=torch.float32))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """As `nn.Linear`."""
    more = F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
    return self.base(x) + self.scale * more


class Recomputed(nn.Module):
  """A block whose forward pass is computed again for its gradient."""

  def __init__(self, inner: nn.Module):
    super().__init__()
    self.inner = inner

  def forward(self, *args: torch.Tensor) -> torch.Tensor:
    """As the block."""
    return checkpoint.checkpoint(self.inner, *args, use_reentrant=False)


def random_model(cfg: config.ModelConfig) -> torch_llada.LLaDA:
  """LLaDA's network on the default device, in the default dtype."""
  sizes = {name: getattr(cfg, name) for name in (
    "vocab_size", "width", "heads", "layers", "mlp_width")}
  return torch_llada.LLaDA(sizes, cfg.rope_theta)


def sample(model: torch_llada.LLaDA, cfg: config.Config, rows: int,
           blocks: int = 0) -> None:
  """LLaDA's greedy `generate`, of the first blocks or, with 0, of all."""
  sampler = cfg.rollout.sampler
  every = sampler.gen_length // sampler.block_length
  blocks = blocks or every
  torch_llada.generate(model, {
    "prompt": np.random.randint(3, 500, (rows, cfg.task.prompt_length)),
    "mask_id": cfg.model.vocab_size - 1,
    "gen_length": blocks * sampler.block_length,
    "block_length": sampler.block_length,
    "steps": sampler.steps * blocks // every})


def updates(model: torch_llada.LLaDA, cfg: config.Config
            ) -> Callable[[], None]:
  """Adds adapters to the model; returns an update by one draw per row."""
  model.requires_grad_(False)
  for i, block in enumerate(model.blocks):
    for name, part in list(block.named_children()):
      if isinstance(part, nn.Linear):
        setattr(block, name, Adapted(part, cfg.lora))
    model.blocks[i] = Recomputed(block)
  tx = torch.optim.AdamW(
    [x for x in model.parameters() if x.requires_grad],
    lr=cfg.learn.optimizer.learning_rate, fused=torch.cuda.is_available())
  rows, p = cfg.learn.micro_batch, cfg.task.prompt_length
  t, mask_id = cfg.rollout.sampler.gen_length, cfg.model.vocab_size - 1
  ids = torch.randint(3, 500, (rows, p + t))
  mask = torch.rand((rows, p + t)) < 0.5
  mask[:, :p] = False
  weight = torch.rand(rows)[torch.nonzero(mask)[:, 0]] / t

  def step() -> None:
    tx.zero_grad()
    hidden = model.hidden(torch.where(mask, mask_id, ids))[mask]
    nll = F.cross_entropy(
      model.unembed(hidden).float(), ids[mask], reduction="none")
    (weight * nll).sum().backward()
    tx.step()

  return step


def done(fn: Callable[[], None]) -> None:
  """Calls `fn`, and returns when the GPU has finished its work."""
  fn()
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def peak() -> int:
  """Bytes at the worst moment so far; 0 without a GPU."""
  return (torch.cuda.max_memory_allocated() if torch.cuda.is_available()
          else 0)


def limit() -> int | None:
  """Bytes of the GPU that arrays may take; None without one."""
  if not torch.cuda.is_available():
    return None
  return int(config.MeshConfig().gpu_memory * torch.cuda.mem_get_info()[1])
