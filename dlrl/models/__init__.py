"""Networks, tokenizers and published checkpoints; `load` reads one."""

from dlrl.models.hf_checkpoints import load

__all__ = ["load"]
