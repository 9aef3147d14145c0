"""LLaDA's network, update and sampler in plain PyTorch, for comparison.

Written like the published modelling code and `generate`: modules with fused
attention, logits of all columns and a softmax over all of them, masks as
boolean indices. There are three updates: with log-probs as BGPO's published
actor computes them; as LLaDA's fine-tuning code does; and with logits of masked
positions alone, the leanest that we can write.

`benchmarks.torch_reference` starts this file as a child, with any Python that
has torch. It reads `inputs.npz` from a folder, then names of jobs from stdin;
after each job it writes the outputs to `JOB.npz` and the seconds to stdout.
"""

import pathlib
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Arrays = dict[str, np.ndarray]


class Norm(nn.Module):
  """RMSNorm in fp32."""

  def __init__(self, width: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """[..., d] to [..., d]."""
    variance = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (x * torch.rsqrt(variance + 1e-5))


class Block(nn.Module):
  """A pre-norm residual block without biases."""

  def __init__(self, width: int, heads: int, mlp_width: int):
    super().__init__()
    self.heads = heads
    self.attention_norm, self.mlp_norm = Norm(width), Norm(width)
    self.q, self.k, self.v, self.out = (
      nn.Linear(width, width, bias=False) for _ in range(4))
    self.gate, self.up = (
      nn.Linear(width, mlp_width, bias=False) for _ in range(2))
    self.down = nn.Linear(mlp_width, width, bias=False)

  def forward(
    self, x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor
  ) -> torch.Tensor:
    """[b, t, d] to [b, t, d]."""
    b, t, d = x.shape
    y = self.attention_norm(x)
    q, k, v = (f(y).view(b, t, self.heads, -1).transpose(1, 2)
               for f in (self.q, self.k, self.v))
    q, k = (z * cos + _turned(z) * sin for z in (q, k))
    y = F.scaled_dot_product_attention(q, k, v)
    x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
    y = self.mlp_norm(x)
    return x + self.down(F.silu(self.gate(y)) * self.up(y))


def _turned(x):
  a, b = x.chunk(2, -1)
  return torch.cat([-b, a], -1)


class LLaDA(nn.Module):
  """Ids [b, t] to logits [b, t, v]."""

  def __init__(self, sizes: dict[str, int], rope_theta: float):
    super().__init__()
    width, heads = sizes["width"], sizes["heads"]
    self.embed = nn.Embedding(sizes["vocab_size"], width)
    self.blocks = nn.ModuleList(
      Block(width, heads, sizes["mlp_width"]) for _ in range(sizes["layers"]))
    self.norm = Norm(width)
    self.unembed = nn.Linear(width, sizes["vocab_size"], bias=False)
    half = width // heads // 2
    self.frequency = rope_theta ** (-torch.arange(half) / half)

  def forward(self, ids: torch.Tensor) -> torch.Tensor:
    """No attention mask: rows have no padding."""
    return self.unembed(self.hidden(ids))

  def hidden(self, ids: torch.Tensor) -> torch.Tensor:
    """Ids [b, t] to what the head reads, [b, t, d]."""
    angle = torch.arange(ids.shape[1])[:, None] * self.frequency
    angle = torch.cat([angle, angle], -1)
    sin, cos = angle.sin(), angle.cos()
    x = self.embed(ids)
    for block in self.blocks:
      x = block(x, sin, cos)
    return self.norm(x)


def load(model: LLaDA, arrays: Arrays) -> None:
  """Copies the parameters of `dlrl`, named by their paths, into `model`."""
  state = {}
  for name, array in arrays.items():
    path = name.split("/")
    module = path[-2]
    tensor = torch.from_numpy(array)
    if path[-1] == "kernel":
      tensor = tensor.transpose(-1, -2)
    if path[0] == "layers":
      for i, one in enumerate(tensor):
        state[f"blocks.{i}.{module}.weight"] = one
    else:
      state[f"{module}.weight"] = tensor
  model.load_state_dict(state)


def update(model: LLaDA, data: Arrays) -> Arrays:
  """Loss and gradients for rows [prompt | completion with masked tokens].

  Log-probs as in LLaDA's published fine-tuning: the logits of all masked
  positions are selected at once.
  """
  def score(hidden, ids, mask, weight):
    return _scores(model.unembed(hidden)[mask], ids, mask, weight)

  return _update(model, data, score)


def update_lean(model: LLaDA, data: Arrays) -> Arrays:
  """Like `update`, but hidden states are selected before the head.

  We know of no published code that does so, and of nothing leaner.
  """
  def score(hidden, ids, mask, weight):
    return _scores(model.unembed(hidden[mask]), ids, mask, weight)

  return _update(model, data, score)


def _scores(logits, ids, mask, weight):
  """Weighted sums [b] of log-probs, from the logits of masked positions."""
  logps = -F.cross_entropy(logits, ids[mask], reduction="none")
  rows = torch.nonzero(mask)[:, 0]
  return torch.zeros(len(ids)).index_add(0, rows, logps * weight[mask])


def update_bgpo(model: LLaDA, data: Arrays) -> Arrays:
  """Like `update`, with log-probs as in BGPO's published actor (DARE).

  That actor packs rows without padding, so it first copies each row's logits to
  their columns in a new [t, v] and then selects the masked ones.
  """
  def score(hidden, ids, mask, weight):
    logits, scores = model.unembed(hidden), []
    for row in range(len(ids)):
      whole = torch.zeros_like(logits[row])
      whole[torch.ones_like(mask[row])] = logits[row]
      some = mask[row]
      logps = -F.cross_entropy(whole[some], ids[row][some], reduction="none")
      scores.append((logps * weight[row][some]).sum())
    return torch.stack(scores)

  return _update(model, data, score)


def _update(model, data, score):
  ids, mask = torch.from_numpy(data["ids"]), torch.from_numpy(data["mask"])
  weight = torch.from_numpy(data["weight"])
  advantage = torch.from_numpy(data["advantage"])
  model.zero_grad()
  hidden = model.hidden(torch.where(mask, int(data["mask_id"]), ids))
  loss = -(advantage * score(hidden, ids, mask, weight)).mean()
  loss.backward()
  grads = {f"grad/{name}": parameter.grad.numpy()
           for name, parameter in model.named_parameters()}
  return {"loss": loss.detach().numpy(), **grads}


@torch.no_grad()
def generate(model: LLaDA, data: Arrays) -> Arrays:
  """LLaDA's greedy `generate`: low-confidence remasking, block by block."""
  prompt = torch.from_numpy(data["prompt"]).to(model.embed.weight.device)
  mask_id = int(data["mask_id"])
  length, width, steps = (
    int(data[k]) for k in ("gen_length", "block_length", "steps"))
  x = F.pad(prompt, (0, length), value=mask_id)
  count = steps * width // length
  for start in range(prompt.shape[1], x.shape[1], width):
    for _ in range(count):
      masked = x == mask_id
      logits = model(x)
      token = logits.argmax(-1)
      probs = F.softmax(logits, dim=-1)
      sure = probs.gather(-1, token[..., None])[..., 0]
      sure[:, start + width:] = -torch.inf
      sure = torch.where(masked, sure, -torch.inf)
      for row, confidence, new in zip(x, sure, token, strict=True):
        chosen = confidence.topk(width // count).indices
        row[chosen] = new[chosen]
  return {"completion": x[:, prompt.shape[1]:].numpy()}


@torch.no_grad()
def logits(model: LLaDA, data: Arrays) -> Arrays:
  """Logits of the update's rows, without masked tokens."""
  return {"logits": model(torch.from_numpy(data["ids"])).numpy()}


JOBS = {"logits": logits, "update": update, "update_lean": update_lean,
        "update_bgpo": update_bgpo, "generate": generate}


def main(folder: pathlib.Path, threads: int) -> None:
  """Runs the jobs named on stdin until it ends."""
  torch.set_num_threads(threads)
  data = dict(np.load(folder / "inputs.npz"))
  params = {k.removeprefix("params/"): data.pop(k)
            for k in list(data) if k.startswith("params/")}
  sizes = {k.removeprefix("sizes/"): int(data.pop(k))
           for k in list(data) if k.startswith("sizes/")}
  model = LLaDA(sizes, float(data["rope_theta"]))
  load(model, params)
  print(torch.__version__, flush=True)
  for line in sys.stdin:
    start = time.monotonic()
    out = JOBS[line.strip()](model, data)
    seconds = time.monotonic() - start
    np.savez(folder / f"{line.strip()}.npz", **out)
    print(seconds, flush=True)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
