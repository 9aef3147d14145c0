"""Errors that name what the user typed."""

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
