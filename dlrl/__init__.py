"""Reinforcement learning of diffusion large language models in JAX."""
