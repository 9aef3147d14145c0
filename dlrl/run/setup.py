"""A run's fixed parts: devices, task, tokenizer, model and shardings."""

import dataclasses
import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.data import Tokenizer
from dlrl.models import attention
from dlrl.models import char_tokenizer
from dlrl.models import families
from dlrl.models import hf_tokenizer
from dlrl.models import layers
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
  """A run's fixed parts; `make` builds them without allocating parameters.

  Attributes:
    cfg: the run's settings; those of the model are complete.
    mesh: spans all devices.
    task: gives examples and metrics.
    prompt: turns an example into a question.
    rewards: reward functions of rollouts, by the names in the log.
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

  def examples(self, split: str, difficulty: config.Range, *, field: str
               ) -> tasks.Examples:
    """The task's examples of a split; prints how many malformed ones it skips.

    Args:
      split: one of `tasks.SPLITS`.
      difficulty: lowest and highest, inclusive.
      field: the config field that sets `difficulty`, for messages.

    Raises:
      strict.ConfigError: the split has none, or its data cannot be read.
    """
    found = self.task.load(
      self.cfg.task.data_dir, split, difficulty, field=field)
    if isinstance(found, files.FileExamples) and found.skipped:
      progress.say(f"skipped {found.skipped} malformed examples of {split}; "
                   f"the first: {found.problem}")
    return found

  def start_graders(self) -> None:
    """Starts processes that graders need and prints their protection."""
    if self.task.start is not None:
      progress.say(self.task.start(self.cfg.task.sandbox_allow))

  @property
  def root_key(self) -> jax.Array:
    """The key that all randomness of the run is folded out of."""
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
    """Shapes of all parameters, with shardings."""
    shapes = jax.eval_shape(lambda: self.model.init(self.root_key))
    return with_shardings(shapes, self.param_shardings)

  def abstract_base(self) -> Any:
    """Shapes of frozen parameters, with shardings; None if all are trained."""
    lora_cfg = self.cfg.lora
    if not lora_cfg.rank:
      return None
    params = self.abstract_params()
    return quantized.shapes(
      params, lora_cfg.quantize, lora.paths(params, lora.MATRICES))

  def abstract_trained(self) -> Any:
    """Shapes of trained parameters, with shardings: adapters, or all."""
    params = self.abstract_params()
    lora_cfg = self.cfg.lora
    return lora.shapes(params, lora_cfg) if lora_cfg.rank else params

  def init_params(self) -> transformer.Params:
    """Loads or makes all the parameters that the run starts from."""
    return start_params.params(self.cfg, self.model, self.abstract_params())

  def load_base(self) -> start_params.Base:
    """Loads or makes the frozen parameters beneath adapters, if any."""
    return start_params.base(self.cfg, self.model, self.abstract_params())

  def init_policy(self, base: start_params.Base) -> Any:
    """The first policy: fresh adapters on `base`, or all parameters."""
    if base.params is None:
      return self.init_params()
    like = self.abstract_trained()
    init = jax.jit(
      functools.partial(lora.init, like=like), out_shardings=shardings_of(like))
    return lora.join(
      base.params, init(keys_lib.of(self.root_key, keys_lib.Seed.ADAPTERS)))


def make(
  cfg: config.Config, devices: Sequence[jax.Device] | None = None
) -> Setup:
  """The parts of the run that `cfg` describes.

  Args:
    cfg: the run's settings.
    devices: run on these, which need not be present to compile; None: on all.

  Raises:
    strict.ConfigError: the parts do not fit each other or the devices.
  """
  mesh = mesh_lib.make(cfg.mesh, devices)
  tokenizer: Tokenizer = char_tokenizer.find(cfg.model.vocab_size)
  if cfg.pretrained:
    family = families.named(cfg.family)
    published, _ = families.read_config(cfg.pretrained, family=family)
    tokenizer = hf_tokenizer.load(
      cfg.pretrained, family=family, error=families.PRETRAINED)
    # The checkpoint decides what is computed, the user with what memory and in
    # which precision.
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(
      published, remat=cfg.model.remat, param_dtype=cfg.model.param_dtype,
      compute_dtype=cfg.model.compute_dtype, attention=cfg.model.attention))
  strict.require(
    cfg.model.vocab_size >= tokenizer.vocab_size, "model.vocab_size",
    cfg.model.vocab_size,
    f"must be at least the tokenizer's {tokenizer.vocab_size}")
  parts = mesh_lib.shards(mesh.shape)
  for field, rows in (
    ("learn.micro_batch", update.micro_batch(cfg)),
    ("sft.batch_size", cfg.sft.batch_size),
    ("eval.batch_size", cfg.eval.batch_size),
  ):
    strict.require(
      rows % parts == 0, field, rows,
      f"must be a multiple of mesh.data * mesh.expert * mesh.fsdp = {parts}")
  strict.require(
    cfg.model.experts.number > 0 or mesh.shape["expert"] == 1, "mesh.expert",
    mesh.shape["expert"], "must be 1: the model has no experts")
  attention.check(cfg.model, mesh)
  model = transformer.build(cfg.model, tokenizer.mask_id, cfg.lora)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  shardings = mesh_lib.param_shardings(mesh, layers.SHARDING, shapes)
  task = tasks.find(cfg.task, cfg.rollout.rewards)
  return Setup(
    cfg, mesh, task, tasks.prompt(cfg.task),
    rewards_lib.find(task.rewards, cfg.rollout.rewards), tokenizer, model,
    shardings)


def _put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  # Not device_put, which compares the whole batch between processes.
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index]), tree)


def shardings_of(abstract: Any) -> Any:
  """The shardings in a tree of `ShapeDtypeStruct`s."""
  return jax.tree.map(lambda s: s.sharding, abstract)


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """`ShapeDtypeStruct`s like `shapes`, with these shardings."""
  return jax.tree.map(
    lambda s, sharding: jax.ShapeDtypeStruct(
      s.shape, s.dtype, sharding=sharding), shapes, shardings)
