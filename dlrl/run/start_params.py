"""The parameters that a run starts from: another run's, published or random.

Beneath adapters they are frozen: loaded or made again at every start and never
saved. Checkpoints of adapters hold their fingerprint.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.buckets import mirror
from dlrl.buckets import objects
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.runtime import own_files
from dlrl.storage import array_checksums
from dlrl.storage import checkpoint


def params(
  cfg: config.Config, model: transformer.Model, abstract: Any
) -> transformer.Params:
  """Loads the parameters of `init_from` or `pretrained`, or draws random ones.

  Args:
    cfg: the run's settings.
    model: initialises random parameters.
    abstract: the shapes, dtypes and shardings wanted.

  Raises:
    strict.ConfigError: `init_from` has no checkpoint that fits.
    ValueError: the files of `pretrained` do not fit its config.json.
  """
  if cfg.init_from:
    return _params_of_run(cfg.init_from, abstract)
  if cfg.pretrained:
    return hf_checkpoints.load_params(
      cfg.pretrained, abstract, family=families.named(cfg.family))
  init = jax.jit(
    model.init, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))
  return init(keys_lib.of(jax.random.key(cfg.seed), keys_lib.Seed.PARAMS))


def _params_of_run(init_from: str, abstract: Any) -> transformer.Params:
  workdir, at, step = init_from.rpartition("@")
  try:
    named = at and step.isdecimal() and (
      objects.named(init_from)
      or not pathlib.Path(init_from).expanduser().exists())
    root = _local(workdir if named else init_from)
    run = root / "config.json"
    # Checkpoints alone are enough, and settings may be of another version.
    lora_of_run = own_files.read_object(run).get("lora") if run.exists() else {}
  except (strict.ConfigError, objects.BucketError):
    raise
  except (ValueError, RuntimeError) as e:  # no home for `~user`
    raise strict.ConfigError(
      "init_from", init_from, f"its config.json is not of a run ({e}); restore "
      "it, or name another run") from e
  strict.require(
    not (isinstance(lora_of_run, dict) and lora_of_run.get("rank")),
    "init_from", init_from, "its checkpoint holds only adapters; "
    "merge them with dlrl.export and set config.pretrained to the result")
  try:
    return checkpoint.load_params(
      root / "checkpoints", abstract, step=int(step) if named else None)
  except (FileNotFoundError, ValueError) as e:
    raise strict.ConfigError("init_from", init_from, str(e)) from e


def _local(init_from: str) -> pathlib.Path:
  """The directory of a run, or its local copy."""
  if objects.named(init_from):
    return mirror.local(
      init_from, functools.partial(strict.ConfigError, "init_from", init_from))
  return pathlib.Path(init_from).expanduser()


@dataclasses.dataclass(frozen=True)
class Base:
  """Frozen parameters beneath adapters.

  Attributes:
    params: nested dicts, quantised as configured; None if all are trained.
    id: their fingerprint before quantisation; "" if there are none.
    field: the setting that they come from, for messages.
    value: the setting's value.
  """

  params: Any = None
  id: str = ""
  field: str = "lora.rank"
  value: object = 0

  def check(self, wanted: str) -> None:
    """Checks that a checkpoint's adapters were trained on this base.

    Raises:
      strict.ConfigError: `wanted`, the `id` in the checkpoint, is another's.
    """
    strict.require(
      self.id == wanted, self.field, self.value,
      "gives other parameters than those that the checkpoint's adapters were "
      "trained on; restore them, or start again in another --workdir")


NONE = Base()


def base(cfg: config.Config, model: transformer.Model, abstract: Any) -> Base:
  """The base of a run; `NONE` if it trains all parameters.

  Arguments and errors are those of `params`; `abstract` is before quantisation.
  """
  if not cfg.lora.rank:
    return NONE
  field = ("init_from" if cfg.init_from else
           "pretrained" if cfg.pretrained else "seed")
  found = params(cfg, model, abstract)
  identity = array_checksums.fingerprint(found)
  quantized.quantize(
    found, abstract, cfg.lora.quantize, lora.paths(found, lora.MATRICES))
  return Base(found, identity, field, getattr(cfg, field))
