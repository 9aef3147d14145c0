"""The first state of a loop: its arrays, their shapes and where they lie."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl.costs import memory
from dlrl.diffusion import pruning
from dlrl.models import lora
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress

# The first policy, as the model takes it -> the first state.
Maker = Callable[[Any], update.TrainState]
Parts = tuple[optax.GradientTransformation, Maker, update.TrainState]


def for_sft(setup: setup_lib.Setup) -> Parts:
  """Fine-tuning's optimizer, `policy -> first state`, and the state's shapes.

  Prints what the state takes of the devices' memory, unless RL's follows.

  Raises:
    strict.ConfigError: the devices have less.
  """
  tx = optimizer.for_sft(setup.cfg)
  # Before RL, whose state is no smaller and was printed.
  return tx, *maker(setup, tx, functools.partial(first_state, setup, tx),
                    says=setup.cfg.job == "sft")


def for_rl(setup: setup_lib.Setup) -> Parts:
  """The same as `for_sft`, with RL's reference policy and memory."""
  wanted, there = setup.cfg.learn.micro_batch, update.rows(setup.cfg)
  if there < wanted:
    progress.say(f"learn.micro_batch = {wanted}: an update has {there} "
                 "completions, which are taken at once")
  tx = optimizer.for_rl(setup.cfg)
  return tx, *maker(setup, tx, functools.partial(
    first_state_of_rl, setup, tx))


def abstract_sft(setup: setup_lib.Setup) -> update.TrainState:
  """Shapes of fine-tuning's state, with shardings; allocates nothing."""
  tx = optimizer.for_sft(setup.cfg)
  return _abstract(setup, tx, functools.partial(first_state, setup, tx))


def abstract_rl(setup: setup_lib.Setup) -> update.TrainState:
  """Shapes of RL's state, with shardings; allocates nothing."""
  tx = optimizer.for_rl(setup.cfg)
  return _abstract(setup, tx, functools.partial(
    first_state_of_rl, setup, tx))


def reference(cfg: config.Config, trained: Any) -> Any:
  """The state's `ref_params` if RL starts from `trained`."""
  if not update.objective(cfg.learn).needs_ref:
    return None
  # Fresh adapters add nothing: the reference does without, and is the base.
  fresh = cfg.lora.rank and (cfg.init_from or not cfg.sft.steps)
  return {} if fresh else trained


def first_state(
  setup: setup_lib.Setup, tx: optax.GradientTransformation, trained: Any
) -> update.TrainState:
  """The first state of fine-tuning, without a base; for `jax.jit`."""
  return update.TrainState(
    step=jnp.int32(0), params=trained, opt_state=tx.init(trained),
    key=jax.random.key_data(setup.root_key))


def first_state_of_rl(
  setup: setup_lib.Setup, tx: optax.GradientTransformation, trained: Any
) -> update.TrainState:
  """The first state of RL, without a base; for `jax.jit`."""
  rollout = setup.cfg.rollout
  return dataclasses.replace(
    first_state(setup, tx, trained), ref_params=reference(setup.cfg, trained),
    memory=pruning.empty(rollout.prior.slots, rollout.sampler.gen_length)
    if rollout.prior.memory else None)


def maker(
  setup: setup_lib.Setup, tx: optax.GradientTransformation,
  make_first: Callable[[Any], update.TrainState], *, says: bool = True,
) -> tuple[Maker, update.TrainState]:
  """`(policy -> first state, the state's shapes with shardings)`.

  Args:
    setup: the run's fixed parts.
    tx: the optimizer.
    make_first: from the trained parameters to the state without its base.
    says: whether the memory that it takes is printed.

  Raises:
    strict.ConfigError: the devices have less memory than the state takes.
  """
  abstract = _abstract(setup, tx, make_first)
  text = memory.estimate(memory.parts(abstract), setup.mesh.shape)
  if says:
    progress.say(text)
  program = jax.jit(make_first, out_shardings=setup_lib.shardings_of(
    dataclasses.replace(abstract, base=None)))

  def make(policy: Any) -> update.TrainState:
    base, trained = lora.split(policy)
    # The base stays outside of the program, which would copy it.
    return dataclasses.replace(program(trained), base=base)

  return make, abstract


def _abstract(
  setup: setup_lib.Setup, tx: optax.GradientTransformation,
  make_first: Callable[[Any], update.TrainState],
) -> update.TrainState:
  trained = setup.abstract_trained()
  shapes = jax.eval_shape(make_first, trained)
  whole = mesh_lib.replicated(setup.mesh)
  # A moment lies where its parameter lies.
  placed = setup_lib.shardings_of(trained)
  opt_shardings = optax.tree.map_params(
    tx, lambda _, sharding: sharding, shapes.opt_state, placed,
    transform_non_params=lambda _: whole)
  shardings = dataclasses.replace(
    jax.tree.map(lambda _: whole, shapes), params=placed,
    opt_state=opt_shardings, ref_params=shapes.ref_params and placed)
  return dataclasses.replace(
    setup_lib.with_shardings(shapes, shardings), base=setup.abstract_base())
