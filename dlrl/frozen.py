"""The frozen parameters beneath adapters: made anew, never saved, but checked.

They are those of `init_from` or of `pretrained`, read again, or random ones of
the same seed. A run's checkpoints hold its adapters and the fingerprint of what
they were trained on.
"""

import dataclasses
from typing import Any

from dlrl import setup as setup_lib
from dlrl import update
from dlrl.models import quantized
from dlrl.runtime import checkpoint
from dlrl.runtime import strict


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

  def under(self, state: update.State, wanted: str) -> update.State:
    """A restored state with its base.

    Args:
      state: from a checkpoint.
      wanted: the `id` saved with it.

    Raises:
      strict.ConfigError: this is not the base it was saved with.
    """
    strict.require(
      self.id == wanted, self.field, self.value,
      "gives other parameters than those the adapters in the checkpoint were "
      "trained on; restore them, or start again in another --workdir")
    return dataclasses.replace(state, base=self.params)


NONE = Base()


def load(setup: setup_lib.Setup) -> Base:
  """The base of a run; `NONE` of one that trains all parameters.

  Raises:
    as `setup.initial_params`.
  """
  cfg = setup.cfg
  if not cfg.lora.rank:
    return NONE
  field = ("init_from" if cfg.init_from else
           "pretrained" if cfg.pretrained else "seed")
  params = setup.init_params()
  identity = checkpoint.fingerprint(params)
  params = quantized.quantize(
    params, setup.abstract_base(), cfg.lora.quantize)
  return Base(params, identity, field, getattr(cfg, field))
