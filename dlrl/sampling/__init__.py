"""Decodes completions from a masked-diffusion model."""

from dlrl.sampling.generate import generate

__all__ = ["generate"]
