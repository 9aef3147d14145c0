"""What a loop keeps to be continued: its state, its data and its clock."""

import dataclasses
from typing import Any

from dlrl import update
from dlrl.run import session
from dlrl.run import start_params
from dlrl.runtime import clock as clock_lib
from dlrl.storage import checkpoint


def save(
  run: session.Session,
  step: int,
  state: update.TrainState,
  batches: Any,
  clock: clock_lib.Clock,
  base: start_params.Base,
) -> None:
  """Begins a checkpoint; of the base it holds the fingerprint alone."""
  run.dog.begin("checkpoint")
  run.writer.flush()  # the rows up to a checkpoint are there if it is
  run.checkpoints.save(step, state.saved, batches,
                       {"seconds": clock.totals, "base": base.id})


def restore(
  checkpoints: checkpoint.Checkpoints,
  abstract: update.TrainState,
  batches: Any,
  base: start_params.Base,
) -> tuple[update.TrainState, clock_lib.Clock, int] | None:
  """`(state, clock, step)` of the newest checkpoint; None: there is none.

  Args:
    checkpoints: of the loop.
    abstract: the state's shapes with shardings.
    batches: the loop's iterator; is set to the saved position.
    base: what adapters are on; joins the state.

  Raises:
    strict.ConfigError: it was saved with another base.
    ValueError: it is of another model.
  """
  restored = checkpoints.restore_latest(abstract.saved, batches)
  if restored is None:
    return None
  state, meta, step = restored
  base.check(meta["base"])
  state = dataclasses.replace(state, base=base.params)
  return state, clock_lib.Clock(meta["seconds"]), step
