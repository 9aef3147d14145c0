"""The settings and the parameters of a run, for programs that use its results.
"""

from typing import Any

import ml_collections

from dlrl import config
from dlrl import strict
from dlrl.models import lora
from dlrl.run import setup as setup_lib
from dlrl.runtime import own_files
from dlrl.runtime import processes
from dlrl.storage import checkpoint
from dlrl.storage import metrics
from dlrl.storage import output_paths

METRIC = "eval/solved"  # decides which checkpoint is best


def settings(workdir: str) -> ml_collections.ConfigDict:
  """The run's config; settings that are newer than the run have defaults.

  Raises:
    strict.FlagError: `workdir` is not the directory of a run.
  """
  path = output_paths.path("workdir", workdir) / "config.json"
  try:
    values = config.default()
    values.update(own_files.read_object(path))
    return values
  except (ValueError, TypeError, AttributeError) as e:
    raise strict.FlagError(
      "workdir", workdir, f"is not the directory of a run: {e}") from e


def step(workdir: str, which: str) -> int:
  """The step of one of the run's checkpoints.

  Args:
    workdir: the run's directory.
    which: a step; `latest`; or `best`, the kept checkpoint that solved most of
      the items evaluated during training, and the latest of equally good ones.

  Raises:
    strict.FlagError: the run has no such checkpoint.
  """
  root = output_paths.path("workdir", workdir)
  there = checkpoint.steps(root / "checkpoints")
  if not there:
    raise strict.FlagError("workdir", workdir, "has no checkpoint yet")
  if which == "latest":
    return there[-1]
  if which == "best":
    solved = {row["step"]: row[METRIC] for row in metrics.rows(root)
              if row["step"] in there and METRIC in row}
    if not solved:
      raise strict.FlagError(
        "checkpoint", which, f"none of the steps {there} was evaluated; name "
        "one, or train with checkpoint_every a multiple of eval.every")
    return max(solved, key=lambda s: (solved[s], s))
  if not which.isdecimal() or int(which) not in there:
    raise strict.FlagError(
      "checkpoint", which,
      f"choose from latest, best, {', '.join(map(str, there))}")
  return int(which)


def policy(setup: setup_lib.Setup, workdir: str, which: str
           ) -> tuple[Any, int]:
  """The policy of a checkpoint, as the model takes it, and its step.

  Args:
    setup: the run's fixed parts.
    workdir: the run's directory. The run may go on: `latest` is then a step
      that was the latest while this was called.
    which: the checkpoint, see `step`.

  Raises:
    strict.ConfigError: there is no such checkpoint, the run replaced it
      meanwhile, or it is of another model or base.
  """
  root = output_paths.path("workdir", workdir) / "checkpoints"

  def read(at: int) -> tuple[Any, dict[str, Any], int]:
    return (checkpoint.load_params(root, setup.abstract_trained(), step=at),
            checkpoint.load_meta(root, step=at), at)

  chosen = processes.by_first(lambda: step(workdir, which))
  try:
    trained, meta, at = (
      checkpoint.newest(root, read) if which == "latest" else read(chosen))
  except (FileNotFoundError, ValueError) as e:
    gone = chosen not in checkpoint.steps(root)
    raise strict.FlagError(
      *(("checkpoint", which) if gone else ("workdir", workdir)),
      f"the run removed step {chosen} while it was read; choose another, or "
      "let it keep more (checkpoint_keep)" if gone else str(e)) from e
  base = setup.load_base()
  base.check(meta.get("base", ""))
  return lora.join(base.params, trained), at
