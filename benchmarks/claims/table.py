"""All runs, as data, in order of value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.claims import runs
from benchmarks.claims import store

SEEDS = (0, 1, 2, 3, 4)
TUNING = (100,)  # a seed that no other table has

BGPO, STP = "configs/bgpo.py", "configs/stp.py"
VRPO, DIFFU = "configs/vrpo_online.py", "configs/diffu_grpo.py"
REINFORCE, SPG = "configs/elbo_reinforce.py", "configs/spg.py"
ESPO, COUNTDOWN = "configs/espo.py", "configs/bgpo.py:countdown"

LOSS, WEIGHT, DRAWS = "learn.loss", "learn.negative_weight", "learn.n_mc"
RATE, UPDATES = "learn.optimizer.learning_rate", "learn.updates_per_rollout"
PROCESS, KL = "learn.forward_process", "learn.loss_args.kl_coef"
FILL, TEMPLATE = "rollout.sampler.fill_after", "rollout.prior.template"
MEMORY = "rollout.prior.memory"

NS = (1, 2, 4, 8, 16)
FAST = 2.5e-3  # the rate of configs/bgpo.py
# The best of the "tuning" rows at full weight. On-policy, BGPO, VRPO-OL and
# REINFORCE have one gradient, and so one rate.
GRID = {"BGPO": (3e-5, 1e-4, 3e-4), "diffu-GRPO": (1e-4, 3e-4, 1e-3)}
TUNED = {"BGPO": 1e-4, "diffu-GRPO": 3e-4}

# Spatial pruning as in configs/stp.py, annealed over these fewer steps.
SPATIAL = {TEMPLATE: 1.0, MEMORY: 0.5, "rollout.prior.slots": 8192,
           "rollout.prior.anneal_steps": runs.COMMON["steps"]}


@dataclasses.dataclass(frozen=True)
class Claim:
  """A section of the page.

  Attributes:
    title: its heading.
    about: what its rows have in common.
    reference: label of the row that the others are compared with; "": none.
  """

  title: str
  about: str
  reference: str


CLAIMS: Mapping[str, Claim] = {
  "draws": Claim(
    "Does the number of draws matter?",
    "BGPO as in `configs/bgpo.py`, with the estimator `balanced` and failures "
    "at weight 0.", "16 draws"),
  "countdown": Claim(
    "The number of draws on Countdown",
    "BGPO as in `configs/bgpo.py:countdown`, with the estimator `stratified` "
    "and failures at weight 0.", "16 draws"),
  "methods": Claim(
    "BGPO against other methods, on-policy",
    "The objectives as published, with failures at full weight, each at the "
    "learning rate that was best on a seed that no table but the last has. "
    "BGPO, VRPO-OL and REINFORCE have one gradient on-policy, and so one rate.",
    "BGPO, 16 draws"),
  "damped": Claim(
    "The same with failures at weight 0",
    "At the learning rate of `configs/bgpo.py`. Without failures, BGPO is "
    "REINFORCE with the ELBO.", "BGPO, 16 draws"),
  "off_policy": Claim(
    "Several updates per rollout: which bound?",
    "Failures at weight 0.1 and a learning rate of 0.001: at weight 0, BGPO's "
    "bound by sign is Taylor's. Each update is on an equal part of the "
    "rollout.", "by sign (BGPO), 4 updates"),
  "cures": Claim(
    "What keeps the objective from collapsing?",
    "Lowering an ELBO has no floor. BGPO with 4 draws and failures at full "
    "weight, at the learning rate of `configs/bgpo.py`, and what may help it.",
    "failures at weight 0 (default)"),
  "stp": Claim(
    "What each part of STP does",
    "BGPO with 8 draws and failures at weight 0, and each kind of pruning of "
    "`configs/stp.py` alone. Priors are annealed over the run.", "nothing"),
  "tuning": Claim(
    "Learning rates",
    "Failures at full weight; one seed that no other table has. The best of "
    "each method is its rate above.", ""),
}


def _rows(claim: str, rows: Mapping[str, tuple[str, Mapping[str, Any]]],
          seeds: tuple[int, ...] = SEEDS, task: str = "sudoku"
          ) -> list[runs.Row]:
  return [runs.Row(claim, label, config, overrides, seeds, task)
          for label, (config, overrides) in rows.items()]


def _tuning() -> list[runs.Row]:
  configs = {"BGPO": BGPO, "diffu-GRPO": DIFFU}
  return _rows("tuning", {
    f"{method}, rate {rate:g}": (
      configs[method], {WEIGHT: 1.0, DRAWS: 1 if method != "BGPO" else 4,
                        RATE: rate})
    for method, rates in GRID.items() for rate in rates}, TUNING)


def _draw_label(n: int) -> str:
  return f"{n} draw" + "s" * (n > 1)


def _draws() -> list[runs.Row]:
  return _rows("draws", {
    _draw_label(n): (BGPO, {DRAWS: n}) for n in NS})


def _methods() -> list[runs.Row]:
  rate, all_masked = TUNED["BGPO"], TUNED["diffu-GRPO"]
  return _rows("methods", {
    "BGPO, 16 draws": (BGPO, {WEIGHT: 1.0, DRAWS: 16, RATE: rate}),
    "BGPO, 4 draws": (BGPO, {WEIGHT: 1.0, DRAWS: 4, RATE: rate}),
    "VRPO-OL, 4 draws": (VRPO, {RATE: rate}),
    "REINFORCE, 4 draws": (REINFORCE, {DRAWS: 4, RATE: rate}),
    "diffu-GRPO": (DIFFU, {RATE: all_masked}),
  })


def _methods_without_failures() -> list[runs.Row]:
  damped = {WEIGHT: 0.0, RATE: FAST}
  return _rows("damped", {
    "BGPO, 16 draws": (BGPO, {DRAWS: 16}),
    "BGPO, 4 draws": (BGPO, {DRAWS: 4}),
    "VRPO-OL, 4 draws": (VRPO, damped),
    "REINFORCE, 4 draws": (REINFORCE, {**damped, DRAWS: 4}),
    "diffu-GRPO": (DIFFU, damped),
  })


def _cures() -> list[runs.Row]:
  full = {WEIGHT: 1.0, DRAWS: 4}
  return _rows("cures", {
    "none": (BGPO, full),
    "failures at weight 0 (default)": (BGPO, {DRAWS: 4}),
    "failures at weight 0.1": (BGPO, {WEIGHT: 0.1, DRAWS: 4}),
    "a lower rate": (BGPO, {**full, RATE: TUNED["BGPO"]}),
    "EUBO for failures (SPG, all of it)": (
      SPG, {RATE: FAST, "learn.loss_args.mix": 1.0}),
    "EUBO for failures (SPG, half of it)": (SPG, {RATE: FAST}),
    "clip, 4 updates": (BGPO, {**full, LOSS: "bgpo_clipped", UPDATES: 4}),
    "KL of 0.1 to the warm start (ESPO)": (ESPO, {
      RATE: FAST, KL: 0.1, "learn.epochs": 1, PROCESS: "balanced",
      "learn.advantage": "normalized"}),
  })


def _stp() -> list[runs.Row]:
  n = {DRAWS: 8}
  unpruned = {TEMPLATE: 0.0, MEMORY: 0.0, FILL: 1.0}
  return _rows("stp", {
    "nothing": (BGPO, n),
    "template": (BGPO, {**n, **SPATIAL, MEMORY: 0.0}),
    "template and memory (spatial)": (BGPO, {**n, **SPATIAL}),
    "last tokens at once (temporal)": (BGPO, {**n, FILL: 0.6}),
    "truncated draws": (STP, {**n, **unpruned}),
    "all (configs/stp.py)": (STP, {**n, **SPATIAL}),
  })


def _off_policy() -> list[runs.Row]:
  losses = {"by sign (BGPO)": "bgpo",
            "Taylor only": "benchmarks.claims.bounds:taylor",
            "Jensen only": "benchmarks.claims.bounds:jensen",
            "no bound (VRPO-OL)": "vrpo_online"}
  return _rows("off_policy", {
    f"{name}, {updates} updates": (BGPO, {
      LOSS: loss, UPDATES: updates, WEIGHT: 0.1, DRAWS: 4, RATE: 1e-3})
    for updates in (4, 2) for name, loss in losses.items()})


def _countdown() -> list[runs.Row]:
  return _rows("countdown", {
    _draw_label(n): (COUNTDOWN, {DRAWS: n}) for n in NS}, task="countdown")


# A claim's first seeds are run before the next claim's, see `runner.pending`.
ROWS: tuple[runs.Row, ...] = (
  *_tuning(), *_draws(), *_cures(), *_methods_without_failures(),
  *_off_policy(), *_methods(), *_stp(), *_countdown())


def row(claim: str, label: str) -> runs.Row:
  """The row of a claim with this label."""
  found, = (row for row in ROWS if (row.claim, row.label) == (claim, label))
  return found


def best_rates(stored: store.Stored) -> dict[str, float]:
  """By method, the rate that ends highest; of methods whose grid is stored."""
  found = {}
  for method, rates in GRID.items():
    tried = [row("tuning", f"{method}, rate {rate:g}").runs[0].name
             for rate in rates]
    if all(name in stored for name in tried):
      found[method] = max(
        zip(rates, tried, strict=True),
        key=lambda pair: stored[pair[1]]["after"])[0]
  return found
