"""Reinforcement learning of diffusion large language models in JAX."""

__version__ = "0.2.0"
