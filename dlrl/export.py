"""`python -m dlrl.export --workdir=DIR --out=DIR [--adapter]`.

Writes the parameters of a run's newest checkpoint as a directory that
`transformers` loads with the model code published with the checkpoint the run
started from. That directory, `pretrained` in the run's config, gives the other
files: config, tokenizer, code. `--source` names another place for it.

Adapters are merged into the matrices they are on, or with `--adapter` written
alone, as PEFT does.
"""

import dataclasses
import json
import pathlib

import jax
from absl import flags

from dlrl import config
from dlrl import strict
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import lora
from dlrl.models import peft
from dlrl.models import transformer
from dlrl.run import command
from dlrl.run import start_params
from dlrl.runtime import progress
from dlrl.storage import checkpoint


def export(
  workdir: str, out: str, source: str = "", *, adapter: bool = False
) -> None:
  """Writes the newest parameters of a run into `out`.

  Args:
    workdir: of a run with `pretrained`.
    out: must not exist.
    source: the published checkpoint; "": where the run had it.
    adapter: of a run that trained one: write it alone, in PEFT's layout.

  Raises:
    strict.ConfigError: names the argument and what would do.
    ValueError: the checkpoint's parameters do not fit the source's config.json.
    FileNotFoundError: the source has no tensors to merge an adapter into.
  """
  root, target = (pathlib.Path(x).expanduser() for x in (workdir, out))
  strict.require(not target.exists(), "out", out, "exists; choose another name")
  cfg, dtype = _config(root, source)
  source = source or cfg.pretrained
  strict.require(
    source != "", "source", source,
    "is needed: the run started from random parameters, not from a published "
    "checkpoint whose format and tokenizer the result could have")
  adapted = cfg.lora.rank > 0
  strict.require(
    not adapter or (adapted and cfg.pretrained != "" and not cfg.init_from),
    "adapter", adapter, "needs a run that trained an adapter of `pretrained`; "
    "without it, all parameters are written")
  published, hf = families.read_config(source, dtype=dtype)
  model = transformer.build(published, hf["mask_token_id"])
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device),
    jax.eval_shape(model.init, jax.random.key(0)))
  wanted = lora.shapes(abstract, cfg.lora) if adapted else abstract
  try:
    params = checkpoint.load_params(root / "checkpoints", wanted)
    meta = checkpoint.load_meta(root / "checkpoints")
  except FileNotFoundError as e:
    raise strict.ConfigError("workdir", workdir, str(e)) from e
  if adapter:
    peft.save(params, cfg.lora, source, target)
    return
  if adapted:
    base = start_params.base(cfg, model, abstract)
    base.check(meta["base"])
    params = lora.merge(base.params, params, cfg.lora)
  hf_checkpoints.save(params, source, target)


def _config(root: pathlib.Path, source: str) -> tuple[config.Config, str]:
  """What of a run's config matters here, and the dtype of its parameters."""
  try:
    run = json.loads((root / "config.json").read_text())
    known = {k: run[k] for k in ("seed", "init_from") if k in run}
    adapters = strict.build(
      config.LoraConfig,
      run.get("lora", dataclasses.asdict(config.NO_LORA)),
      "lora.",
    )
    return dataclasses.replace(
      config.Config(), **known, lora=adapters,
      pretrained=run["pretrained"] and (source or run["pretrained"]),
    ), run["model"]["param_dtype"]
  except (OSError, ValueError, KeyError) as e:
    raise strict.ConfigError(
      "workdir", str(root), f"is not the directory of a run: {e}") from e


def run() -> None:
  """Exports as the flags say."""
  options = flags.FLAGS
  export(options.workdir, options.out, options.source, adapter=options.adapter)
  progress.say(f"wrote {options.out}")


if __name__ == "__main__":
  # Here, because other programs have flags of these names, too.
  flags.DEFINE_string("workdir", None, "of a run", required=True)
  flags.DEFINE_string("out", None, "must not exist", required=True)
  flags.DEFINE_string(
    "source", "",
    "the published checkpoint, if it is not where the run had it")
  flags.DEFINE_bool(
    "adapter", False, "write the adapter alone, as PEFT does")
  command.start(lambda args: run())
