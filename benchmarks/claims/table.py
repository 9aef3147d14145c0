"""All runs, as data, in order of value."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from benchmarks.claims import runs
from benchmarks.claims import store

SEEDS = (0, 1, 2, 3, 4)
TUNING = (100,)  # a seed that no other table has

BGPO, STP = "configs/bgpo.py", "configs/stp.py"
VRPO, DIFFU = "configs/vrpo_online.py", "configs/diffu_grpo.py"
REINFORCE, SPG = "configs/elbo_reinforce.py", "configs/spg.py"
ESPO, COUNTDOWN = "configs/espo.py", "configs/bgpo.py:countdown"
STP_COUNTDOWN, BLOCKS = "configs/stp.py:countdown", "configs/bgpo.py:blocks"
HARDER = "configs/bgpo.py:countdown4"

LOSS, WEIGHT, DRAWS = "learn.loss", "learn.negative_weight", "learn.n_mc"
RATE, UPDATES = "learn.optimizer.learning_rate", "learn.updates_per_rollout"
PROCESS, KL = "learn.forward_process", "learn.loss_args.kl_coef"
FILL, TEMPLATE = "rollout.sampler.fill_after", "rollout.prior.template"
MEMORY, TOKENS = "rollout.prior.memory", "learn.tokens"

NS = (1, 2, 4, 8, 16)
FAST = 2.5e-3  # the rate of configs/bgpo.py
FULL = {WEIGHT: 1.0}
# Methods as published: config, settings that differ, and the rates that are
# tried. On-policy, VRPO-OL and REINFORCE have BGPO's gradient, and so its rate.
Grid = Mapping[str, tuple[str, Mapping[str, Any], tuple[float, ...]]]
GRID: Grid = {
  "BGPO": (BGPO, {**FULL, DRAWS: 4}, (3e-5, 1e-4, 3e-4)),
  "diffu-GRPO": (DIFFU, {}, (1e-4, 3e-4, 1e-3)),
}
OTHERS: Grid = {  # more rates, because their epochs and divisors differ
  name: (config, {}, (3e-5, 1e-4, 3e-4, 1e-3)) for name, config in {
    "CJ-GRPO": "configs/cj_grpo.py", "coupled-GRPO": "configs/coupled_grpo.py",
    "EBPO": "configs/ebpo.py", "ESPO": ESPO, "GDSD": "configs/gdsd.py",
    "SPG": SPG, "StableDRL": "configs/stable_drl.py",
    "TraceRL": "configs/trace_rl.py", "UniGRPO": "configs/unigrpo.py",
    "VRPO": "configs/vrpo_offline.py", "wd1": "configs/wd1.py"}.items()}
Rates = Mapping[str, float]  # the best ones, by method
# Methods of `OTHERS` that score by an ELBO, which any unbiased draws estimate,
# and do not draw by `balanced`.
OF_ELBO = ("EBPO", "ESPO", "GDSD", "StableDRL")

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
    against: another claim, with whose rows of the same labels its own are
      compared; "": none.
  """

  title: str
  about: str
  reference: str = ""
  against: str = ""


CLAIMS: Mapping[str, Claim] = {
  "example": Claim(
    "The example of the README",
    "`configs/bgpo.py` with all of its 400 steps, on one device instead of "
    "two, which round sums differently.", ""),
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
    "learning rate that was best on a seed that only the tables of rates have. "
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
  "objectives": Claim(
    "All objectives",
    "As published, each with its own draws and estimator, at the learning rate "
    "that was best on a seed that only the tables of rates have.",
    "BGPO, 16 draws"),
  "objectives_balanced": Claim(
    "All objectives, with one estimator",
    "With draws of `balanced`, the estimator with the least error, in place of "
    "their own, as many and at the same learning rate. Differences are from "
    "the rows of the same names in the section before. BGPO and VRPO have "
    "`balanced` there already. The others are left out, because their masks "
    "are what they score: CJ-GRPO and TraceRL follow the steps of the sampler, "
    "diffu-GRPO and wd1 mask all tokens, coupled-GRPO averages over its own "
    "three masks, and SPG and UniGRPO do not weight their draws, so that with "
    "other masks their score would be another.", against="objectives"),
  "stp_countdown": Claim(
    "STP on Countdown, and what counts after the end of the text",
    "BGPO with 8 draws and failures at weight 0, without pruning and with all "
    "of `configs/stp.py:countdown`, whose template is the tail after the end. "
    "Tokens after the first end of text count in the loss (`learn.tokens` "
    "canvas), or do not (until_eos). Answers to Sudoku have a fixed length, "
    "so that there both are the same.", "nothing, canvas"),
  "blocks": Claim(
    "Blocks: the exact ELBO against sampled ones",
    "A block-diffusion model, as in `configs/bgpo.py:blocks`: the 15 masks of "
    "a block of four tokens give its ELBO and the exact gradient. The others "
    "have draws of EBPO (`block_stratified`). FLOPs are of updates alone; "
    "rollouts are the same.", "all 15 masks, exact"),
  "harder": Claim(
    "A harder task and a larger model",
    "Countdown with four digits, for a model of 1.2 million parameters "
    "(`configs/bgpo.py:countdown4`), 400 steps. One seed, so without an "
    "interval: it shows that the same program learns beyond the toys, not how "
    "much.", ""),
  "tuning": Claim(
    "Learning rates",
    "Failures at full weight; one seed that no other table has. The best of "
    "each method is its rate above."),
  "tuning_others": Claim(
    "Learning rates of all objectives", "On the same seed."),
}


def _rows(claim: str, rows: Mapping[str, tuple[str, Mapping[str, Any]]],
          seeds: tuple[int, ...] = SEEDS, task: str = "sudoku"
          ) -> list[runs.Row]:
  """Rows by label; those whose rate is None, not known yet, have no seeds."""
  return [runs.Row(claim, label, config, overrides,
                   () if overrides.get(RATE, 0) is None else seeds, task)
          for label, (config, overrides) in rows.items()]


def _tuning() -> list[runs.Row]:
  return [row for claim, grid in (("tuning", GRID), ("tuning_others", OTHERS))
          for row in _rows(claim, {
            _rate_label(method, rate): (config, {**overrides, RATE: rate})
            for method, (config, overrides, rates) in grid.items()
            for rate in rates}, TUNING)]


def _rate_label(method: str, rate: float) -> str:
  return f"{method}, rate {rate:g}"


def _draw_label(n: int) -> str:
  return f"{n} draw" + "s" * (n > 1)


def _draws() -> list[runs.Row]:
  return _rows("draws", {
    _draw_label(n): (BGPO, {DRAWS: n}) for n in NS})


def _example() -> list[runs.Row]:
  return _rows("example", {"BGPO, 16 draws, 400 steps": (BGPO, {"steps": 400})})


def _methods(rates: Rates) -> list[runs.Row]:
  rate, all_masked = rates.get("BGPO"), rates.get("diffu-GRPO")
  return _rows("methods", {
    "BGPO, 16 draws": (BGPO, {**FULL, DRAWS: 16, RATE: rate}),
    "BGPO, 4 draws": (BGPO, {**FULL, DRAWS: 4, RATE: rate}),
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


def _objectives(rates: Rates) -> list[runs.Row]:
  return _rows("objectives", {
    "BGPO, 16 draws": (BGPO, {**FULL, DRAWS: 16, RATE: rates.get("BGPO")}),
    "diffu-GRPO": (DIFFU, {RATE: rates.get("diffu-GRPO")}),
    **{method: (config, {**overrides, RATE: rates.get(method)})
       for method, (config, overrides, _) in OTHERS.items()}})


def _cures(rates: Rates) -> list[runs.Row]:
  full = {**FULL, DRAWS: 4}
  return _rows("cures", {
    "none": (BGPO, full),
    "failures at weight 0 (default)": (BGPO, {DRAWS: 4}),
    "failures at weight 0.1": (BGPO, {WEIGHT: 0.1, DRAWS: 4}),
    "a lower rate": (BGPO, {**full, RATE: rates.get("BGPO")}),
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


def _objectives_balanced(rates: Rates) -> list[runs.Row]:
  return _rows("objectives_balanced", {
    method: (config, {**overrides, RATE: rates.get(method),
                      PROCESS: "balanced"})
    for method, (config, overrides, _) in OTHERS.items() if method in OF_ELBO})


def _stp_countdown() -> list[runs.Row]:
  n, spatial = {DRAWS: 8}, {DRAWS: 8, **SPATIAL}
  return _rows("stp_countdown", {
    "nothing, canvas": (COUNTDOWN, n),
    "nothing, until EOS": (COUNTDOWN, {**n, TOKENS: "until_eos"}),
    "all, canvas": (STP_COUNTDOWN, {**spatial, TOKENS: "canvas"}),
    "all, until EOS (configs/stp.py:countdown)": (STP_COUNTDOWN, spatial),
  }, task="countdown")


def _blocks() -> list[runs.Row]:
  return _rows("blocks", {
    "all 15 masks, exact": (BLOCKS, {}),
    **{_draw_label(n): (BLOCKS, {DRAWS: n, PROCESS: "block_stratified"})
       for n in (1, 4, 16)}}, task="blocks")


def _harder() -> list[runs.Row]:
  # Longer than all others, and on both cores: it is a run, not a comparison.
  return _rows("harder", {"BGPO, 8 draws": (HARDER, {
    "steps": 400, "eval.every": 20, "mesh.cpu_devices": 2})},
    seeds=SEEDS[:1], task="countdown4")


def rows_at(rates: Rates) -> tuple[runs.Row, ...]:
  """All rows, with these learning rates of methods.

  A claim's first seeds are run before the next claim's, see `runner.pending`.
  """
  tuning = _tuning()
  return (*(row for row in tuning if row.claim == "tuning"), *_example(),
          *_draws(),
          *_cures(rates), *_methods_without_failures(), *_off_policy(),
          *_methods(rates), *_stp(), *_countdown(),
          *(row for row in tuning if row.claim != "tuning"),
          *_objectives(rates), *_objectives_balanced(rates),
          *_stp_countdown(), *_blocks(), *_harder())


def rows(stored: store.Stored) -> tuple[runs.Row, ...]:
  """All rows; those whose learning rate is not known yet have no seeds."""
  return rows_at(best_rates(stored))


def best_rates(stored: store.Stored) -> dict[str, float]:
  """By method, the rate that ends highest; of methods whose grid is stored."""
  names = {row.label: row.runs[0].name for row in _tuning()}
  found = {}
  for method, (_, _, rates) in {**GRID, **OTHERS}.items():
    tried = [names[_rate_label(method, rate)] for rate in rates]
    if all(name in stored for name in tried):
      found[method] = max(
        zip(rates, tried, strict=True),
        key=lambda pair: stored[pair[1]]["after"])[0]
  return found


def find(rows: Sequence[runs.Row], claim: str, label: str) -> runs.Row:
  """The row of a claim with this label."""
  found, = (row for row in rows if (row.claim, row.label) == (claim, label))
  return found


def references(name: str, rows: Sequence[runs.Row]) -> dict[str, runs.Row]:
  """By the labels of a claim's rows, the row that each is compared with."""
  claim = CLAIMS[name]
  labels = [row.label for row in rows if row.claim == name]
  if claim.against:
    return {label: find(rows, claim.against, label) for label in labels}
  if not claim.reference:
    return {}
  reference = find(rows, name, claim.reference)
  return {label: reference for label in labels if label != claim.reference}
