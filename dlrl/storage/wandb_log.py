"""A run's rows in Weights & Biases, too, for those who ask for it."""

import contextlib
import pathlib
import secrets
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax

from dlrl.storage import workdir as workdir_lib

# (step, its row)
Log = Callable[[int, Mapping[str, Any]], None]


@contextlib.contextmanager
def wandb(project: str, workdir: pathlib.Path, settings: dict[str, Any]
          ) -> Iterator[Log]:
  """Where rows are logged to, of process 0; with no project, nowhere.

  A run that is started again continues under the id it had, `wandb_id`. Rows
  that it writes a second time are the same, and W&B leaves them out.

  Args:
    project: of W&B; "": none.
    workdir: of the run.
    settings: shown with it.
  """
  if not project or jax.process_index():
    yield lambda step, row: None
    return
  import wandb as library  # optional

  name = workdir / "wandb_id"
  if not name.exists():
    workdir_lib.write_text(name, secrets.token_hex(8))
  run = library.init(
    project=project, id=name.read_text(encoding="utf-8"), resume="allow",
    dir=str(workdir), config=settings)
  try:
    yield lambda step, row: run.log(dict(row), step=step)
  finally:
    run.finish()
