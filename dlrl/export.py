"""`dlrl export --workdir=DIR --out=DIR [--source=MODEL] [--push=ORG/NAME]`.

Writes the parameters in a run's newest checkpoint as a directory that
`transformers` loads with the model code published for it. All other files
(config, tokenizer, code) are copied from the checkpoint that the run started
from: `pretrained` in the run's config, or `--source` if it has moved. MODEL is
a directory, or ORG/NAME[@REVISION] on the Hugging Face Hub.

Adapters are merged into their matrices. With `--adapter` only the adapter is
written, in PEFT's format.

It is a single process, which computes on the host's CPU unless JAX_PLATFORMS
says otherwise.

With `--push` the result is uploaded to the Hub, after a question that says
whether the repository is private or public. Scripts answer it by `--push_as`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys

import jax
from absl import flags

from dlrl import config
from dlrl import strict
from dlrl import validate
from dlrl.hub import uploads
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import lora
from dlrl.models import peft
from dlrl.models import transformer
from dlrl.run import command
from dlrl.run import start_params
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import own_files
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.storage import checkpoint
from dlrl.storage import output_paths


def export(
  workdir: str, out: str, source: str = "", *, adapter: bool = False
) -> None:
  """Writes the newest parameters of a run into `out`.

  Args:
    workdir: a run that started from a published checkpoint.
    out: the directory to write; must not exist.
    source: the published checkpoint, as of `pretrained`; "": the run's own.
    adapter: whether to write only the adapter, in PEFT's format.

  Raises:
    strict.ConfigError: an argument is invalid; named as its flag.
    ValueError: the run's parameters do not fit the config.json of the source.
    FileNotFoundError: the source has no tensors to merge an adapter into.
  """
  require = functools.partial(strict.require, error=strict.FlagError)
  root = output_paths.path("workdir", workdir)
  target = output_paths.absent("out", out)
  cfg, dtype = _config(root, source)
  source = source or cfg.pretrained
  require(
    source != "", "source", source,
    "is needed: the run started from random parameters, not from a published "
    "checkpoint whose format and tokenizer the result could have")
  adapted = cfg.lora.rank > 0
  require(
    not adapter or (adapted and cfg.pretrained != "" and not cfg.init_from),
    "adapter", adapter, "needs a run that trained an adapter on "
    "config.pretrained; drop the flag to write all parameters")
  family = families.named(cfg.family)
  published, hf = families.read_config(
    source, dtype=dtype, family=family,
    error=functools.partial(strict.FlagError, "source"))
  model = transformer.build(published, hf["mask_token_id"])
  device = jax.sharding.SingleDeviceSharding(mesh_lib.found()[0])
  abstract = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device),
    jax.eval_shape(model.init, jax.random.key(0)))
  wanted = lora.shapes(abstract, cfg.lora) if adapted else abstract
  try:
    # Both of one step, also while the run goes on.
    params, meta = checkpoint.newest(root / "checkpoints", lambda step: (
      checkpoint.load_params(root / "checkpoints", wanted, step=step),
      checkpoint.load_meta(root / "checkpoints", step=step)))
  except FileNotFoundError as e:
    raise strict.FlagError("workdir", workdir, str(e)) from e
  if adapter:
    return peft.save(params, cfg.lora, source, target, family)
  if adapted:
    base = start_params.base(cfg, model, abstract)
    # A wrong base has the right shapes: only its fingerprint tells.
    require(
      base.id == meta["base"] or base.field != "pretrained", "source", source,
      "has other parameters than those the adapter was trained on; name the "
      "checkpoint that the run started from")
    base.check(meta["base"])
    params = lora.merge(base.params, params, cfg.lora)
  hf_checkpoints.save(params, source, target, family=family)


def _config(root: pathlib.Path, source: str) -> tuple[config.Config, str]:
  """Reads the part of a run's config that matters here.

  The rest may be of another version, with settings that no longer exist.

  Returns:
    The config, with `pretrained` replaced by `source`; the parameters' dtype.
  """
  try:
    run = own_files.read_object(root / "config.json")
    defaults = strict.to_json(_Kept())
    kept = strict.build(
      _Kept, {key: run.get(key, value) for key, value in defaults.items()})
    model = strict.build(
      _KeptModel, {"param_dtype": run["model"]["param_dtype"]}, "model.")
    strict.require(
      model.param_dtype in validate.DTYPES, "model.param_dtype",
      model.param_dtype, strict.one_of(validate.DTYPES))
  except (OSError, ValueError, KeyError, TypeError, AttributeError,
          RecursionError) as e:
    raise strict.FlagError(
      "workdir", str(root), f"is not the directory of a run: {e}") from e
  return dataclasses.replace(
    config.Config(), seed=kept.seed, family=kept.family,
    init_from=kept.init_from, lora=kept.lora,
    pretrained=kept.pretrained and (source or kept.pretrained),
  ), model.param_dtype


@dataclasses.dataclass(frozen=True)
class _Kept:
  """The settings of a run that an export needs; old runs lack some."""

  seed: int = 0
  init_from: str = ""
  pretrained: str = ""
  family: str = ""
  lora: config.LoraConfig = config.NO_LORA


@dataclasses.dataclass(frozen=True)
class _KeptModel:
  param_dtype: str = "float32"


def confirmed(target: uploads.Target, out: str) -> bool:
  """Asks on the terminal whether to upload; only "yes" is one.

  Raises:
    strict.FlagError: there is no terminal to ask on.
  """
  strict.require(
    sys.stdin.isatty(), "push", target.repo.name, "asks on a terminal before "
    f"it uploads to {target.described}; in a script, answer by "
    f"--push_as={'private' if target.private else 'public'}", strict.FlagError)
  terminal.show(f"dlrl: upload {out} to {target.described}?")
  with contextlib.suppress(EOFError):
    return input("Type yes to upload when it is written: ").strip() == "yes"
  return False


def run() -> None:
  """Exports what the flags ask for; uploads it where that is confirmed.

  Raises:
    strict.FlagError: a flag is invalid, or the upload was not confirmed or
      fails.
  """
  options = flags.FLAGS
  mesh_lib.prefer_cpu()
  strict.require(bool(options.push) or not options.push_as, "push_as",
                 options.push_as, "needs --push=ORG/NAME", strict.FlagError)
  target = None
  if options.push:
    target = uploads.find(options.push, options.push_as)
    strict.require(
      bool(options.push_as) or confirmed(target, options.out), "push",
      options.push, "not confirmed; nothing was written", strict.FlagError)
  export(options.workdir, options.out, options.source, adapter=options.adapter)
  progress.say(f"wrote {options.out}")
  if target:
    uploads.upload(
      target, output_paths.path("out", options.out), progress.say)


if __name__ == "__main__":
  command.start("export", lambda args: run())
