"""Errors that name what the user typed."""

import dataclasses
import math

import pytest

from dlrl import strict
from dlrl.runtime import processes


@pytest.mark.parametrize(("kind", "field", "message"), [
  (strict.ConfigError, "learn.n_mc", "config.learn.n_mc = 0: fix"),
  (strict.FlagError, "n_mc", "--n_mc=0: fix"),
  (strict.ArgumentError, "generate.n_mc", "generate(n_mc=0): fix"),
])
def test_a_message_names_a_setting_a_flag_or_an_argument(kind, field, message):
  with pytest.raises(kind) as error:
    strict.require(False, field, 0, "fix", kind)
  assert str(error.value) == message
  assert (error.value.field, error.value.value, error.value.fix) == (
    field, 0, "fix")


def test_the_other_processes_report_the_error_of_the_first(monkeypatch):
  def refuse():
    raise strict.FlagError("workdir", "runs/a", "in use")

  monkeypatch.setattr(processes, "joined", lambda: 2)
  monkeypatch.setattr(processes, "gather", lambda value: [value, None])
  with pytest.raises(strict.FlagError) as error:
    processes.by_first(refuse)
  assert str(error.value) == "--workdir=runs/a: in use"


def test_one_problem_is_raised_as_it_is_and_none_is_not():
  problems = strict.Problems()
  problems.finish()
  problems.require(True, "steps", 1, "fix")
  problems.require(False, "out", "a", "exists", strict.FlagError)
  problems.require(False, "out", "a", "is a file", strict.FlagError)
  with pytest.raises(strict.FlagError) as error:
    problems.finish()
  assert str(error.value) == "--out=a: exists"


def test_a_section_with_a_problem_makes_its_fields_unsound_and_the_reverse():
  problems = strict.Problems()
  problems.add(strict.ConfigError("learn.loss", 0, "fix"))
  problems.add(strict.ConfigError("mesh", 0, "fix"))
  assert not problems.sound("learn.loss")
  assert not problems.sound("steps", "learn")
  assert not problems.sound("mesh.data")
  assert problems.sound("learn.loss_args", "learn.n_mc", "steps")


@dataclasses.dataclass(frozen=True)
class Inner:
  share: float = strict.knob(0.5, "a share", at_least=0, at_most=1)
  rate: float = strict.knob(1.0, "a rate", above=0)
  offset: float = strict.knob(0.0, "any number")


@dataclasses.dataclass(frozen=True)
class Outer:
  count: int = strict.knob(1, "a count", at_least=1)
  kind: str = strict.knob("a", "a kind", choices=("a", "b"))
  inner: Inner = Inner()


@pytest.mark.parametrize(("values", "message"), [
  (Outer(count=0), "f(count=0): must be at least 1"),
  (Outer(kind="c"), "f(kind='c'): choose from 'a', 'b'"),
  (Outer(inner=Inner(share=1.5)), "f.inner(share=1.5): must be in 0..1"),
  (Outer(inner=Inner(rate=0.0)), "f.inner(rate=0.0): must be above 0"),
  (Outer(inner=Inner(rate=math.nan)), "f.inner(rate=nan): must be above 0"),
  (Outer(inner=Inner(rate=math.inf)), "f.inner(rate=inf): must be finite"),
  (Outer(inner=Inner(share=-math.inf)), "f.inner(share=-inf): must be finite"),
  (Outer(inner=Inner(offset=math.inf)), "f.inner(offset=inf): must be finite"),
  (Outer(inner=Inner(rate=1e300)), "f.inner(rate=1e+300): must be finite"),
  (Outer(inner=Inner(offset=-1e39)), "f.inner(offset=-1e+39): must be finite"),
  (Outer(inner=Inner(offset=math.nan)), "f.inner(offset=nan): must be finite"),
])
def test_bounds_are_those_beside_the_knob(values, message):
  problems = strict.Problems()
  strict.check_bounds(Outer(), problems, "f.{}".format, strict.ArgumentError)
  assert not problems.found
  strict.check_bounds(values, problems, "f.{}".format, strict.ArgumentError)
  assert list(map(str, problems.found)) == [message]
