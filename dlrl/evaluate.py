"""`dlrl evaluate --config=FILE:PRESET (--workdir=DIR | --model=MODEL)`.

Evaluates the parameters of a run, or of a published model (a directory, or
ORG/NAME[@REVISION] on the Hugging Face Hub), on held-out items. Writes into
`--out`

    completions.jsonl  every completion: text, answer, scores, commit steps
    results.md, results.json  the table, with all settings it depends on
    settings.json      these settings, with fingerprints of parameters, prompts,
                       examples and rewards; the directory is refused for others
    lock               locked by the process that evaluates

`config.evaluation` selects the items and `config.eval.sampler` the decoding, or
`--protocol` sets both as a paper does. Without `--config`, the config is that
of the run. After a kill, the same command continues with the next batch. Choose
checkpoints with `--config.evaluation.split=validation` and use the test split
once. Several processes evaluate together as they train, with the same flags:
each has a part of the completions, and process 0 writes the files. The exit
codes are those of `dlrl train`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from dlrl import config
from dlrl import data
from dlrl import strict
from dlrl import tasks
from dlrl import validate
from dlrl.buckets import objects
from dlrl.evaluation import completions
from dlrl.evaluation import completions_log
from dlrl.evaluation import identity
from dlrl.evaluation import protocols
from dlrl.evaluation import table as table_lib
from dlrl.run import command
from dlrl.run import hub_commits
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import gpu
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import parent_process
from dlrl.runtime import preemption
from dlrl.runtime import processes
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.sampling import check
from dlrl.storage import output_paths
from dlrl.storage import workdir as workdir_lib
from dlrl.tasks.published_scorers import scorers


def evaluate(setup: setup_lib.Setup, params: Any, origin: dict[str, Any],
             out: pathlib.Path) -> str:
  """Completes the evaluation in `out`, writes the table and returns it.

  Args:
    setup: its `cfg.evaluation` selects the items.
    params: parameters of the policy.
    origin: JSON values that tell where the parameters are from.
    out: directory for the files listed above; created if absent.

  Raises:
    strict.ConfigError: `out` cannot be written, is in use, or holds other files
      or an evaluation of something else; or the split has too few rows.
  """
  cfg = setup.cfg
  source = setup.examples(
    cfg.evaluation.split, cfg.eval.difficulty, field="eval.difficulty")
  items = data.eval_rows(
    source, setup.tokenizer, setup.prompt,
    items=cfg.evaluation.size or len(source),
    prompt_length=cfg.task.prompt_length, truncate=cfg.task.truncates)
  settings = describe(setup, len(items["position"]), origin) | {
    "fingerprints": identity.of(setup, params, source, items)}
  progress.say("{task}: {items} items of {split}, {samples} completion(s) "
               "each, prompt {prompt}".format(**settings))
  fits = functools.partial(_fits, completions.lengths(cfg), settings)
  with contextlib.ExitStack() as stack:
    log: completions_log.CompletionsLog | None = None  # of process 0 only

    def opened() -> list[list[int]]:
      nonlocal log
      log = stack.enter_context(
        completions_log.CompletionsLog(out, settings, fits))
      return [[r["length"], r["sample"], r["item"]] for r in log.records]

    done = set(map(tuple, processes.by_first(opened)))
    for length in completions.lengths(cfg):
      for records in completions.missing(
          setup, params, length, source, items, done):
        if log is not None:
          log.append(records)
    text: str = processes.by_first(lambda: log and _write(
      setup, settings, out, log.records))
  return text


def _write(setup: setup_lib.Setup, settings: dict[str, Any], out: pathlib.Path,
           records: Sequence[completions_log.Record]) -> str:
  """Writes the results into `out`; returns the table."""
  table = table_lib.summarize(records, setup.task.unbounded)
  workdir_lib.write_json(out / "results.json", {
    "settings": settings, "scores": [row._asdict() for row in table]})
  text = table_lib.markdown(table, _lines(settings))
  workdir_lib.write_text(out / "results.md", text)
  return text


def _fits(lengths_of: Sequence[int], settings: dict[str, Any],
          record: dict[str, Any]) -> bool:
  """Whether a record that was read has what the table is made of."""
  places = [record.get(key) for key in ("length", "sample", "item")]
  scores, answer = record.get("scores"), record.get("answer", 0)
  return (
    all(type(place) is int for place in places) and places[0] in lengths_of
    and places[1] in range(settings["samples"])
    and places[2] in range(settings["items"])
    and isinstance(record.get("task"), str)
    and (answer is None or isinstance(answer, str))
    and isinstance(scores, dict)
    and all(score is None or isinstance(score, int | float)
            for score in scores.values()))


def describe(setup: setup_lib.Setup, items: int, origin: dict[str, Any]
             ) -> dict[str, Any]:
  """Every setting that the results depend on, as JSON values."""
  cfg = setup.cfg
  used = dataclasses.asdict(cfg.eval.sampler)
  return json.loads(json.dumps({
    "parameters": origin,
    "task": cfg.task.name, "version": setup.task.version,
    "checksum": setup.task.checksum, "split": cfg.evaluation.split,
    "items": items, "difficulty": cfg.eval.difficulty,
    "prompt": tasks.prompt_version(cfg.task), "few_shot": cfg.task.few_shot,
    "scorer": cfg.evaluation.scorer, "samples": cfg.evaluation.samples,
    "seed": cfg.seed,
    "lengths": {str(n): completions.sampler(cfg, n).steps
                for n in completions.lengths(cfg)},
    "sampler": {k: v for k, v in used.items()
                if k not in ("gen_length", "steps")},
  }))


def _lines(settings: dict[str, Any]) -> dict[str, str]:
  """The settings in words, for the table."""
  s = settings
  decoding = ", ".join(f"{k} {v}" for k, v in s["sampler"].items())
  steps = ", ".join(f"{n} in {k}" for n, k in s["lengths"].items())
  return {
    "parameters": ", ".join(
      [*(f"{k} {v}" for k, v in s["parameters"].items()),
       f"fingerprint {s['fingerprints']['parameters']}"]),
    "task": f"{s['task']}, version {s['version']}, checksum {s['checksum']}",
    "items": f"{s['items']} of {s['split']}, {s['samples']} completion(s) each",
    "prompt": f"{s['prompt']}, {s['few_shot']} worked examples",
    "scorer": s["scorer"],
    "tokens in denoising steps": steps,
    "decoding": f"{decoding}, seed {s['seed']}"}


def prepare(values: ml_collections.ConfigDict, *, model: str, protocol: str,
            prompt_file: str = "") -> config.Config:
  """The validated config of an evaluation.

  Args:
    values: the config of a file or of a run; changed in place.
    model: a published model, a directory or a name on the Hub; "" keeps
      `config.pretrained`.
    protocol: a key of `protocols.PROTOCOLS`; "" keeps the config's settings.
    prompt_file: path of a prompt template; "" keeps the config's or the
      protocol's prompt.

  Raises:
    strict.ConfigError: a setting is invalid.
  """
  if model:
    values.pretrained = model
  if protocol:
    protocols.apply(values, protocol)
  # Nothing is trained, so settings of training that are meant for another task
  # must not be refused. Only for users' files do rewards matter: they are the
  # metrics.
  values.rollout.difficulty = values.sft.difficulty = config.ALL
  if tasks.FILES not in values.task.name.split("+"):
    values.rollout.rewards, values.rollout.reward_weights = ("solved",), (1.0,)
  if prompt_file:
    values.task.prompt_file, values.task.prompt_text = prompt_file, ""
  cfg = validate.from_dict(values)
  how = cfg.evaluation
  strict.require(
    how.samples == 1 or cfg.eval.sampler.temperature > 0, "evaluation.samples",
    how.samples, "must be 1 at config.eval.sampler.temperature = 0, where all "
    "samples are equal")
  for length in completions.lengths(cfg):
    check.sampler(completions.sampler(cfg, length), "eval.sampler",
                  block_length=validate.architecture(cfg).block_length)
  return cfg


def run() -> None:
  """Evaluates as the flags say.

  Raises:
    strict.ConfigError: a flag or a setting is invalid.
    ValueError: the files of a model do not match its config.json.
  """
  options = flags.FLAGS
  problems = strict.Problems()
  problems.require(
    bool(options.workdir) != bool(options.model), "workdir", options.workdir,
    "pass either --workdir=DIR of a run or --model=DIR of a published model",
    strict.FlagError)
  with problems.catch():
    out = completions_log.check(options.out or os.path.join(
      options.workdir or ".", "evaluation"))
  problems.finish()
  values = options.config
  strict.require(
    values is not None, "config", "", "--model needs --config=FILE, which "
    "names the task", strict.FlagError)
  if options.workdir:
    hub_commits.keep(
      values, output_paths.path("workdir", options.workdir))
  cfg = prepare(values, model=options.model, protocol=options.protocol,
                prompt_file=options.prompt_file)
  mesh_lib.split_cpu(cfg.mesh.cpu_devices, processes.joined())
  gpu.take(cfg.mesh.gpu_memory)
  try:
    setup = setup_lib.make(hub_commits.fixed(cfg))
  except strict.ConfigError as e:
    if not options.model or e.field != "pretrained":
      raise
    raise strict.FlagError("model", e.value, e.fix) from e  # as typed here
  try:
    scorer = scorers.SCORERS[cfg.evaluation.scorer]
    setup = dataclasses.replace(setup, task=scorer(cfg.task.name, setup.task))
  except ValueError as e:
    raise strict.ConfigError(
      "evaluation.scorer", cfg.evaluation.scorer, str(e)) from e
  setup.start_graders()
  with jax.set_mesh(setup.mesh):
    if options.workdir:
      params, step = saved_params.policy(
        setup, options.workdir, options.checkpoint)
      origin = {"workdir": options.workdir, "step": step}
    else:
      params, origin = setup.init_params(), {"model": setup.cfg.pretrained}
    text = evaluate(setup, params, origin, out)
  if processes.first():
    terminal.show(f"{text}\n{out / 'results.md'}")


def define_config(argv: Sequence[str]) -> None:
  """Defines `--config` with the settings of the run, unless it names a file.

  So that `--config.SECTION.KEY=VALUE` can change single settings of either.

  Args:
    argv: the program's name and its arguments.

  Raises:
    strict.FlagError: `--workdir` is not the directory of a run.
  """
  known = flags.FlagValues()
  for name in ("config", "workdir"):
    flags.DEFINE_string(name, "", "", flag_values=known)
  with contextlib.suppress(flags.Error):  # reported when all are parsed
    known(argv, known_only=True)
  if known.workdir and not known.config:
    # `command.start` reports the wrong ones together with all other flags.
    right = [arg for arg in argv if command.possible(arg, strict.Problems())]
    config_flags.DEFINE_config_dict(
      "config", saved_params.settings(known.workdir), "settings of the run",
      lock_config=True, sys_argv=right)


def main(argv: list[str]) -> None:
  """Evaluates; SIGTERM ends with a line, after which it can be continued."""
  del argv
  command.join()
  with preemption.Notice():
    run()


if __name__ == "__main__":
  progress.show_compilations()
  try:
    define_config(sys.argv)
  except strict.ConfigError as e:
    sys.exit(command.say_error(str(e), 2))
  except objects.BucketError as e:
    sys.exit(command.say_error(str(e), parent_process.LOST))
  command.start("evaluate", main,
                interrupted="interrupted; the same command continues")
