"""Whether the settings of a sampler can work, before anything is compiled."""

from dlrl import config
from dlrl import strict
from dlrl.sampling import denoise
from dlrl.sampling import predict
from dlrl.sampling import remasking


def sampler(s: config.SamplerConfig, name: str) -> None:
  """Checks that the settings of a sampler fit each other.

  Raises:
    strict.ConfigError: they do not; names the field, with `name` before it.
  """
  for field in ("gen_length", "block_length", "steps"):
    value = getattr(s, field)
    strict.require(value >= 1, f"{name}.{field}", value, "must be at least 1")
  for field in ("temperature", "factor", "cfg_scale"):
    value = getattr(s, field)
    strict.require(value >= 0, f"{name}.{field}", value,
                   "must not be negative; 0 is without")
  for field in ("fill_after", "threshold", "top_p"):
    value = getattr(s, field)
    strict.require(0 <= value <= 1, f"{name}.{field}", value, "must be in 0..1")
  strict.require(s.top_p > 0, f"{name}.top_p", s.top_p, "1 samples from all")
  for field, table in (("remasking", remasking.RULES),
                       ("fallback", remasking.FALLBACKS), ("eos", predict.EOS),
                       ("cache", denoise.CACHES)):
    value = getattr(s, field)
    strict.require(value in table, f"{name}.{field}", value,
                   f"choose from {', '.join(map(repr, table))}")
  strict.require(
    s.gen_length % s.block_length == 0, f"{name}.block_length",
    s.block_length, f"must divide {name}.gen_length = {s.gen_length}")
  blocks = s.gen_length // s.block_length
  strict.require(
    s.steps % blocks == 0 and s.steps <= s.gen_length, f"{name}.steps",
    s.steps, f"must be a multiple of the {blocks} blocks, and at most "
    f"{name}.gen_length = {s.gen_length}: each step commits a token")
  strict.require(
    not (s.threshold and s.factor), f"{name}.factor", s.factor,
    f"must be 0: {name}.threshold says what is committed")
  strict.require(
    s.remasking == "low_confidence" or not (s.threshold or s.factor),
    f"{name}.remasking", s.remasking,
    "must be 'low_confidence': a threshold or factor is on probabilities")
