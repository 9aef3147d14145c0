"""`python -m dlrl.evaluate --config=FILE:PRESET (--workdir=DIR | --model=DIR)`.

Decodes held-out items with the parameters of a run, or of a published model,
and writes into `--out`

    completions.jsonl  every completion: text, answer, scores, commit steps
    results.md, results.json  the table, with all that it depends on
    settings.json      what is evaluated; other settings are refused

What and how is `config.evaluation` and `config.eval.sampler`, or a paper's with
`--protocol`; without `--config`, those of the run. Killed and started again
with the same command, it goes on after the last batch. Choose checkpoints by
`--config.evaluation.split=validation` and touch the test rows once. Exit codes
as of `dlrl.main`.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from dlrl import config
from dlrl import data
from dlrl import strict
from dlrl import tasks
from dlrl import validate
from dlrl.evaluation import completions_log
from dlrl.evaluation import protocols
from dlrl.evaluation import table as table_lib
from dlrl.run import grading
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.storage import workdir as workdir_lib
from dlrl.tasks.published_scorers import scorers

Place = tuple[int, int]  # number of a sample, of an item


def evaluate(setup: setup_lib.Setup, params: Any, origin: dict[str, Any],
             out: pathlib.Path) -> str:
  """Evaluates what `out` lacks, writes the table there and returns it.

  Args:
    setup: with `cfg.evaluation`.
    params: of the policy.
    origin: where they are from, JSON.
    out: directory; created if absent.

  Raises:
    strict.ConfigError: the directory holds something else; or the rows do not
      suffice.
  """
  cfg = setup.cfg
  source = setup.examples(
    cfg.evaluation.split, cfg.eval.difficulty, field="eval.difficulty")
  items = data.eval_rows(
    source, setup.tokenizer, setup.prompt,
    items=cfg.evaluation.size or len(source),
    prompt_length=cfg.task.prompt_length, truncate=cfg.task.truncates)
  settings = describe(setup, len(items["position"]), origin)
  progress.say("{task}: {items} items of {split}, {samples} completion(s) "
               "each, prompt {prompt}".format(**settings))
  with completions_log.CompletionsLog(out, settings) as log:
    for length in lengths(cfg):
      _complete(setup, params, length, source, items, log)
    table = table_lib.summarize(log.records)
  workdir_lib.write_json(out / "results.json", {
    "settings": settings, "scores": [s._asdict() for s in table]})
  text = table_lib.markdown(table, _lines(settings))
  workdir_lib.write_text(out / "results.md", text)
  return text


def lengths(cfg: config.Config) -> tuple[int, ...]:
  """Tokens of the completions to be evaluated."""
  return cfg.evaluation.lengths or (cfg.eval.sampler.gen_length,)


def sampler(cfg: config.Config, length: int) -> config.SamplerConfig:
  """Decoding at this length; the number of steps grows with it."""
  base = cfg.eval.sampler
  steps = (length // cfg.evaluation.tokens_per_step
           if cfg.evaluation.tokens_per_step
           else base.steps * length // base.gen_length)
  return dataclasses.replace(
    base, gen_length=length, steps=steps,
    block_length=min(base.block_length, length))


def describe(setup: setup_lib.Setup, items: int, origin: dict[str, Any]
             ) -> dict[str, Any]:
  """All that the numbers depend on, as JSON."""
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
    "lengths": {str(n): sampler(cfg, n).steps for n in lengths(cfg)},
    "sampler": {k: v for k, v in used.items()
                if k not in ("gen_length", "steps")},
  }))


def _lines(settings: dict[str, Any]) -> dict[str, str]:
  s = settings
  decoding = ", ".join(f"{k} {v}" for k, v in s["sampler"].items())
  steps = ", ".join(f"{n} in {k}" for n, k in s["lengths"].items())
  return {
    "parameters": ", ".join(f"{k} {v}" for k, v in s["parameters"].items()),
    "task": f"{s['task']}, version {s['version']}, checksum {s['checksum']}",
    "items": f"{s['items']} of {s['split']}, {s['samples']} completion(s) each",
    "prompt": f"{s['prompt']}, {s['few_shot']} worked examples",
    "scorer": s["scorer"],
    "tokens in denoising steps": steps,
    "decoding": f"{decoding}, seed {s['seed']}"}


def _complete(setup, params, length, source, items, log) -> None:
  """Adds the completions of this length that are not there yet."""
  cfg = setup.cfg
  done = {(r["sample"], r["item"]) for r in log.records
          if r["length"] == length}
  todo = [(sample, item) for sample in range(cfg.evaluation.samples)
          for item in range(len(items["position"]))
          if (sample, item) not in done]
  if done:
    progress.say(f"{len(done)} completions of length {length} are there")
  size = cfg.eval.batch_size
  batches = [todo[i:i + size] for i in range(0, len(todo), size)]
  line = progress.Progress(len(batches), f"length {length}")
  decoded = _decoded(setup, params, length, items, batches)
  for number, (places, arrays) in enumerate(decoded, 1):
    log.append(_records(setup, length, source, items, places, arrays))
    line.tick(1)
    progress.say(line.line(number, completions=len(places)))


def _decoded(setup, params, length, items, batches
             ) -> Iterator[tuple[list[Place], denoise.Decoded]]:
  """Batches and what was decoded; the next one is begun before it is scored."""
  root, used = setup.root_key, sampler(setup.cfg, length)

  @jax.jit
  def decode(params, prompt, prompt_length, places):
    keys = jax.vmap(lambda place: jax.random.fold_in(
      jax.random.fold_in(root, place[0]), place[1]))(places)
    return denoise.decode(
      setup.model, params, prompt, prompt_length, keys, sampler=used,
      eos_id=setup.tokenizer.eos_id)

  begun: list[tuple[list[Place], denoise.Decoded]] = []
  for places in batches:
    # One shape, one program: a short batch is filled with its first rows.
    whole = np.resize(np.array(places, np.int32),
                      (setup.cfg.eval.batch_size, 2))
    rows = setup.put_batch((
      items["prompt_ids"][whole[:, 1]], items["prompt_length"][whole[:, 1]],
      whole))
    begun.append((places, decode(params, *rows)))
    if len(begun) > 1:
      yield _read(*begun.pop(0))
  if begun:
    yield _read(*begun.pop(0))


def _read(places, decoded):
  return places, jax.device_get(decoded)


def _records(setup, length, source, items, places: Sequence[Place], decoded
             ) -> list[dict[str, Any]]:
  rows = [source[items["position"][item]] for _, item in places]
  ids = decoded.completion[:len(places)]
  done = grading.read(setup, rows, ids)
  raw: list[dict[str, str]] = [{} for _ in rows]
  if setup.cfg.evaluation.scorer != "sound":  # it reads past the end, too
    raw = [{"generation": setup.tokenizer.decode_all(row)} for row in ids]
    done = dataclasses.replace(
      done, columns=done.columns | tasks.columns(raw))
  found = grading.each(setup.task, rows, done)
  return [{
    "length": length, "sample": sample, "item": item,
    "task": row.get("task", setup.cfg.task.name), "index": row["index"],
    "prompt": prompt, "completion": text,
    "answer": setup.task.answer(row, text), "scores": values,
    "out_of": {name: of(row) for name, of in setup.task.out_of.items()},
    "commit_steps": steps.tolist(), **more,
  } for (sample, item), row, prompt, text, more, values, steps in zip(
    places, rows, done.prompts, done.texts, raw, found,
    decoded.trace[:len(places)], strict=True)]


def prepare(values: ml_collections.ConfigDict, *, model: str, protocol: str,
            prompt_file: str = "") -> config.Config:
  """The config of an evaluation.

  Args:
    values: of a config file, or of a run.
    model: directory of a published model; "": the config's.
    protocol: a paper's, see `protocols`; "": as the config says.
    prompt_file: asks in its words; "": as the config or the protocol says.

  Raises:
    strict.ConfigError: settings do not fit each other.
  """
  if model:
    values.pretrained = model
  if protocol:
    protocols.apply(values, protocol)
  # Nothing is trained: what the config says of that may be of another task. The
  # metrics of users' files are their rewards.
  values.rollout.difficulty = values.sft.difficulty = config.ALL
  if tasks.FILES not in values.task.name.split("+"):
    values.rollout.rewards, values.rollout.reward_weights = ("solved",), (1.0,)
  if prompt_file:
    values.task.prompt_file, values.task.prompt_text = prompt_file, ""
  cfg = validate.from_dict(values)
  how = cfg.evaluation
  strict.require(
    how.samples == 1 or cfg.eval.sampler.temperature > 0, "evaluation.samples",
    how.samples, "must be 1 at eval.sampler.temperature = 0: all are the same")
  for length in lengths(cfg):
    check.sampler(sampler(cfg, length), "eval.sampler")
  return cfg


def run() -> None:
  """Does what the flags say.

  Raises:
    strict.ConfigError: names the flag or setting and what would do.
    ValueError: files of a model do not fit its config.json.
  """
  options = flags.FLAGS
  strict.require(
    bool(options.workdir) != bool(options.model), "workdir", options.workdir,
    "give either --workdir=DIR of a run or --model=DIR of a published model")
  values = options.config or (
    (options.workdir and saved_params.settings(options.workdir)) or None)
  strict.require(values is not None, "config", None,
                 "give --config=FILE: it says which task")
  cfg = prepare(values, model=options.model, protocol=options.protocol,
                prompt_file=options.prompt_file)
  mesh_lib.split_cpu(cfg.mesh.cpu_devices)
  setup = setup_lib.make(cfg)
  try:
    scorer = scorers.SCORERS[cfg.evaluation.scorer]
    setup = dataclasses.replace(setup, task=scorer(cfg.task.name, setup.task))
  except ValueError as e:
    raise strict.ConfigError(
      "evaluation.scorer", cfg.evaluation.scorer, str(e)) from e
  out = pathlib.Path(options.out or pathlib.Path(
    options.workdir or ".") / "evaluation").expanduser()
  setup.start_graders()
  with jax.set_mesh(setup.mesh):
    if options.workdir:
      step = saved_params.step(options.workdir, options.checkpoint)
      params = saved_params.policy(setup, options.workdir, step)
      origin = {"workdir": options.workdir, "step": step}
    else:
      params, origin = setup.init_params(), {"model": options.model}
    text = evaluate(setup, params, origin, out)
  print(f"{text}\n{out / 'results.md'}", flush=True)


def main(argv: list[str]) -> None:
  """Evaluates, and turns what users cause into one clear line."""
  del argv
  logging.set_verbosity(logging.WARNING)
  try:
    run()
  except (strict.ConfigError, ValueError, FileNotFoundError) as e:
    print(f"dlrl: {e}", file=sys.stderr, flush=True)
    sys.exit(2)
  except KeyboardInterrupt:
    print("dlrl: interrupted; the same command continues", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
  # Here, because other programs have flags of these names, too.
  config_flags.DEFINE_config_file(
    "config", None, "file of settings, with its preset after a colon",
    lock_config=True)
  flags.DEFINE_string("workdir", "", "of a run")
  flags.DEFINE_string(
    "checkpoint", "latest", "step of the run's checkpoint, 'latest', or 'best' "
    "on the way by the validation rows")
  flags.DEFINE_string("model", "", "directory of a published model")
  flags.DEFINE_string("out", "", "directory; else WORKDIR/evaluation")
  flags.DEFINE_enum(
    "protocol", "", ["", *protocols.PROTOCOLS], "of a paper")
  flags.DEFINE_string(
    "prompt_file", "", "asks in its words; a text, or JSON of chat messages")
  app.run(main)
