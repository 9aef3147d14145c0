"""Networks, tokenizers and published checkpoints."""

from dlrl.models.hf_checkpoints import load

__all__ = ["load"]
