"""Checks the settings of a sampler before anything is compiled."""

from collections.abc import Callable
from collections.abc import Collection

from dlrl import config
from dlrl import strict
from dlrl.models import quantized
from dlrl.sampling import denoise
from dlrl.sampling import edits
from dlrl.sampling import predict
from dlrl.sampling import remasking

CHOICES: dict[str, Collection[str]] = {
  "remasking": remasking.RULES, "fallback": remasking.FALLBACKS,
  "eos": predict.EOS, "cache": denoise.CACHES,
  "quantize": ("none", *quantized.PRODUCTS)}
# Settings that block-diffusion models do not support, with the value that they
# must have. Their cache is exact; the other settings are for full attention.
WITH_BLOCKS: dict[str, object] = {
  "cache": "none", "cfg_scale": 0, "fill_after": 1, "factor": 0,
  "fallback": "confident"}


def sampler(s: config.SamplerConfig, name: str,
            error: type[strict.ConfigError] = strict.ConfigError,
            block_length: int = 0) -> None:
  """Checks that the settings of a sampler are allowed and fit each other.

  Args:
    s: the settings.
    name: where they come from: a section of the config such as
      `rollout.sampler`, a function's name, or "" for flags.
    error: how a wrong one is reported, see `strict.require`.
    block_length: that of the model; 0: it has full attention.

  Raises:
    error: the settings that are wrong, as `name.setting`.
  """
  problems = strict.Problems()
  strict.check_bounds(s, problems, lambda field: _full(name, field), error)
  for field, table in CHOICES.items():
    value = getattr(s, field)
    problems.require(value in table, _full(name, field), value,
                     strict.one_of(table), error)
  fit(s, name, problems, error, block_length)
  problems.finish()


def fit(s: config.SamplerConfig, name: str, problems: strict.Problems,
        error: type[strict.ConfigError] = strict.ConfigError,
        block_length: int = 0) -> None:
  """Adds settings that do not fit each other; arguments as in `sampler`."""

  def shown(field: str) -> str:
    return error.shown(_full(name, field))

  def require(ok: bool, field: str, fix: str) -> None:
    problems.require(ok, _full(name, field), getattr(s, field), fix, error)

  def sound(*fields: str) -> bool:
    return problems.sound(*(_full(name, field) for field in fields))

  if block_length:
    _fit_blocks(s, block_length, require, shown)
  if sound("gen_length", "block_length"):
    require(s.gen_length % s.block_length == 0, "block_length",
            f"must divide {shown('gen_length')} = {s.gen_length}")
  if sound("gen_length", "block_length", "steps"):
    blocks = s.gen_length // s.block_length
    require(
      s.steps % blocks == 0 and s.steps <= s.gen_length, "steps",
      f"must be a multiple of the {blocks} blocks and at most "
      f"{shown('gen_length')} = {s.gen_length}: each step commits a token")
  if not block_length and sound("edit_threshold"):
    require(not edits.on(s), "edit_threshold",
            "must be 1: only models with blocks edit tokens")
  if not block_length and sound("threshold", "factor"):
    require(
      not (s.threshold and s.factor), "factor",
      f"must be 0 with {shown('threshold')} = {s.threshold}: either decides "
      "how many tokens a step commits")
    require(
      s.remasking == "low_confidence" or not (s.threshold or s.factor),
      "remasking", f"must be 'low_confidence' with {shown('threshold')} or "
      f"{shown('factor')}, which compare probabilities")


def traced(s: config.SamplerConfig, name: str, process: str,
           problems: strict.Problems) -> None:
  """Adds settings with which a forward process cannot follow the trace.

  Args:
    s: the settings of the rollout, each of which is allowed.
    name: their section of the config.
    process: the forward process, whose log-probs are of what was drawn from.
    problems: where errors go.
  """
  problems.require(
    s.top_p == 1 or s.top_k > 0, f"{name}.top_k", s.top_k,
    f"must be positive with {name}.top_p = {s.top_p} and {process!r}, whose "
    "log-probs are of what was drawn from: so many tokens are kept with each")
  problems.require(
    not s.cfg_scale, f"{name}.cfg_scale", s.cfg_scale,
    f"must be 0 with {process!r}, whose log-probs are of what was drawn from: "
    "the update has no guidance")
  problems.require(
    not edits.on(s), f"{name}.edit_threshold", s.edit_threshold,
    f"must be 1 with {process!r}: an edited token lacks the steps that it "
    "replaced; or choose a process of the ELBO, such as 'block_stratified'")


def _fit_blocks(s: config.SamplerConfig, block_length: int,
                require: Callable[[bool, str, str], None],
                shown: Callable[[str], str]) -> None:
  """Adds settings that do not fit a model with blocks."""
  require(s.block_length == block_length, "block_length",
          f"must be {block_length}, the block length of the model")
  for field, value in WITH_BLOCKS.items():
    require(getattr(s, field) == value, field,
            f"must be {value!r}: the model decodes in blocks of its own")
  require(s.eos in ("free", "stop"), "eos", "must be 'free' or 'stop', which "
          "are the same here: a row ends after a block with an end in it")
  require(
    not s.threshold or s.remasking in remasking.BOUNDS, "remasking",
    f"with {shown('threshold')} {strict.one_of(remasking.BOUNDS)}")


def _full(name: str, field: str) -> str:
  return f"{name}.{field}" if name else field
