"""From a `ConfigDict` to a typed config that is known to work."""

import dataclasses
import importlib.util
import operator
import re
from collections.abc import Collection
from collections.abc import Iterator

import ml_collections

from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import scoring
from dlrl import strict
from dlrl import tasks
from dlrl import update
from dlrl.buckets import objects
from dlrl.config import listing
from dlrl.diffusion import blocks
from dlrl.diffusion import forward_process
from dlrl.diffusion import method_processes
from dlrl.diffusion import pruning
from dlrl.diffusion import token_noise
from dlrl.models import attention
from dlrl.models import families
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.own_code import imported
from dlrl.own_code import trial
from dlrl.runtime import profile_window
from dlrl.sampling import check
from dlrl.tasks.published_scorers import scorers
from dlrl.tasks.user_files import templates

DTYPES = ("float32", "bfloat16")
SAMPLERS = ("rollout.sampler", "eval.sampler")
OPTIMIZERS = ("sft.optimizer", "learn.optimizer")

# Settings that name an entry of a table elsewhere; the choices of others are
# beside them in dlrl/config. Those of `task.prompt` depend on the task.
CHOICES: dict[str, Collection[str]] = {
  "evaluation.scorer": scorers.SCORERS,
  "model.remat": layers.REMAT,
  "model.attention": attention.BACKENDS,
  "model.compute_dtype": DTYPES,
  "model.param_dtype": DTYPES,
  "lora.dtype": DTYPES,
  "lora.quantize": ("none", *quantized.METHODS),
  "learn.loss": losses.OBJECTIVES,
  "learn.advantage": losses.ADVANTAGES,
  "learn.forward_process": scoring.PROCESSES,
  "sft.forward_process": [
    name for name in forward_process.PROCESSES | blocks.PROCESSES
    if name != "block_exact"],  # a step of fine-tuning makes a single draw
  "rollout.prior.remask": pruning.REMASK,
  **{f"{part}.{name}": table for part in OPTIMIZERS for name, table in (
    ("name", optimizer.OPTIMIZERS), ("schedule", optimizer.SCHEDULES),
    ("moment_dtype", DTYPES))},
  **{f"{part}.{name}": table for part in SAMPLERS
     for name, table in check.CHOICES.items()},
}

# These may also name users' code.
OWN = ("learn.loss", "learn.forward_process", "sft.forward_process")


def settings() -> Iterator[listing.Setting]:
  """Every setting, in the order of dlrl/config, with all choices."""
  return listing.settings(CHOICES)


def from_dict(values: ml_collections.ConfigDict) -> config.Config:
  """The typed, validated config; nothing has been allocated or written yet.

  Raises:
    strict.ConfigError: unknown, missing or mistyped settings, or values that
      are not allowed or do not fit each other: all of them, one a line.
  """
  problems = strict.Problems()
  cfg = _each(values, problems)
  _together(cfg, problems)
  problems.finish()
  return cfg


def check_each(values: ml_collections.ConfigDict, problems: strict.Problems
               ) -> None:
  """Adds what is wrong with single settings, whatever the others are."""
  _each(values, problems)


def _each(values: ml_collections.ConfigDict, problems: strict.Problems
          ) -> config.Config:
  """The config, with defaults in place of the settings that have a problem."""
  cfg = strict.build(config.Config, values.to_dict(), problems=problems)
  strict.check_bounds(cfg, problems)
  for field, table in CHOICES.items():
    value = operator.attrgetter(field)(cfg)
    own = field in OWN
    problems.require(
      value in table or (own and imported.named(value)), field, value,
      imported.choices(table) if own else strict.one_of(table))
    if own and imported.named(value):
      with problems.catch():
        imported.function(value, field)
  for field in ("init_from", "pretrained"):
    value = getattr(cfg, field)
    wrong = objects.problem(value)
    problems.require(not wrong, field, value, wrong)
  problems.require(
    not cfg.wandb or importlib.util.find_spec("wandb") is not None, "wandb",
    cfg.wandb, "needs wandb: pip install wandb")
  with problems.catch():
    families.named(cfg.family)
  with problems.catch():
    cfg = _with_prompt(cfg)
  with problems.catch():
    _lora_targets(cfg.lora)
  if cfg.lora.quantize != "none":
    problems.require(
      importlib.util.find_spec("qwix") is not None, "lora.quantize",
      cfg.lora.quantize, "needs qwix: pip install qwix")
  problems.require(cfg.model.head_dim % 2 == 0, "model.head_dim",
                   cfg.model.head_dim, "must be even, for rotary positions")
  problems.require(
    cfg.rollout.sampler.temperature > 0, "rollout.sampler.temperature",
    cfg.rollout.sampler.temperature,
    "must be positive, or all completions of a group are the same")
  problems.require(bool(cfg.rollout.rewards), "rollout.rewards",
                   cfg.rollout.rewards, "name at least one")
  return cfg


def _with_prompt(cfg: config.Config) -> config.Config:
  """With the prompt's text, so that every copy of the config has it."""
  task = cfg.task
  if not task.prompt_file:
    strict.require(not task.prompt_text, "task.prompt_text", task.prompt_text,
                   "must be empty; name its file as task.prompt_file")
    return cfg
  text = task.prompt_text or templates.read(task.prompt_file)
  return dataclasses.replace(
    cfg, task=dataclasses.replace(task, prompt_text=text))


def _lora_targets(cfg: config.LoraConfig) -> None:
  try:
    found = lora.names(cfg)
  except re.error as e:
    raise strict.ConfigError(
      "lora.targets", cfg.targets, f"is not a regular expression: {e}") from e
  strict.require(
    len(found) > 0, "lora.targets", cfg.targets,
    f"must match one of {', '.join(lora.MATRICES)} as a whole")


def _together(cfg: config.Config, problems: strict.Problems) -> None:
  """Adds settings that do not fit each other.

  The order is that in which they are best mended: a check is left out if one of
  its settings has a problem already.
  """
  model = cfg.model
  if problems.sound("model.heads", "model.kv_heads"):
    problems.require(
      model.heads % model.kv_heads == 0, "model.kv_heads", model.kv_heads,
      f"must divide model.heads = {model.heads}")
  if problems.sound("lora.quantize", "lora.rank"):
    problems.require(
      cfg.lora.quantize == "none" or cfg.lora.rank > 0, "lora.quantize",
      cfg.lora.quantize, "must be 'none' without lora.rank: a quantized matrix "
      "cannot be trained")
  _profile(cfg, problems)
  loaded = architecture(cfg)
  size = loaded.block_length
  scoring.check_replay(cfg.learn, loaded.experts, problems)
  for name in SAMPLERS:
    check.fit(operator.attrgetter(name)(cfg), name, problems,
              block_length=size)
  if problems.sound("task", "rollout.rewards"):
    with problems.catch():
      _task(cfg, tasks.find(cfg.task, cfg.rollout.rewards), problems)
  _batches(cfg, problems)
  if problems.sound("learn.loss") and problems.sound("learn.loss_args"):
    with problems.catch():
      _loss(cfg, problems)
  if problems.sound("learn.forward_process"):
    _process(cfg, problems)
  _own_processes(cfg, size, problems)
  _blocks(cfg, size, problems)


def architecture(cfg: config.Config) -> config.ModelConfig:
  """The run's model, as far as it is known before files are downloaded."""
  if cfg.pretrained:
    try:
      return families.read_config(
        cfg.pretrained, family=families.named(cfg.family))[0]
    except strict.ConfigError:
      pass  # `setup.make` reads it again and reports what is wrong
  return cfg.model


def _blocks(cfg: config.Config, size: int, problems: strict.Problems) -> None:
  """Adds settings that only fit models with blocks, or do not fit them."""
  for field in ("learn.forward_process", "sft.forward_process"):
    name = operator.attrgetter(field)(cfg)
    if problems.sound(field) and scoring.of_blocks(
        name, imported.find(scoring.PROCESSES, name, field)):
      problems.require(
        size > 0, field, name, "is for models with blocks: set "
        "model.block_length, or choose a process without 'block_'")
  for field in ("learn.token_noise", "sft.token_noise"):
    token_noise.check(field, operator.attrgetter(field)(cfg), size, problems)
  scoring.check_noise(cfg.learn, problems)
  if size <= 0:  # a negative one is refused elsewhere
    return
  learn, prior = cfg.learn, cfg.rollout.prior
  for field, value, needed in (
      ("learn.prompt_noise", learn.prompt_noise, 0),
      ("learn.draws_at_once", learn.draws_at_once, 1),
      ("rollout.prior.template", prior.template, 0),
      ("rollout.prior.memory", prior.memory, 0)):
    problems.require(
      value == needed, field, value,
      f"must be {needed} for a model with blocks")
  if not problems.sound("learn.forward_process", "learn.n_mc",
                        "learn.process_args"):
    return
  name = learn.forward_process
  problems.require(
    name not in method_processes.OF_TRACE, "learn.forward_process", name,
    "follows the steps of whole rows; for a model with blocks choose "
    "'block_trace'")
  problems.require(
    name != "block_exact" or size <= blocks.MAX_EXACT, "learn.forward_process",
    name, f"has {blocks.patterns(size)} draws for blocks of {size} tokens; "
    f"above {blocks.MAX_EXACT} tokens choose 'block_balanced'")
  draws = {"block_exact": blocks.patterns(size), "block_trace": -(
    -size // max(learn.process_args.get("shrink", 1), 1))}.get(name)
  problems.require(
    draws in (None, learn.n_mc), "learn.n_mc", learn.n_mc,
    f"must be {draws} with {name!r} and blocks of {size} tokens")


def _profile(cfg: config.Config, problems: strict.Problems) -> None:
  try:
    span = profile_window.span(cfg.profile.steps)
    known = span is None or (cfg.job == "rl" and span[1] <= cfg.steps)
  except ValueError:
    known = False
  if problems.sound("steps", "job"):
    problems.require(
      known, "profile.steps", cfg.profile.steps, "must be the first and the "
      f"last RL step, in 1..{cfg.steps}, such as '10-12'")


def _task(cfg: config.Config, task: tasks.Task, problems: strict.Problems
          ) -> None:
  problems.require(cfg.task.prompt in task.prompts, "task.prompt",
                   cfg.task.prompt, strict.one_of(task.prompts))
  least, most = task.difficulties
  for field in ("sft.difficulty", "rollout.difficulty", "eval.difficulty"):
    low, high = operator.attrgetter(field)(cfg)
    problems.require(
      low <= high and low <= most and least <= high, field, (low, high),
      f"must be (low, high) with low <= high, overlapping {least}..{most}, the "
      f"difficulties of {cfg.task.name!r}")
  template = cfg.rollout.prior.template
  problems.require(
    not template or task.template is not None, "rollout.prior.template",
    template, f"must be 0: {cfg.task.name!r} has no template")
  problems.require(
    not template or (cfg.task.prompt == "bare" and not cfg.task.prompt_file),
    "rollout.prior.template", template,
    "must be 0: templates describe answers to task.prompt = 'bare'")


def _batches(cfg: config.Config, problems: strict.Problems) -> None:
  r, u = cfg.rollout, cfg.learn
  if problems.sound("rollout.rewards", "rollout.reward_weights"):
    problems.require(
      len(r.reward_weights) == len(r.rewards), "rollout.reward_weights",
      r.reward_weights, f"must be {len(r.rewards)}, one for each of "
      f"rollout.rewards = {r.rewards}")
  if problems.sound("learn.updates_per_rollout", "rollout.prompts"):
    problems.require(
      r.prompts % u.updates_per_rollout == 0, "learn.updates_per_rollout",
      u.updates_per_rollout, f"must divide rollout.prompts = {r.prompts}")
  if problems.sound("learn.updates_per_rollout", "rollout.prompts",
                    "rollout.group_size", "learn.micro_batch"):
    rows = update.rows(cfg)
    problems.require(
      rows % update.micro_batch(cfg) == 0, "learn.micro_batch", u.micro_batch,
      f"must divide the {rows} completions of an update (rollout.prompts * "
      "rollout.group_size / learn.updates_per_rollout)")


def _loss(cfg: config.Config, problems: strict.Problems) -> None:
  learn = cfg.learn
  loss = imported.find(losses.OBJECTIVES, learn.loss, "learn.loss")
  strict.arguments(loss, learn.loss_args, "learn.loss_args", problems)
  if not problems.sound("learn.loss_args"):
    return
  objective = trial.objective(
    loss, learn.loss_args, learn.loss, "learn.loss",
    cfg.rollout.sampler.gen_length) if imported.named(learn.loss) else (
      loss(**learn.loss_args))
  problems.require(
    objective.takes_norm or learn.score_norm == "none"
    or (learn.score_norm == "step" and objective.takes_shares),
    "learn.score_norm", learn.score_norm,
    f"must be 'none': {learn.loss} normalizes its own way")
  if problems.sound("learn.forward_process"):
    problems.require(
      learn.score_norm != "step"
      or learn.forward_process in ("trace", "block_trace"),
      "learn.score_norm", learn.score_norm, "is for 'trace' and 'block_trace', "
      "which have steps; choose 'token' or 'none'")
  together = objective.together
  problems.require(
    together in (1, cfg.rollout.group_size), "rollout.group_size",
    cfg.rollout.group_size, f"must be {together}, the number of completions "
    f"that {learn.loss} compares; or set learn.loss_args.group_size")
  if problems.sound("rollout.group_size", "rollout.prompts",
                    "learn.updates_per_rollout", "learn.micro_batch"):
    problems.require(
      update.micro_batch(cfg) % together == 0, "learn.micro_batch",
      learn.micro_batch, f"must be a multiple of the {together} completions "
      f"that {learn.loss} compares")


def _own_processes(
  cfg: config.Config, size: int, problems: strict.Problems
) -> None:
  """Adds users' forward processes that fail."""
  for field, arguments, columns, n in (
      ("learn.forward_process", cfg.learn.process_args,
       cfg.rollout.sampler.gen_length, cfg.learn.n_mc),
      ("sft.forward_process", {}, cfg.sft.gen_length, 1)):
    name = operator.attrgetter(field)(cfg)
    if problems.sound(field, "learn.process_args") and imported.named(name):
      with problems.catch():
        trial.process(
          imported.load(name, field), arguments, name, field,
          columns=columns, n=n, block_length=size)


def _process(cfg: config.Config, problems: strict.Problems) -> None:
  """How draws mask completions: the arguments, the draws, the sampler."""
  learn, sampler = cfg.learn, cfg.rollout.sampler
  name = learn.forward_process
  strict.arguments(
    imported.find(scoring.PROCESSES, name, "learn.forward_process"),
    learn.process_args, "learn.process_args", problems)
  divisor = {"complementary": 2, "block_complementary": 2, "coupled": 3}.get(
    name, 1)
  problems.require(
    learn.n_mc % divisor == 0, "learn.n_mc", learn.n_mc,
    f"must be a multiple of {divisor} with {name!r}")
  if problems.sound("learn.n_mc", "learn.draws_at_once"):
    problems.require(
      learn.n_mc % learn.draws_at_once == 0, "learn.draws_at_once",
      learn.draws_at_once, f"must divide learn.n_mc = {learn.n_mc}")
  if name in scoring.OF_TRACE:
    check.traced(sampler, "rollout.sampler", name, problems)
  if name == "forks":
    problems.require(
      sampler.threshold > 0, "rollout.sampler.threshold", sampler.threshold,
      "must be positive with 'forks': tokens below it are the forks")
    problems.require(
      sampler.fill_after == 1, "rollout.sampler.fill_after",
      sampler.fill_after, "must be 1 with 'forks': at most one per step")
    if problems.sound("rollout.sampler.gen_length"):
      problems.require(
        learn.n_mc == sampler.gen_length, "learn.n_mc", learn.n_mc,
        f"must be rollout.sampler.gen_length = {sampler.gen_length}, the "
        "largest number of forks")
  elif name in method_processes.OF_TRACE:
    for field in ("threshold", "factor"):
      value = getattr(sampler, field)
      problems.require(
        not value, f"rollout.sampler.{field}", value,
        f"must be 0: {name!r} needs a fixed number of steps")
    shrink = learn.process_args.get("shrink", 1)
    if problems.sound("learn.process_args", "rollout.sampler.steps"):
      problems.require(shrink >= 1, "learn.process_args.shrink", shrink,
                       "must be at least 1: denoising steps per slice")
    if problems.sound("learn.process_args", "rollout.sampler.steps"):
      slices = -(-sampler.steps // shrink)
      problems.require(
        learn.n_mc == slices, "learn.n_mc", learn.n_mc,
        f"must be {slices}, the slices of rollout.sampler.steps = "
        f"{sampler.steps} denoising steps, {shrink} in each")
