"""The parameters and the settings of a run, for programs that come after it."""

import json
import pathlib
from typing import Any

import ml_collections

from dlrl import config
from dlrl import strict
from dlrl.models import lora
from dlrl.run import setup as setup_lib
from dlrl.storage import checkpoint
from dlrl.storage import metrics

METRIC = "eval/solved"  # what the best checkpoint is best at


def settings(workdir: str) -> ml_collections.ConfigDict:
  """The run's config; what has been added to `config` since has its default.

  Raises:
    strict.ConfigError: it is not the directory of a run.
  """
  path = pathlib.Path(workdir).expanduser() / "config.json"
  try:
    values = config.default()
    values.update(json.loads(path.read_text()))
    return values
  except (OSError, ValueError, TypeError) as e:
    raise strict.ConfigError(
      "workdir", workdir, f"is not the directory of a run: {e}") from e


def step(workdir: str, which: str) -> int:
  """The step of one of the run's checkpoints.

  Args:
    workdir: of the run.
    which: a number; `latest`; or `best`: of the checkpoints that are there the
      one that solved most of the items evaluated on the way, the later of
      equal ones.

  Raises:
    strict.ConfigError: there is no such checkpoint.
  """
  root = pathlib.Path(workdir).expanduser()
  there = checkpoint.steps(root / "checkpoints")
  strict.require(bool(there), "workdir", workdir, "has no checkpoint yet")
  if which == "latest":
    return there[-1]
  if which == "best":
    solved = {row["step"]: row[METRIC] for row in metrics.rows(root)
              if row["step"] in there and METRIC in row}
    strict.require(
      bool(solved), "checkpoint", which, f"none of {there} was evaluated; "
      "let checkpoint_every be a multiple of eval.every")
    return max(solved, key=lambda s: (solved[s], s))
  strict.require(
    which.isdecimal() and int(which) in there, "checkpoint", which,
    f"choose from latest, best, {', '.join(map(str, there))}")
  return int(which)


def policy(setup: setup_lib.Setup, workdir: str, step: int) -> Any:
  """What the model takes: parameters, or adapters on their base.

  Raises:
    strict.ConfigError: the checkpoint is of another model or base.
  """
  root = pathlib.Path(workdir).expanduser() / "checkpoints"
  try:
    trained = checkpoint.load_params(
      root, setup.abstract_trained(), step=step)
  except ValueError as e:
    raise strict.ConfigError("workdir", workdir, str(e)) from e
  base = setup.load_base()
  base.check(checkpoint.load_meta(root, step=step).get("base", ""))
  return lora.join(base.params, trained)
