"""What can be learned: one file per task, one line per task in `TASKS`."""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl.tasks import countdown
from dlrl.tasks import countdown_dataset
from dlrl.tasks import sudoku
from dlrl.tasks import sudoku_dataset


@dataclasses.dataclass(frozen=True)
class Task:
  """Rows, rewards and metrics of one task.

  A row has the texts `prompt` and `solution`, the ints `difficulty` and
  `index`, and may have more columns; rewards and metrics are called with
  `(prompts, completions, **columns)`.
  """

  # (data_dir, split, (low, high), *, field) -> rows with random access
  load: Callable[..., Sequence[Mapping[str, Any]]]
  rewards: Mapping[str, Callable[..., list[float]]]
  metrics: Callable[..., dict[str, list[float]]]
  difficulties: tuple[int, int]  # least and greatest that `load` knows
  # prompt -> what is known of any answer: texts, and numbers of tokens that
  # are not known; eos follows. None: nothing is.
  template: Callable[[str], Sequence[str | int]] | None = None


COUNTDOWN = Task(
    load=countdown_dataset.load,
    rewards={"solved": countdown.solved_reward},
    metrics=countdown.metrics,
    difficulties=countdown_dataset.DIFFICULTIES,
    template=countdown.template,
)
TASKS = {
    "countdown": COUNTDOWN,
    "countdown_digits": dataclasses.replace(
        COUNTDOWN, load=countdown_dataset.load_digits),
    "sudoku": Task(
        load=sudoku_dataset.load,
        rewards={"solved": sudoku.solved_reward, "units": sudoku.units_reward},
        metrics=sudoku.metrics,
        difficulties=sudoku_dataset.DIFFICULTIES,
        template=sudoku.template,
    ),
}
