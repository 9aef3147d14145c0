"""A mixture of experts: each token is computed by a few SwiGLUs of many.

No token is dropped, and padding is not computed. Experts may be split over the
mesh axis `expert`; see `exchange`.
"""

import functools
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.models import quantized
from dlrl.models.mlp import exchange
from dlrl.models.mlp import grouped
from dlrl.models.mlp import router as router_lib
from dlrl.models.mlp.swiglu import MLP
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand

MATRICES = ("gate", "up", "down")
_Factors = tuple[jax.Array, ...]
# How a matrix, and the two of its adapter, are split; by their number.
_COLUMNS = {0: (), 1: (P("expert", None, "tensor"),),
            2: (P("expert"), P("expert", None, "tensor"))}
_ROWS = {0: (), 1: (P("expert", "tensor"),),
         2: (P("expert", "tensor"), P("expert"))}
_SPLIT = (_COLUMNS, _COLUMNS, _ROWS)


class ExpertLoad(NamedTuple):
  """Where the tokens of a layer go.

  Attributes:
    tokens: [e] int32, how many each expert computes.
    entropy: fp32, mean entropy of a token's scores over all experts, in nats.
    dropped: int32, choices of tokens that no expert computed.
  """

  tokens: jax.Array
  entropy: jax.Array
  dropped: jax.Array


class Matrices(nnx.Module):
  """One matrix [in, out] of every expert, stacked; see `linear.Linear`."""

  # Set by `lora.attach`.
  a: Any = None
  b: Any = None
  scale = 1.0

  def __init__(
    self, cfg: config.ModelConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs
  ):
    # As `linear.Linear` draws each of them.
    self.kernel = nnx.Param(nnx.initializers.lecun_normal(batch_axis=0)(
      rngs.params(), (cfg.experts.number, inputs, outputs),
      jnp.dtype(cfg.param_dtype)))

  def weights(self, dtype: jnp.dtype) -> tuple[_Factors, _Factors]:
    """(frozen, trained): the kernel is frozen beneath an adapter."""
    kernel = self.kernel.get_value()
    kernel = (jax.vmap(quantized.dense)(by_hand.whole(kernel))
              if quantized.is_quantized(kernel) else
              by_hand.whole(kernel, dtype)).astype(dtype)
    if self.a is None:
      return (), (kernel,)
    a, b = (part.get_value().astype(dtype) for part in (self.a, self.b))
    return (kernel,), (a, self.scale * b)


class Experts(nnx.Module):
  """The gate, up and down matrices of all experts of a layer."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    width = cfg.experts.width
    self.gate, self.up = (
      Matrices(cfg, cfg.width, width, rngs=rngs) for _ in range(2))
    self.down = Matrices(cfg, width, cfg.width, rngs=rngs)


class Mixture(nnx.Module):
  """Sums a few experts of each token, by the weights of a router."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.router = router_lib.Router(cfg, rngs=rngs)
    self.experts = Experts(cfg, rngs=rngs)
    self.number = cfg.experts.number
    self.dtype = jnp.dtype(cfg.compute_dtype)
    self.shares = cfg.experts.shared_width > 0
    if self.shares:
      self.shared = MLP(cfg, cfg.experts.shared_width, rngs=rngs)

  def __call__(self, x: jax.Array, live: jax.Array | None = None) -> jax.Array:
    """Maps [b, t, d] to [b, t, d].

    Args:
      x: tokens.
      live: [b, t] bool, what is not padding, which has no routed experts; None:
        everything.
    """
    y = self.routed(x, self.router(x), live)
    return y + self.shared(x) if self.shares else y

  def routed(
    self, x: jax.Array, routing: router_lib.Routing, live: jax.Array | None
  ) -> jax.Array:
    """Sums the experts of each token [b, t, d], without the shared one."""
    frozen, trained = zip(*(
      getattr(self.experts, name).weights(self.dtype) for name in MATRICES),
      strict=True)
    return self._dispatched(
      x.astype(self.dtype), routing, live, _swiglu, frozen, trained)

  def expert_load(self, x: jax.Array, live: jax.Array) -> ExpertLoad:
    """Measures where live tokens [b, t, d] go, and that they come back."""
    routing = self.router(x)
    chosen = jax.nn.one_hot(routing.experts, self.number, dtype=jnp.int32)
    served = self._dispatched(
      jnp.ones((*live.shape, 1)),
      routing._replace(weights=jnp.ones_like(routing.weights)), live,
      lambda frozen, trained, rows, sizes: rows, (), ())
    wanted = jnp.sum(live) * routing.experts.shape[-1]
    return ExpertLoad(
      jnp.sum(chosen * live[..., None, None], (0, 1, 2)),
      jnp.sum(self.router.entropy(x) * live) / jnp.maximum(jnp.sum(live), 1),
      wanted - jnp.round(jnp.sum(served * live[..., None])).astype(jnp.int32))

  def _dispatched(
    self, x: jax.Array, routing: router_lib.Routing, live: jax.Array | None,
    apply: exchange.Apply, frozen: Any, trained: Any,
  ) -> jax.Array:
    """Sums what `apply` makes of each token's rows."""
    experts = routing.experts if live is None else jnp.where(
      live[..., None], routing.experts, self.number)
    rows = mesh_lib.BATCH if mesh_lib.batch_parts(len(x)) > 1 else None
    tokens = P(rows)
    specs = (tuple(split[len(part)] for split, part in zip(
      _SPLIT, factors, strict=False)) for factors in (frozen, trained))
    summed: jax.Array = mesh_lib.on_each_device(
      functools.partial(_on_device, self.number, apply),
      (tokens, tokens, tokens, *specs), tokens)(
        x, experts, routing.weights, frozen, trained)
    return summed


def _on_device(
  number: int, apply: exchange.Apply, x: jax.Array, experts: jax.Array,
  weights: jax.Array, frozen: Any, trained: Any,
) -> jax.Array:
  """`Mixture._dispatched` of a device's tokens, to the experts of all."""
  tokens, experts, weights = (
    a.reshape(-1, a.shape[-1]) for a in (x, experts, weights))
  y = exchange.computed(
    tokens, experts, weights, number, apply, frozen, trained)
  return y.astype(x.dtype).reshape(x.shape)


def _swiglu(
  frozen: Sequence[_Factors], trained: Sequence[_Factors], rows: jax.Array,
  sizes: jax.Array,
) -> jax.Array:
  """Applies the device's experts to groups of rows.

  Args:
    frozen: of gate, up and down, from `Matrices.weights`.
    trained: of these, too.
    rows: [n, d], those of the first expert first.
    sizes: [e] int32, rows of each expert; what is behind them is padding.

  Returns:
    [n, d]; of padding, anything.
  """
  gate, up, down = (functools.partial(_product, (*kernel, *parts), sizes=sizes)
                    for kernel, parts in zip(frozen, trained, strict=True))
  y = down(jax.nn.silu(gate(rows)) * up(rows))
  mesh = jax.sharding.get_abstract_mesh()
  return jax.lax.psum(y, "tensor") if mesh.shape.get("tensor", 1) > 1 else y


def _product(
  parts: _Factors, rows: jax.Array, *, sizes: jax.Array
) -> jax.Array:
  """Multiplies each group of rows by its expert's matrix, and its adapter."""
  kernel, *adapter = parts
  y = grouped.product(rows, kernel, sizes)
  for_rows = rows
  for part in adapter:
    for_rows = grouped.product(for_rows, part, sizes)
  return y + for_rows if adapter else y


def check(cfg: config.ModelConfig) -> None:
  """Refuses a mixture that makes no sense.

  Raises:
    strict.ConfigError: names the setting in the way, its value and a fix.
  """
  experts = cfg.experts

  def require(ok: bool, name: str, fix: str) -> None:
    strict.require(ok, f"model.experts.{name}", getattr(experts, name), fix)

  require(experts.router in router_lib.SCORES, "router",
          strict.one_of(router_lib.SCORES))
  require(experts.width > 0, "width",
          f"must be positive with model.experts.number = {experts.number}")
  require(experts.per_token <= experts.number, "per_token",
          f"must be at most model.experts.number = {experts.number}")
  require(experts.dense_layers < cfg.layers, "dense_layers",
          f"must be below model.layers = {cfg.layers}")
  require(experts.number % experts.groups == 0, "groups",
          f"must divide model.experts.number = {experts.number}")
  each = experts.number // experts.groups
  require(experts.groups == 1 or each > 1, "groups",
          "must have two experts or more in each group")
  require(experts.groups_per_token <= experts.groups, "groups_per_token",
          f"must be at most model.experts.groups = {experts.groups}")
  require(experts.per_token <= each * experts.groups_per_token, "per_token",
          f"must be at most {each * experts.groups_per_token}, the experts of "
          "model.experts.groups_per_token groups")
