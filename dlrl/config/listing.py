"""The list of all settings, for the documentation and for `--help`."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import NamedTuple

from dlrl import strict
from dlrl.config.run import Config


class Setting(NamedTuple):
  """A setting as the documentation shows it.

  Attributes:
    name: with its sections, `learn.n_mc`.
    type: as in dlrl/config, `int` or `tuple[float, ...]`.
    default: its value in `config.Config()`.
    unit: of the value; "" if it has none.
    meaning: one sentence or less.
    allowed: bounds or choices in words; "" if any value of the type may do.
    restart: whether another value may be given when a run goes on.
  """

  name: str
  type: str
  default: object
  unit: str
  meaning: str
  allowed: str
  restart: str


def settings(choices: Mapping[str, Collection[str]]) -> Iterator[Setting]:
  """Every setting, in the order of dlrl/config.

  Args:
    choices: what settings may be whose choices are not beside them, such as
      `validate.CHOICES`.
  """
  for name, field, default in strict.knobs(Config()):
    kind = strict.find(Config, name, "")
    allowed = (strict.one_of(choices[name]) if name in choices
               else str(field.metadata["bounds"]))
    yield Setting(
      name, kind.__name__ if isinstance(kind, type) and not
      getattr(kind, "__args__", ()) else str(kind), default,
      field.metadata["unit"], field.metadata["meaning"], allowed,
      str(field.metadata["restart"]))
