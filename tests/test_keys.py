"""No two purposes draw from the same key, and no key has two uses."""

import collections
import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import random as jax_random
from updates import MASK
from updates import first_state
from updates import make_batch
from updates import recorder
from updates import take
from updates import tiny

from dlrl import config
from dlrl import data
from dlrl import keys as keys_lib
from dlrl import optimizer
from dlrl import rollout
from dlrl import sft
from dlrl import tasks
from dlrl.diffusion import method_processes
from dlrl.diffusion import pruning
from dlrl.diffusion import token_noise
from dlrl.models import char_tokenizer
from dlrl.models import lora
from dlrl.run import rounds
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import predict

pytestmark = pytest.mark.usefixtures("unoptimized")

B = 4096
DRAWN, SPLIT = [], []  # key data, when numbers are drawn, and children made


def _noted(log, function):
  def call(key, *args):
    jax.debug.callback(log.append, key)
    return function(key, *args)

  return call


_BASE = jax_random.threefry_prng_impl
NOTING = jax_random.define_prng_impl(
  key_shape=_BASE.key_shape, seed=_BASE.seed,
  split=_noted(SPLIT, _BASE.split), fold_in=_noted(SPLIT, _BASE.fold_in),
  random_bits=_noted(DRAWN, _BASE.random_bits), name="noting", tag="note")


@pytest.fixture(autouse=True)
def noting(monkeypatch):
  """Every key that is made notes its uses."""
  make, wrap = jax.random.key, jax.random.wrap_key_data
  monkeypatch.setattr(
    jax.random, "key", lambda seed, **_: make(seed, impl=NOTING))
  monkeypatch.setattr(
    jax.random, "wrap_key_data", lambda x, **_: wrap(x, impl=NOTING))


def used(function, *args):
  """(keys that numbers are drawn from, counted; keys that have children)."""
  DRAWN.clear()
  SPLIT.clear()
  jax.block_until_ready(function(*args))
  jax.effects_barrier()
  drawn, parents = (
    [tuple(np.asarray(key).ravel().tolist()) for key in log]
    for log in (DRAWN, SPLIT))
  return collections.Counter(drawn), set(parents)


def root(seed=0):
  return jax.random.key(seed)


def _params():
  model = tiny()[0]
  return model.init(keys_lib.of(root(), keys_lib.Seed.PARAMS))


def _adapters():
  like = {"a": {"x/a": jax.ShapeDtypeStruct((3, 4, 2), jnp.float32)}}
  return lora.init(keys_lib.of(root(), keys_lib.Seed.ADAPTERS), like)


def _fine_tuning(step):
  model, params = tiny()
  cfg = config.SftConfig(gen_length=5, batch_size=3)
  tx = optimizer.make(cfg.optimizer, 10)
  state = dataclasses.replace(first_state(params, tx), step=jnp.int32(step))
  batch = take(make_batch(), range(3))
  return jax.jit(sft.make_step(model, cfg, tx, 1))(state, {
    "prompt_ids": batch.prompt, "prompt_length": batch.prompt_length,
    "completion": batch.completion})


def _rollout(step, number=0):
  """Two prompts, three completions each, canvases of both priors."""
  model, params = tiny()
  cfg = config.Config(
    learn=config.LearnConfig(),
    rollout=config.RolloutConfig(
      prompts=2, group_size=3,
      sampler=config.SamplerConfig(
        gen_length=4, block_length=2, steps=4, temperature=1.0,
        remasking="random", fill_after=0.8),
      prior=config.PriorConfig(template=0.5, memory=0.5, remask="random")))
  mesh = mesh_lib.make(config.MeshConfig(1, 1, 1), jax.devices()[:1])
  program = rollout.make(types.SimpleNamespace(
    cfg=cfg, model=model, mesh=mesh,
    tokenizer=char_tokenizer.CharTokenizer()))
  state = dataclasses.replace(
    first_state(params, recorder()), step=jnp.int32(step),
    memory=pruning.Memory(jnp.arange(2), jnp.full((2, 4), 5)))
  if number:
    state = dataclasses.replace(state, key=rounds.key(types.SimpleNamespace(
      root_key=root(), put_whole=jnp.asarray), number))
  with jax.set_mesh(mesh):
    return program(state, jnp.full((2, 3), 4), jnp.full(2, 3), jnp.arange(2),
                   jnp.full((2, 4), 6).at[:, 0].set(MASK))


def _update(step):
  """The draws of two epochs of a step's rows, and the hidden prompts."""
  key = jax.random.fold_in(keys_lib.of(root(), keys_lib.Seed.RL), step)
  rows = jax.random.split(keys_lib.of(key, keys_lib.Step.DRAWS), 6)
  live = jnp.ones((6, 5), bool)
  found = []
  for epoch in range(2):
    own = jax.vmap(lambda k, e=epoch: jax.random.fold_in(k, e))(rows)
    for j in range(3):
      found += [method_processes.PROCESSES["balanced"](own, live, j, 3),
                method_processes.prompt_noise(own, live, j, 3, 0.5),
                token_noise.replaced(own, jnp.full((6, 5), 3), live, j,
                                     rate=0.5, mask_id=2, vocab_size=8)]
  return found


def _of_seed(purpose):
  """Noise of three completions, two denoising steps each."""
  keys = jax.random.split(keys_lib.of(root(), purpose), 3)
  return [predict.perturb(jnp.zeros((3, 2, 4)), keys, jnp.full(3, i),
                          temperature=1.0) for i in range(2)]


USES = {
  "params": _params, "adapters": _adapters,
  **{f"fine-tuning {i}": functools.partial(_fine_tuning, i) for i in range(2)},
  **{f"rollout {i}": functools.partial(_rollout, i) for i in range(2)},
  **{f"rollout 1, round {i}": functools.partial(_rollout, 1, i)
     for i in (1, 2)},
  **{f"update {i}": functools.partial(_update, i) for i in range(2)},
  **{p.name: functools.partial(_of_seed, p) for p in (
    keys_lib.Seed.EVALUATION, keys_lib.Seed.GENERATION,
    keys_lib.Seed.VALIDATION, keys_lib.Seed.TEST)}}


@pytest.mark.slow
def test_no_key_of_a_run_has_two_uses():
  found = {name: used(function) for name, function in USES.items()}
  for (a, (one, _)), (b, (two, _)) in itertools.combinations(found.items(), 2):
    assert not one.keys() & two.keys(), (a, b)
  drawn = set().union(*(one.keys() for one, _ in found.values()))
  parents = set().union(*(split for _, split in found.values()))
  assert len(drawn) > 200
  assert not drawn & parents
  # Within a rollout too: a canvas is drawn once for each completion of its
  # group, everything else once.
  for i in range(2):
    counts = found[f"rollout {i}"][0]
    assert set(counts.values()) <= {1, 3}
    assert sum(n == 3 for n in counts.values()) == 2 * 2  # prompts x priors


def test_numbers_of_purposes_meet_no_index():
  for purposes in (keys_lib.Seed, keys_lib.Sample, keys_lib.Draws):
    assert all(p == 0 or p > 2**31 for p in purposes)
  for purposes in (keys_lib.Seed, keys_lib.Step, keys_lib.Prior):
    assert len({int(p) for p in purposes}) == len(purposes.__members__)
  # `split` and `fold_in` do meet, which is why a key has only one of them.
  np.testing.assert_array_equal(
    *(np.asarray(jax.random.key_data(k)) for k in (
      jax.random.split(root(), 3)[1], jax.random.fold_in(root(), 1))))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("name", sorted(method_processes.PROCESSES))
def test_hidden_prompts_have_keys_of_their_own(name, n):
  knobs = {"block_length": 2} if name == "block" else {}
  keys, live = jax.random.split(root(1), 1), jnp.ones((1, 4), bool)
  masks, prompts, parents = [], [], set()
  for j in range(n):
    for log, function in (
        (masks, functools.partial(method_processes.PROCESSES[name], **knobs)),
        (prompts, functools.partial(method_processes.prompt_noise, rate=0.5))):
      drawn, split = used(function, keys, live, j, n)
      log.append(drawn.keys())
      parents |= split
  hidden = set().union(*prompts)
  assert len(hidden) == n  # a draw hides its own tokens
  assert not hidden & set().union(*masks)
  assert not (hidden | set().union(*masks)) & parents


@pytest.mark.parametrize("name", sorted(method_processes.PROCESSES))
def test_masks_and_hidden_prompts_are_uncorrelated(name, monkeypatch):
  monkeypatch.undo()
  knobs = {"block_length": 2} if name == "block" else {}
  keys, live = jax.random.split(root(2), B), jnp.ones((B, 4), bool)
  n = 3
  made = [np.asarray(x) for j in range(n) for x in (
    method_processes.PROCESSES[name](keys, live, j, n, **knobs).mask,
    method_processes.prompt_noise(keys, live, j, n, 0.5))]
  masks, hidden = np.stack(made[::2], -1), np.stack(made[1::2], -1)
  for mask in masks.reshape(B, -1).T:
    if mask.std() == 0:
      continue  # masked in every row
    for prompt in hidden.reshape(B, -1).T:
      assert abs(np.corrcoef(mask, prompt)[0, 1]) < 5 / np.sqrt(B)


def test_gumbel_noise_and_random_order_are_of_two_keys():
  keys = jax.random.split(root(3), 1)
  sampler = config.SamplerConfig(temperature=1.0, remasking="random")
  found = [used(predict.predict, jnp.zeros((1, 2, 4)), keys,
                jnp.array([i]), sampler, None) for i in range(3)]
  counts = sum((drawn for drawn, _ in found), collections.Counter())
  assert len(counts) == 6
  assert set(counts.values()) == {1}
  assert not counts.keys() & set().union(*(split for _, split in found))


def test_fine_tuning_and_rl_see_the_same_examples_in_other_orders():
  class Letters:
    def __len__(self):
      return 50

    def __getitem__(self, i):
      return {"i": i}

  prompt = tasks.Prompt(lambda row: "1", lambda row: "2")
  tokenizer = char_tokenizer.CharTokenizer()
  orders = [np.concatenate([next(batches)["position"] for _ in range(5)])
            for batches in (
    data.rl_batches(Letters(), tokenizer, prompt, batch_size=10,
                    prompt_length=2, seed=0),
    data.sft_batches(Letters(), tokenizer, prompt, batch_size=10,
                     prompt_length=2, gen_length=2, seed=0))]
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
  assert (orders[0] == orders[1]).mean() < 0.3
