"""Checks the settings of a sampler before anything is compiled."""

from collections.abc import Collection

from dlrl import config
from dlrl import strict
from dlrl.sampling import denoise
from dlrl.sampling import predict
from dlrl.sampling import remasking

CHOICES: dict[str, Collection[str]] = {
  "remasking": remasking.RULES, "fallback": remasking.FALLBACKS,
  "eos": predict.EOS, "cache": denoise.CACHES}


def sampler(s: config.SamplerConfig, name: str,
            error: type[strict.ConfigError] = strict.ConfigError) -> None:
  """Checks that the settings of a sampler are allowed and fit each other.

  Args:
    s: the settings.
    name: where they come from: a section of the config such as
      `rollout.sampler`, a function's name, or "" for flags.
    error: how a wrong one is reported, see `strict.require`.

  Raises:
    error: the settings that are wrong, as `name.setting`.
  """
  problems = strict.Problems()
  strict.check_bounds(s, problems, lambda field: _full(name, field), error)
  for field, table in CHOICES.items():
    value = getattr(s, field)
    problems.require(value in table, _full(name, field), value,
                     strict.one_of(table), error)
  fit(s, name, problems, error)
  problems.finish()


def fit(s: config.SamplerConfig, name: str, problems: strict.Problems,
        error: type[strict.ConfigError] = strict.ConfigError) -> None:
  """Adds settings that do not fit each other; arguments as in `sampler`."""

  def shown(field: str) -> str:
    return error.shown(_full(name, field))

  def require(ok: bool, field: str, fix: str) -> None:
    problems.require(ok, _full(name, field), getattr(s, field), fix, error)

  def sound(*fields: str) -> bool:
    return problems.sound(*(_full(name, field) for field in fields))

  if sound("gen_length", "block_length"):
    require(s.gen_length % s.block_length == 0, "block_length",
            f"must divide {shown('gen_length')} = {s.gen_length}")
  if sound("gen_length", "block_length", "steps"):
    blocks = s.gen_length // s.block_length
    require(
      s.steps % blocks == 0 and s.steps <= s.gen_length, "steps",
      f"must be a multiple of the {blocks} blocks and at most "
      f"{shown('gen_length')} = {s.gen_length}: each step commits a token")
  if sound("threshold", "factor"):
    require(
      not (s.threshold and s.factor), "factor",
      f"must be 0 with {shown('threshold')} = {s.threshold}: either decides "
      "how many tokens a step commits")
    require(
      s.remasking == "low_confidence" or not (s.threshold or s.factor),
      "remasking", f"must be 'low_confidence' with {shown('threshold')} or "
      f"{shown('factor')}, which compare probabilities")


def _full(name: str, field: str) -> str:
  return f"{name}.{field}" if name else field
