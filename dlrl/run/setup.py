"""What both loops need: devices, task, tokenizer, model, sharded state."""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.costs import memory
from dlrl.data import Tokenizer
from dlrl.diffusion import pruning
from dlrl.models import attention
from dlrl.models import char_tokenizer
from dlrl.models import families
from dlrl.models import hf_tokenizer
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.run import start_params
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.tasks.user_files import files
from dlrl.tasks.user_files import rewards as rewards_lib


@dataclasses.dataclass(frozen=True)
class Setup:
  """A run's fixed parts; `make` allocates none of the model.

  Attributes:
    cfg: of the run.
    mesh: of all devices.
    task: with its rows and metrics.
    prompt: how rows are asked.
    rewards: of rollouts, by the names they are logged under.
    tokenizer: text to ids and back.
    model: pure functions of the parameters.
    param_shardings: a tree like the parameters.
  """

  cfg: config.Config
  mesh: jax.sharding.Mesh
  task: tasks.Task
  prompt: tasks.Prompt
  rewards: Mapping[str, tasks.Reward]
  tokenizer: Tokenizer
  model: transformer.Model
  param_shardings: Any

  def rows(self, split: str, difficulty: config.Range, *, field: str
           ) -> tasks.Examples:
    """The task's rows; says how many malformed ones are left out.

    Args:
      split: of `tasks.SPLITS`.
      difficulty: the least and the greatest.
      field: the config field that `difficulty` came from, for messages.

    Raises:
      strict.ConfigError: there are none, or they cannot be read.
    """
    rows = self.task.load(
      self.cfg.task.data_dir, split, difficulty, field=field)
    if isinstance(rows, files.FileExamples) and rows.skipped:
      progress.say(f"{rows.skipped} malformed rows of {split} are left out; "
                   f"the first: {rows.problem}")
    return rows

  def start_graders(self) -> None:
    """Starts what graders need, and says what it is; once, before scoring."""
    if self.task.start is not None:
      progress.say(self.task.start(self.cfg.task.sandbox_allow))

  @property
  def root_key(self) -> jax.Array:
    """All randomness of the run is folded out of this key."""
    return jax.random.key(self.cfg.seed)

  def put_batch(self, tree: Any) -> Any:
    """Host arrays [b, ...] as device arrays split over the batch axes.

    Every process passes the whole batch and keeps its part.
    """
    return _put(tree, mesh_lib.batch_sharding(self.mesh))

  def put_whole(self, tree: Any) -> Any:
    """Host arrays as device arrays, copied to every device."""
    return _put(tree, mesh_lib.replicated(self.mesh))

  def abstract_params(self) -> Any:
    """Shapes of the parameters, with their shardings."""
    shapes = jax.eval_shape(lambda: self.model.init(self.root_key))
    return with_shardings(shapes, self.param_shardings)

  def abstract_base(self) -> Any:
    """Shapes of what is frozen, with shardings; None: all are trained."""
    how = self.cfg.lora
    if not how.rank:
      return None
    return quantized.shapes(self.abstract_params(), how.quantize, lora.MATRICES)

  def abstract_trained(self) -> Any:
    """Shapes of what is trained, with shardings: adapters, or all."""
    params = self.abstract_params()
    how = self.cfg.lora
    return lora.shapes(params, how) if how.rank else params

  def init_params(self) -> transformer.Params:
    """What the run starts from, made where it will live; see `initial`."""
    return start_params.params(self.cfg, self.model, self.abstract_params())

  def load_base(self) -> start_params.Base:
    """The frozen parameters beneath adapters; see `initial`."""
    return start_params.base(self.cfg, self.model, self.abstract_params())

  def init_policy(self, base: start_params.Base) -> Any:
    """What the model takes at first: fresh adapters on their base, or all."""
    if base.params is None:
      return self.init_params()
    like = self.abstract_trained()
    init = jax.jit(
      functools.partial(lora.init, like=like), out_shardings=shardings_of(like))
    # A number that no step and no other use of the root key has.
    return lora.join(
      base.params, init(jax.random.fold_in(self.root_key, 2**32 - 1)))

  def _first_state(
    self, trained: Any, tx: optax.GradientTransformation,
    reference: Callable[[Any], Any], memory_slots: int,
  ) -> update.TrainState:
    length = self.cfg.rollout.sampler.gen_length
    return update.TrainState(
      step=jnp.int32(0), params=trained, opt_state=tx.init(trained),
      key=jax.random.key_data(self.root_key), ref_params=reference(trained),
      memory=pruning.empty(memory_slots, length) if memory_slots else None)

  def abstract_state(
    self, tx: optax.GradientTransformation, *,
    reference: Callable[[Any], Any] = lambda trained: None,
    memory_slots: int = 0,
  ) -> update.TrainState:
    """Shapes of the state, with shardings; arguments as of `state_maker`."""
    trained = self.abstract_trained()
    shapes = jax.eval_shape(
      lambda t: self._first_state(t, tx, reference, memory_slots), trained)
    whole = mesh_lib.replicated(self.mesh)
    # Moments lie where their parameter lies.
    placed = shardings_of(trained)
    opt_shardings = optax.tree.map_params(
      tx, lambda _, sharding: sharding, shapes.opt_state, placed,
      transform_non_params=lambda _: whole)
    shardings = dataclasses.replace(
      jax.tree.map(lambda _: whole, shapes), params=placed,
      opt_state=opt_shardings, ref_params=shapes.ref_params and placed)
    return dataclasses.replace(
      with_shardings(shapes, shardings), base=self.abstract_base())

  def state_maker(
    self, tx: optax.GradientTransformation, *,
    reference: Callable[[Any], Any] = lambda trained: None,
    memory_slots: int = 0,
  ) -> tuple[Callable[[Any], update.TrainState], update.TrainState]:
    """`(policy -> first state, the state's shapes with shardings)`.

    Says what the state will take of the devices' memory.

    Args:
      tx: the optimizer.
      reference: from what is trained at first to the state's `ref_params`.
      memory_slots: prompts of which the state remembers a completion.

    Raises:
      strict.ConfigError: the devices have less.
    """
    abstract = self.abstract_state(
      tx, reference=reference, memory_slots=memory_slots)
    progress.say(
      memory.estimate(memory.parts(abstract), self.mesh.shape["fsdp"]))
    make_first = jax.jit(
      lambda trained: self._first_state(trained, tx, reference, memory_slots),
      out_shardings=shardings_of(dataclasses.replace(abstract, base=None)))

    def make_state(policy):
      base, trained = lora.split(policy)
      # Outside of the program, which would copy it.
      return dataclasses.replace(make_first(trained), base=base)

    return make_state, abstract


def make(
  cfg: config.Config, devices: Sequence[jax.Device] | None = None
) -> Setup:
  """The parts of the run described by `cfg`.

  Args:
    cfg: of the run.
    devices: to run on, which for compiling need not be there; None: all.

  Raises:
    strict.ConfigError: they do not fit each other or the devices.
  """
  mesh = mesh_lib.make(cfg.mesh, devices)
  tokenizer: Tokenizer = char_tokenizer.CharTokenizer()
  if cfg.pretrained:
    tokenizer = hf_tokenizer.load(cfg.pretrained)
    published, _ = families.read_config(cfg.pretrained)
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(
      published, remat=cfg.model.remat, param_dtype=cfg.model.param_dtype,
      compute_dtype=cfg.model.compute_dtype, attention=cfg.model.attention))
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
  attention.check(cfg.model, mesh)
  model = transformer.build(cfg.model, tokenizer.mask_id, cfg.lora)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  shardings = mesh_lib.param_shardings(mesh, transformer.SHARDING, shapes)
  task = tasks.find(cfg.task, cfg.rollout.rewards)
  return Setup(
    cfg, mesh, task, tasks.prompt(cfg.task),
    rewards_lib.find(task.rewards, cfg.rollout.rewards), tokenizer, model,
    shardings)


def _put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  # Unlike device_put, which would compare what the processes pass.
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index]), tree)


def shardings_of(abstract: Any) -> Any:
  """The shardings in a tree of `ShapeDtypeStruct`s."""
  return jax.tree.map(lambda s: s.sharding, abstract)


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """`ShapeDtypeStruct`s of arrays that lie as said."""
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes, shardings)
