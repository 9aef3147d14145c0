"""`benchmarks.throughput` at a tiny shape; only equal results are timed."""

import dataclasses
import functools

import jax
import pytest

from benchmarks import straightforward
from benchmarks import throughput
from dlrl import config
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.costs import chips
from dlrl.runtime import mesh as mesh_lib

ROWS, P, T, STEPS, N_MC, VOCAB = 8, 8, 16, 4, 2, 50
PEAK = 1e9
TINY = {
  "model.vocab_size": VOCAB, "model.width": 16, "model.layers": 2,
  "model.heads": 2, "model.kv_heads": 2, "model.head_dim": 8,
  "model.mlp_width": 16, "task.prompt_length": P, "rollout.group_size": ROWS,
  "rollout.sampler.gen_length": T, "rollout.sampler.block_length": 8,
  "rollout.sampler.steps": STEPS, "learn.n_mc": N_MC,
  "learn.micro_batch": ROWS,
}


def tiny(**changes) -> config.Config:
  cfg = throughput.get_config()
  cfg.update_from_flattened_dict(
    TINY | {k.replace("__", "."): v for k, v in changes.items()})
  return validate.from_dict(cfg)


@pytest.mark.slow
def test_rates_are_amounts_and_flops_over_seconds(monkeypatch, unoptimized):
  monkeypatch.setitem(
    chips.CHIPS, "cpu", chips.Chip(PEAK, hbm=1, bandwidth=1, links=1))
  # One device: programs for eight take three times as long to compile.
  one = mesh_lib.make(config.MeshConfig(), jax.devices()[:1])
  monkeypatch.setattr(mesh_lib, "make", lambda cfg: one)
  order = []
  for module, name in (straightforward, "agree"), (throughput, "turns"):
    monkeypatch.setattr(module, name, functools.partial(
      lambda function, *args: order.append(function.__name__) or function(
        *args), getattr(module, name)))
  found = throughput.measure(tiny(), 3, vs=True)
  assert order == ["agree", "turns"]
  head = 2 * 16 * VOCAB
  layer = 2 * (4 * 16 * 16 + 3 * 16 * 16)
  attention = 2 * 2 * (P + T) * 16
  whole = (P + T) * (2 * (layer + attention))
  # Of the last layer, a step needs the block's columns and others' keys.
  step = ((P + T) * (layer + attention + 2 * 2 * 16 * 16)
          + 8 * (layer - 2 * 2 * 16 * 16 + attention + head))
  # An update computes logits again, and two sums over them for entropies.
  draw = 3 * whole + T * (4 * head + 2 * 2 * VOCAB)
  flops = {"rollout": ROWS * STEPS * step, "update": ROWS * N_MC * draw}
  amounts = {"rollout": ("tokens", ROWS * T),
             "update": ("samples", ROWS * N_MC)}
  for job, (unit, amount) in amounts.items():
    row, seconds = found[job], found[job]["seconds"]
    assert {k: len(v) for k, v in seconds.items()} == {"ours": 3, "plain": 3}
    least, median, most = sorted(seconds["ours"])
    assert row[f"{unit}_per_second"] == {
      "median": amount / median, "least": amount / most,
      "most": amount / least}
    ratios = sorted(
      b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True))
    assert list(row["speed_to_plain"].values()) == [
      ratios[1], ratios[0], ratios[2]]
    assert row["mfu"]["median"] == pytest.approx(
      flops[job] / median / (PEAK * jax.device_count()), rel=1e-6)


@pytest.mark.parametrize("part", ["completion", "loss", "gradients"])
def test_nothing_is_timed_that_differs(part):
  n = jax.numpy.ones(3)
  good = {
    "rollout": {
      "ours": lambda _: dataclasses.make_dataclass("D", ["completion"])(n),
      "plain": lambda _: n},
    "update": {"ours": lambda _: ({"loss": n[0]}, {"a": n}),
               "plain": lambda _: (n[0], {"a": n})}}
  straightforward.agree(good, None)
  bad = {
    "completion": ("rollout", lambda _: n.at[1].set(2)),
    "loss": ("update", lambda _: (1.01 * n[0], {"a": n})),
    "gradients": ("update", lambda _: (n[0], {"a": n.at[1].set(0.9)}))}
  job, other = bad[part]
  with pytest.raises(AssertionError):
    straightforward.agree(good | {job: good[job] | {"plain": other}}, None)


@pytest.mark.parametrize("name, value, vs", [
  ("lora.rank", 2, False), ("learn.loss", "vrpo_offline", False),
  ("learn.forward_process", "trace", False), ("learn.micro_batch", 2, False),
  ("learn.prompt_noise", 0.1, True), ("rollout.sampler.cache", "dual", True),
  ("rollout.sampler.steps", 6, True)])
def test_what_would_not_be_measured_is_refused(name, value, vs, monkeypatch):
  monkeypatch.delattr(update, "batch_grads")
  parts = name.split(".")
  with pytest.raises(strict.ConfigError, match=name.replace(".", r"\.")):
    throughput.measure(changed(tiny(), parts, value), 1, vs=vs)


def changed(cfg, parts, value):
  first, *rest = parts
  return dataclasses.replace(cfg, **{
    first: changed(getattr(cfg, first), rest, value) if rest else value})
