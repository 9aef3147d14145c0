"""What a run starts from: the parameters of another, pretrained or random ones.

Beneath adapters they stay as they are. They are then read or made anew whenever
the run is started, and never saved; its checkpoints hold their fingerprint.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax

from dlrl import config
from dlrl import strict
from dlrl.models import hf_checkpoints
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.storage import array_checksums
from dlrl.storage import checkpoint


def params(
  cfg: config.Config, model: transformer.Model, abstract: Any
) -> transformer.Params:
  """The parameters that a run starts from, or keeps frozen.

  Those of `init_from`, or of `pretrained`, or random ones.

  Args:
    cfg: of the run.
    model: of the run.
    abstract: of all parameters, as wanted.

  Raises:
    strict.ConfigError: there is no checkpoint in `init_from` that would do.
    ValueError: files of `pretrained` do not fit its config.json.
  """
  if cfg.init_from:
    return _params_of_run(cfg.init_from, abstract)
  if cfg.pretrained:
    return hf_checkpoints.load_params(cfg.pretrained, abstract)
  init = jax.jit(
    model.init, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))
  return init(jax.random.fold_in(jax.random.key(cfg.seed), 0))


def _params_of_run(workdir: str, abstract: Any) -> transformer.Params:
  root = pathlib.Path(workdir).expanduser()
  run = root / "config.json"
  adapted = run.exists() and (
    json.loads(run.read_text()).get("lora", {}).get("rank"))
  strict.require(
    not adapted, "init_from", workdir, "its checkpoint holds adapters alone; "
    "merge them by dlrl.export and set config.pretrained to the result")
  try:
    return checkpoint.load_params(root / "checkpoints", abstract)
  except (FileNotFoundError, ValueError) as e:
    raise strict.ConfigError("init_from", workdir, str(e)) from e


@dataclasses.dataclass(frozen=True)
class Base:
  """Frozen parameters.

  Attributes:
    params: nested dicts, quantised as configured; None: all are trained.
    id: fingerprint of them as they were read; "" without any.
    field: of the config that says where they come from.
    value: of that field.
  """

  params: Any = None
  id: str = ""
  field: str = "lora.rank"
  value: object = 0

  def check(self, wanted: str) -> None:
    """Compares with the `id` saved in a checkpoint.

    Raises:
      strict.ConfigError: it was saved with another base.
    """
    strict.require(
      self.id == wanted, self.field, self.value,
      "gives other parameters than those the adapters in the checkpoint were "
      "trained on; restore them, or start again in another --workdir")


NONE = Base()


def base(cfg: config.Config, model: transformer.Model, abstract: Any) -> Base:
  """The base of a run; `NONE` of one that trains all parameters.

  Args:
    cfg: of the run.
    model: of the run.
    abstract: of all parameters, as wanted before they are quantised.

  Raises:
    as `params`.
  """
  if not cfg.lora.rank:
    return NONE
  field = ("init_from" if cfg.init_from else
           "pretrained" if cfg.pretrained else "seed")
  found = params(cfg, model, abstract)
  identity = array_checksums.fingerprint(found)
  quantized.quantize(found, abstract, cfg.lora.quantize, lora.MATRICES)
  return Base(found, identity, field, getattr(cfg, field))
