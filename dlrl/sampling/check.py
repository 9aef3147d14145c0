"""Whether the settings of a sampler can work, before anything is compiled."""

from dlrl import config
from dlrl import strict
from dlrl.sampling import denoise
from dlrl.sampling import predict
from dlrl.sampling import remasking


def sampler(s: config.SamplerConfig, name: str,
            error: type[strict.ConfigError] = strict.ConfigError) -> None:
  """Checks that the settings of a sampler fit each other.

  Args:
    s: the settings.
    name: where they come from: a section of the config such as
      `rollout.sampler`, a function's name, or "" for flags.
    error: how a wrong one is reported, see `strict.require`.

  Raises:
    error: the first setting that does not fit, as `name.setting`.
  """
  def full(field: str) -> str:
    return f"{name}.{field}" if name else field

  def shown(field: str) -> str:
    return error.shown(full(field))

  def require(ok: bool, field: str, fix: str) -> None:
    strict.require(ok, full(field), getattr(s, field), fix, error)

  for field in ("gen_length", "block_length", "steps"):
    require(getattr(s, field) >= 1, field, "must be at least 1")
  for field in ("temperature", "factor", "cfg_scale"):
    require(getattr(s, field) >= 0, field, "must be at least 0; 0 turns it off")
  for field in ("fill_after", "threshold", "top_p"):
    require(0 <= getattr(s, field) <= 1, field, "must be in 0..1")
  require(s.top_p > 0, "top_p", "must be positive; 1 samples from all tokens")
  for field, table in (("remasking", remasking.RULES),
                       ("fallback", remasking.FALLBACKS), ("eos", predict.EOS),
                       ("cache", denoise.CACHES)):
    require(getattr(s, field) in table, field,
            f"choose from {', '.join(map(repr, table))}")
  require(
    s.gen_length % s.block_length == 0, "block_length",
    f"must divide {shown('gen_length')} = {s.gen_length}")
  blocks = s.gen_length // s.block_length
  require(
    s.steps % blocks == 0 and s.steps <= s.gen_length, "steps",
    f"must be a multiple of the {blocks} blocks and at most "
    f"{shown('gen_length')} = {s.gen_length}: each step commits a token")
  require(
    not (s.threshold and s.factor), "factor",
    f"must be 0 with {shown('threshold')} = {s.threshold}: either decides how "
    "many tokens a step commits")
  require(
    s.remasking == "low_confidence" or not (s.threshold or s.factor),
    "remasking", f"must be 'low_confidence' with {shown('threshold')} or "
    f"{shown('factor')}, which compare probabilities")
