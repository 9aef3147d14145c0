"""SwiGLU, the MLP of all models here."""

import jax
from flax import nnx

from dlrl import config
from dlrl.models import linear


class MLP(nnx.Module):
  """SwiGLU: down(silu(gate(x)) up(x))."""

  def __init__(
    self, cfg: config.ModelConfig, width: int, *, rngs: nnx.Rngs
  ):
    self.gate = linear.dense(cfg, cfg.width, width, rngs)
    self.up = linear.dense(cfg, cfg.width, width, rngs)
    self.down = linear.dense(cfg, width, cfg.width, rngs)

  def __call__(self, x: jax.Array, live: jax.Array | None = None) -> jax.Array:
    """Maps [b, t, d] to [b, t, d]; padding costs as much as any column."""
    del live
    y: jax.Array = self.down(jax.nn.silu(self.gate(x)) * self.up(x))
    return y
