"""From a `ConfigDict` to a typed config that is known to work."""

import dataclasses
import importlib.util
import operator
import re

import ml_collections

from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import strict
from dlrl import tasks
from dlrl.diffusion import method_processes
from dlrl.diffusion import pruning
from dlrl.models import attention
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.runtime import profile_window
from dlrl.sampling import check
from dlrl.tasks.published_scorers import scorers
from dlrl.tasks.user_files import files
from dlrl.tasks.user_files import templates

DTYPES = ("float32", "bfloat16")

# Counts that must be at least 1.
COUNTS = (
  "checkpoint_every", "checkpoint_keep", "max_nonfinite", "log_every",
  "sample_every", "steps", "task.prompt_length",
  "model.vocab_size", "model.width", "model.layers", "model.heads",
  "model.kv_heads", "model.head_dim", "model.mlp_width",
  "sft.batch_size", "sft.gen_length", "sft.logps_chunk", "sft.log_every",
  "sft.checkpoint_every",
  "rollout.prompts", "rollout.prior.slots",
  "learn.n_mc", "learn.epochs", "learn.updates_per_rollout",
  "learn.micro_batch", "learn.logps_chunk",
  "eval.size", "eval.every", "eval.batch_size", "evaluation.samples",
)


def from_dict(values: ml_collections.ConfigDict) -> config.Config:
  """The typed, validated config; nothing has been allocated or written yet.

  Raises:
    strict.ConfigError: an unknown, missing or mistyped key, or values that do
      not fit each other. Says which, its value and what would do.
  """
  cfg = _with_prompt(strict.build(config.Config, values.to_dict()))
  task = tasks.find(cfg.task, cfg.rollout.rewards)
  _choices(cfg, task)
  _numbers(cfg)
  _difficulties(cfg, task)
  for name in ("rollout.sampler", "eval.sampler"):
    check.sampler(operator.attrgetter(name)(cfg), name)
  _lora(cfg.lora)
  _batches(cfg)
  _rewards(cfg.rollout)
  _prior(cfg, task)
  _method(cfg.learn)
  _trace(cfg)
  _groups(cfg)
  _profile(cfg)
  _paths(cfg)
  strict.require(
    not cfg.wandb or importlib.util.find_spec("wandb") is not None, "wandb",
    cfg.wandb, "needs wandb: pip install 'dlrl[wandb]'")
  return cfg


def _with_prompt(cfg: config.Config) -> config.Config:
  """With the prompt's text, so that it is kept wherever the config is."""
  task = cfg.task
  if not task.prompt_file:
    strict.require(not task.prompt_text, "task.prompt_text", task.prompt_text,
                   "must be empty; name its file as task.prompt_file")
    return cfg
  text = task.prompt_text or templates.read(task.prompt_file)
  return dataclasses.replace(
    cfg, task=dataclasses.replace(task, prompt_text=text))


def _choices(cfg: config.Config, task: tasks.Task) -> None:
  def one_of(field, table):
    value = operator.attrgetter(field)(cfg)
    strict.require(value in table, field, value,
                   f"choose from {', '.join(map(repr, table))}")

  one_of("job", ("rl", "sft"))
  one_of("task.prompt", task.prompts)
  one_of("task.bad_rows", files.BAD_ROWS)
  one_of("task.long_prompts", ("error", "truncate"))
  one_of("eval.split", ("validation", "test"))
  one_of("evaluation.split", ("validation", "test"))
  one_of("evaluation.scorer", scorers.SCORERS)
  one_of("model.remat", transformer.REMAT)
  one_of("model.attention", attention.BACKENDS)
  one_of("model.compute_dtype", DTYPES)
  one_of("model.param_dtype", DTYPES)
  one_of("lora.dtype", DTYPES)
  one_of("lora.quantize", ("none", *quantized.METHODS))
  one_of("learn.loss", losses.OBJECTIVES)
  one_of("learn.advantage", losses.ADVANTAGES)
  one_of(
    "learn.forward_process",
    method_processes.PROCESSES | method_processes.OF_TRACE,
  )
  one_of("rollout.prior.remask", pruning.REMASK)
  one_of("learn.score_norm", ("token", "none"))
  for part in ("sft.optimizer", "learn.optimizer"):
    one_of(f"{part}.name", optimizer.OPTIMIZERS)
    one_of(f"{part}.schedule", optimizer.SCHEDULES)
    one_of(f"{part}.moment_dtype", DTYPES)


def _numbers(cfg: config.Config) -> None:
  for field in COUNTS:
    value = operator.attrgetter(field)(cfg)
    strict.require(value >= 1, field, value, "must be at least 1")
  for field in ("sft.steps", "sft.optimizer.warmup_steps",
                "learn.optimizer.warmup_steps", "mesh.cpu_devices",
                "rollout.prior.anneal_steps", "task.few_shot", "lora.rank",
                "evaluation.size", "evaluation.tokens_per_step",
                "watchdog.times"):
    value = operator.attrgetter(field)(cfg)
    strict.require(value >= 0, field, value, "must not be negative")
  for field in ("sft.optimizer.learning_rate", "sft.optimizer.clip_norm",
                "learn.optimizer.learning_rate",
                "learn.optimizer.clip_norm", "model.rope_theta", "lora.alpha",
                "watchdog.least_seconds", "watchdog.first_seconds"):
    value = operator.attrgetter(field)(cfg)
    strict.require(value > 0, field, value, "must be positive")
  strict.require(0 <= cfg.seed < 2**32, "seed", cfg.seed,
                 "must be in 0..4294967295")
  strict.require(
    0 <= cfg.learn.negative_weight <= 1, "learn.negative_weight",
    cfg.learn.negative_weight, "must be in 0..1; 1 is plain BGPO")
  strict.require(
    cfg.model.heads % cfg.model.kv_heads == 0, "model.kv_heads",
    cfg.model.kv_heads, f"must divide model.heads = {cfg.model.heads}")
  strict.require(cfg.model.head_dim % 2 == 0, "model.head_dim",
                 cfg.model.head_dim, "must be even, for rotary positions")


def _difficulties(cfg: config.Config, task: tasks.Task) -> None:
  least, most = task.difficulties
  for field in ("sft.difficulty", "rollout.difficulty", "eval.difficulty"):
    low, high = operator.attrgetter(field)(cfg)
    strict.require(
      low <= high and low <= most and least <= high, field, (low, high),
      f"must be an ascending pair that has some of {least}..{most}, the "
      f"difficulties of {cfg.task.name!r}")


def _lora(cfg: config.LoraConfig) -> None:
  try:
    found = lora.names(cfg)
  except re.error as e:
    raise strict.ConfigError(
      "lora.targets", cfg.targets, f"is not a pattern: {e}") from e
  strict.require(
    len(found) > 0, "lora.targets", cfg.targets,
    f"must match one of {', '.join(lora.MATRICES)}, as a whole")
  if cfg.quantize != "none":
    strict.require(
      cfg.rank > 0, "lora.quantize", cfg.quantize,
      "must be 'none' without lora.rank: what is quantised cannot be trained")
    strict.require(
      importlib.util.find_spec("qwix") is not None, "lora.quantize",
      cfg.quantize, "needs qwix: pip install 'dlrl[quantized]'")


def _batches(cfg: config.Config) -> None:
  r, u = cfg.rollout, cfg.learn
  strict.require(
    r.group_size >= 2, "rollout.group_size", r.group_size,
    "must be at least 2: an advantage compares completions of one prompt")
  strict.require(
    r.sampler.temperature > 0, "rollout.sampler.temperature",
    r.sampler.temperature, "must be positive, or all of a group are the same")
  strict.require(
    r.prompts % u.updates_per_rollout == 0, "learn.updates_per_rollout",
    u.updates_per_rollout, f"must divide rollout.prompts = {r.prompts}")
  rows = r.prompts * r.group_size // u.updates_per_rollout
  strict.require(
    rows % u.micro_batch == 0, "learn.micro_batch", u.micro_batch,
    f"must divide the {rows} completions of an update (rollout.prompts * "
    "rollout.group_size / learn.updates_per_rollout)")


def _rewards(rollout: config.RolloutConfig) -> None:
  strict.require(bool(rollout.rewards), "rollout.rewards", rollout.rewards,
                 "name at least one")
  strict.require(
    len(rollout.reward_weights) == len(rollout.rewards),
    "rollout.reward_weights", rollout.reward_weights,
    f"must be as many as rollout.rewards = {rollout.rewards}")


def _prior(cfg: config.Config, task: tasks.Task) -> None:
  prior = cfg.rollout.prior
  for field in ("template", "memory"):
    value = getattr(prior, field)
    strict.require(0 <= value <= 1, f"rollout.prior.{field}", value,
                   "is a share, 0..1; 0 is none")
  strict.require(
    not prior.template or task.template is not None, "rollout.prior.template",
    prior.template, f"must be 0: {cfg.task.name!r} has no template")
  strict.require(
    not prior.template or (
      cfg.task.prompt == "bare" and not cfg.task.prompt_file),
    "rollout.prior.template", prior.template,
    "must be 0: templates are of answers to task.prompt 'bare'")


def _trace(cfg: config.Config) -> None:
  learn, sampler = cfg.learn, cfg.rollout.sampler
  name = learn.forward_process
  if name == "forks":
    strict.require(
      sampler.threshold > 0, "rollout.sampler.threshold", sampler.threshold,
      "must be positive with 'forks': it says where they are")
    strict.require(
      sampler.fill_after == 1, "rollout.sampler.fill_after",
      sampler.fill_after, "must be 1 with 'forks': one at most in a step")
    strict.require(
      learn.n_mc == sampler.gen_length, "learn.n_mc", learn.n_mc,
      f"must be rollout.sampler.gen_length = {sampler.gen_length}, the most "
      "forks there can be")
  elif name in method_processes.OF_TRACE:
    for field in ("threshold", "factor"):
      value = getattr(sampler, field)
      strict.require(
        not value, f"rollout.sampler.{field}", value,
        f"must be 0: {name!r} counts on the number of steps")
    shrink = learn.process_args.get("shrink", 1)
    strict.require(
      isinstance(shrink, int) and shrink >= 1, "learn.process_args.shrink",
      shrink, "must be at least 1: denoising steps per slice")
    slices = -(-sampler.steps // shrink)
    strict.require(
      learn.n_mc == slices, "learn.n_mc", learn.n_mc,
      f"must be {slices}, the slices of rollout.sampler.steps = "
      f"{sampler.steps} denoising steps, {shrink} in each")


def _groups(cfg: config.Config) -> None:
  learn = cfg.learn
  together = losses.OBJECTIVES[learn.loss](**learn.loss_args).together
  strict.require(
    together in (1, cfg.rollout.group_size), "rollout.group_size",
    cfg.rollout.group_size, f"must be {together}, the completions that "
    f"{learn.loss} compares; or set learn.loss_args.group_size")
  strict.require(
    learn.micro_batch % together == 0, "learn.micro_batch", learn.micro_batch,
    f"must be a multiple of the {together} completions that {learn.loss} "
    "compares")


def _method(learn: config.LearnConfig) -> None:
  strict.arguments(
    losses.OBJECTIVES[learn.loss], learn.loss_args, "learn.loss_args")
  processes = method_processes.PROCESSES | method_processes.OF_TRACE
  strict.arguments(
    processes[learn.forward_process], learn.process_args, "learn.process_args")
  objective = losses.OBJECTIVES[learn.loss](**learn.loss_args)
  strict.require(
    objective.takes_norm or learn.score_norm == "none", "learn.score_norm",
    learn.score_norm, f"must be 'none': {learn.loss} does its own norm")
  strict.require(
    0 <= learn.prompt_noise <= 1, "learn.prompt_noise", learn.prompt_noise,
    "must be in 0..1")
  divisor = {"complementary": 2, "coupled": 3}.get(learn.forward_process, 1)
  strict.require(
    learn.n_mc % divisor == 0, "learn.n_mc", learn.n_mc,
    f"must be a multiple of {divisor} with {learn.forward_process!r}")


def _paths(cfg: config.Config) -> None:
  for field in ("init_from", "pretrained"):
    value = getattr(cfg, field)
    strict.require("://" not in value, field, value,
                   "only local directories are read; mount the bucket")


def _profile(cfg: config.Config) -> None:
  try:
    span = profile_window.span(cfg.profile.steps)
    known = span is None or (cfg.job == "rl" and span[1] <= cfg.steps)
  except ValueError:
    known = False
  strict.require(
    known, "profile.steps", cfg.profile.steps,
    f"must be the first and the last RL step, in 1..{cfg.steps}, like '10-12'")
