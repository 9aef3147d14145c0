"""Optional logging of metrics rows and samples to Weights & Biases."""

import contextlib
import math
import pathlib
import secrets
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax

from dlrl.runtime import terminal
from dlrl.storage import samples as samples_lib
from dlrl.storage import workdir as workdir_lib


class Tracker(NamedTuple):
  """Logs to W&B, or nowhere.

  Attributes:
    row: called with a step and its metrics.
    samples: called with a step and completions of it; they become a table, with
      texts escaped as in `samples.table`.
  """

  row: Callable[[int, Mapping[str, Any]], None]
  samples: Callable[[int, Sequence[samples_lib.Sample]], None]


NOWHERE = Tracker(lambda step, row: None, lambda step, samples: None)


@contextlib.contextmanager
def wandb(project: str, workdir: pathlib.Path, settings: dict[str, Any]
          ) -> Iterator[Tracker]:
  """Logs to W&B; nowhere without a project.

  Only process 0 logs. A restarted run continues under the id in
  `workdir/wandb_id`. W&B drops the rows that it logs a second time.

  Args:
    project: project of W&B; "": none.
    workdir: directory of the run.
    settings: the config that W&B shows with the run.
  """
  if not project or jax.process_index():
    yield NOWHERE
    return
  import wandb as library  # an optional dependency

  name = workdir / "wandb_id"
  if not name.exists():
    workdir_lib.write_text(name, secrets.token_hex(8))
  run = library.init(
    project=project, id=name.read_text(encoding="utf-8"), resume="allow",
    dir=str(workdir), config=settings)
  try:
    yield Tracker(
      lambda step, row: run.log(dict(row), step=step),
      lambda step, samples: run.log({"samples": library.Table(
        columns=list(samples_lib.Sample._fields),
        data=[_cells(sample) for sample in samples])}, step=step))
  finally:
    run.finish()


def _cells(sample: samples_lib.Sample) -> list[str | float | None]:
  return [terminal.escaped(sample.prompt), terminal.escaped(sample.completion),
          None if math.isnan(sample.reward) else sample.reward]
