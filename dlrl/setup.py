"""What both loops need: devices, task, tokenizer, model, sharded state."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlrl import config
from dlrl import tasks
from dlrl import update
from dlrl.data import Tokenizer
from dlrl.diffusion import pruning
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import hf_tokenizer
from dlrl.models import tokenizer as tokenizer_lib
from dlrl.models import transformer
from dlrl.runtime import memory
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.runtime import strict


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run's fixed parts; `make` allocates none of the model.

  Attributes:
    cfg: of the run.
    mesh: of all devices.
    task: with its rows, rewards and metrics.
    tokenizer: text to ids and back.
    model: pure functions of the parameters.
    param_shardings: a tree like the parameters.
  """

  cfg: config.Config
  mesh: jax.sharding.Mesh
  task: tasks.Task
  tokenizer: Tokenizer
  model: transformer.Model
  param_shardings: Any

  @property
  def root_key(self) -> jax.Array:
    """All randomness of the run is folded out of this key."""
    return jax.random.key(self.cfg.seed)

  def put_batch(self, tree: Any) -> Any:
    """Host arrays [b, ...] as device arrays split over the batch axes.

    Every process passes the whole batch and keeps its part.
    """
    return jax.device_put(tree, mesh_lib.batch_sharding(self.mesh))

  def put_whole(self, tree: Any) -> Any:
    """Host arrays as device arrays, copied to every device."""
    return jax.device_put(tree, mesh_lib.replicated(self.mesh))

  def abstract_params(self) -> Any:
    """Shapes of the parameters, with their shardings."""
    shapes = jax.eval_shape(self.model.init, self.root_key)
    return _with_shardings(shapes, self.param_shardings)

  def init_params(self) -> transformer.Params:
    """The pretrained parameters, or random ones, made where they will live.

    Raises:
      ValueError: files of `pretrained` do not fit its config.json.
    """
    if self.cfg.pretrained:
      return hf_checkpoints.load_params(
        self.cfg.pretrained, self.abstract_params())
    init = jax.jit(self.model.init, out_shardings=self.param_shardings)
    return init(jax.random.fold_in(self.root_key, 0))

  def state_maker(
    self, tx: optax.GradientTransformation, *, keep_ref: bool = False,
    memory_slots: int = 0,
  ) -> tuple[Callable[[Any], update.State], update.State]:
    """`(params -> first state, the state's shapes with shardings)`.

    Says what the state will take of the devices' memory.

    Args:
      tx: the optimizer.
      keep_ref: the first parameters stay in the state, as the reference's.
      memory_slots: prompts of which the state remembers a completion.

    Raises:
      strict.ConfigError: the devices have less.
    """
    length = self.cfg.rollout.sampler.gen_length

    def first(params):
      return update.State(
        step=jnp.int32(0), params=params, opt_state=tx.init(params),
        key=jax.random.key_data(self.root_key),
        ref_params=params if keep_ref else None,
        memory=pruning.empty(memory_slots, length) if memory_slots else None)

    shapes = jax.eval_shape(first, self.abstract_params())
    whole = mesh_lib.replicated(self.mesh)
    # Moments lie where their parameter lies.
    opt_shardings = optax.tree.map_params(
      tx, lambda _, sharding: sharding, shapes.opt_state,
      self.param_shardings, transform_non_params=lambda _: whole)
    shardings = dataclasses.replace(
      jax.tree.map(lambda _: whole, shapes), params=self.param_shardings,
      opt_state=opt_shardings,
      ref_params=shapes.ref_params and self.param_shardings)
    abstract = _with_shardings(shapes, shardings)
    progress.say(memory.estimate({
      "parameters": abstract.params, "optimizer": abstract.opt_state,
      "reference": abstract.ref_params,
      "gradients": jax.tree.map(  # summed over the draws in fp32
        lambda s: jax.ShapeDtypeStruct(
          s.shape, "float32", sharding=s.sharding), abstract.params),
    }, self.mesh.shape["fsdp"]))
    return jax.jit(first, out_shardings=shardings), abstract


def make(cfg: config.Config) -> Setup:
  """The parts of the run described by `cfg`.

  Raises:
    strict.ConfigError: they do not fit each other or the devices.
  """
  mesh = mesh_lib.make(cfg.mesh)
  tokenizer: Tokenizer = tokenizer_lib.CharTokenizer()
  if cfg.pretrained:
    tokenizer = hf_tokenizer.load(cfg.pretrained)
    published, _ = families.read_config(cfg.pretrained)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(
      published, remat=cfg.model.remat, param_dtype=cfg.model.param_dtype,
      compute_dtype=cfg.model.compute_dtype))
  strict.require(
    cfg.model.vocab_size >= tokenizer.vocab_size, "model.vocab_size",
    cfg.model.vocab_size, f"the tokenizer has {tokenizer.vocab_size} ids")
  parts = mesh.shape["data"] * mesh.shape["fsdp"]
  for field, rows in (
    ("learn.micro_batch", cfg.learn.micro_batch),
    ("sft.batch_size", cfg.sft.batch_size),
    ("eval.batch_size", cfg.eval.batch_size),
  ):
    strict.require(
      rows % parts == 0, field, rows,
      f"must be a multiple of mesh.data * mesh.fsdp = {parts}")
  model = transformer.build(cfg.model, tokenizer.mask_id)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  shardings = mesh_lib.param_shardings(mesh, transformer.SHARDING, shapes)
  task = tasks.TASKS[cfg.task.name]
  return Setup(cfg, mesh, task, tokenizer, model, shardings)


def shardings_of(abstract: Any) -> Any:
  """The shardings in a tree of `ShapeDtypeStruct`s."""
  return jax.tree.map(lambda s: s.sharding, abstract)


def _with_shardings(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes, shardings)
