"""SFT."""
from configs import bgpo


def get_config(preset: str = ""):
  cfg = bgpo.get_config(preset)
  cfg.job = "sft"
  return cfg
