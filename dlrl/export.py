"""`python -m dlrl.export --workdir=DIR --out=DIR`.

Writes the parameters of a run's newest checkpoint as a directory that
`transformers` loads with the model code published with the checkpoint the run
started from. That directory, `pretrained` in the run's config, gives the other
files: config, tokenizer, code. `--source` names another place for it.
"""

import json
import pathlib
import sys

import jax
from absl import app
from absl import flags
from absl import logging

from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import transformer
from dlrl.runtime import checkpoint
from dlrl.runtime import progress
from dlrl.runtime import strict


def export(workdir: str, out: str, source: str = "") -> None:
  """Writes the newest parameters of a run into `out`.

  Args:
    workdir: of a run with `pretrained`.
    out: must not exist.
    source: the published checkpoint; "": where the run had it.

  Raises:
    strict.ConfigError: names the argument and what would do.
    ValueError: the checkpoint's parameters do not fit the source's config.json.
  """
  root, target = (pathlib.Path(x).expanduser() for x in (workdir, out))
  strict.require(not target.exists(), "out", out, "exists; choose another name")
  try:
    run = json.loads((root / "config.json").read_text())
    source = source or run["pretrained"]
    dtype = run["model"]["param_dtype"]
  except (OSError, ValueError, KeyError) as e:
    raise strict.ConfigError(
      "workdir", workdir, f"is not the directory of a run: {e}") from e
  strict.require(
    source != "", "source", source,
    "is needed: the run started from random parameters, not from a published "
    "checkpoint whose format and tokenizer the result could have")
  cfg, hf = families.read_config(source, dtype=dtype)
  model = transformer.build(cfg, hf["mask_token_id"])
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device),
    jax.eval_shape(model.init, jax.random.key(0)))
  try:
    params = checkpoint.load_params(root / "checkpoints", abstract)
  except FileNotFoundError as e:
    raise strict.ConfigError("workdir", workdir, str(e)) from e
  hf_checkpoints.save(params, source, target)


def main(argv: list[str]) -> None:
  """Exports, and turns what users cause into one clear line."""
  del argv
  logging.set_verbosity(logging.WARNING)
  try:
    export(flags.FLAGS.workdir, flags.FLAGS.out, flags.FLAGS.source)
  except (strict.ConfigError, ValueError) as e:
    print(f"dlrl: {e}", file=sys.stderr, flush=True)
    sys.exit(2)
  progress.say(f"wrote {flags.FLAGS.out}")


if __name__ == "__main__":
  # Here, because other programs have flags of these names, too.
  flags.DEFINE_string("workdir", None, "of a run", required=True)
  flags.DEFINE_string("out", None, "must not exist", required=True)
  flags.DEFINE_string(
    "source", "",
    "the published checkpoint, if it is not where the run had it")
  app.run(main)
