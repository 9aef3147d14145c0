"""Optional logging of metrics rows to Weights & Biases."""

import contextlib
import pathlib
import secrets
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax

from dlrl.storage import workdir as workdir_lib

# Called with (step, row).
Log = Callable[[int, Mapping[str, Any]], None]


@contextlib.contextmanager
def wandb(project: str, workdir: pathlib.Path, settings: dict[str, Any]
          ) -> Iterator[Log]:
  """A function that logs rows to W&B; it does nothing without a project.

  Only process 0 logs. A restarted run continues under the id in
  `workdir/wandb_id`. W&B drops the rows that it logs a second time.

  Args:
    project: project of W&B; "": none.
    workdir: directory of the run.
    settings: the config that W&B shows with the run.
  """
  if not project or jax.process_index():
    yield lambda step, row: None
    return
  import wandb as library  # an optional dependency

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
