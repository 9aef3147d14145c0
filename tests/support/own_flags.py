"""Flags of one command, whatever flags the tests of a process have defined."""

import contextlib
from collections.abc import Iterator

import pytest
from absl import flags

from dlrl import commands


@contextlib.contextmanager
def of(command: str) -> Iterator[flags.FlagValues]:
  """`flags.FLAGS` with the flags of `command`, and those of libraries.

  Benchmarks define some of the same names when they are imported, for all tests
  in the process.
  """
  own, values = flags.FlagValues(), flags.FlagValues()
  commands.define(command, own)
  values.append_flag_values(flags.FLAGS)
  for name in own:
    if name in values:
      delattr(values, name)
  # Again, not `own`: the flags of settings are defined where the config's is.
  commands.define(command, values)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(flags, "FLAGS", values)
    yield values
