"""Decoding completions from a masked-diffusion model."""
