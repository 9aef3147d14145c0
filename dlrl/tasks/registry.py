"""All tasks by name; one line of `TASKS` each."""

import dataclasses
import functools
from collections.abc import Callable

from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import data as code_data
from dlrl.tasks.coding import grading as code_grading
from dlrl.tasks.coding import prompts as code_prompts
from dlrl.tasks.coding import results as code_results
from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import drawn_data as countdown_drawn_data
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.countdown import prompts as countdown_prompts
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import computed
from dlrl.tasks.datasets import published
from dlrl.tasks.datasets import published_puzzles
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import competition_data
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.mathematics import gsm8k_data
from dlrl.tasks.mathematics import prompts as math_prompts
from dlrl.tasks.sudoku import data as sudoku_data
from dlrl.tasks.sudoku import data_9x9
from dlrl.tasks.sudoku import grading as sudoku
from dlrl.tasks.sudoku import prompts as sudoku_prompts

_COUNTDOWN = task_lib.Task(
    load=functools.partial(
        countdown_data.load, countdown_data.Countdown3),
    prompts=countdown_prompts.PROMPTS,
    rewards={"solved": countdown.solved_reward},
    metrics=countdown.metrics,
    difficulties=countdown_data.DIFFICULTIES,
    version="1.1.0",
    checksum=checked.whole_checksum(countdown_data.Countdown3),
    template=countdown.template,
    fields=countdown_prompts.FIELDS,
)
_SUDOKU = task_lib.Task(
    load=sudoku_data.load,
    prompts=sudoku_prompts.PROMPTS,
    rewards={"solved": sudoku.solved_reward, "units": sudoku.units_reward},
    metrics=sudoku.metrics,
    difficulties=sudoku_data.DIFFICULTIES,
    version="1.1.0",
    checksum=checked.whole_checksum(sudoku_data.Sudoku4x4),
    template=sudoku.template,
    fields=sudoku_prompts.FIELDS,
)


def _of(
  builder: type[published.Published],
  load: Callable[..., task_lib.Examples],
  base: task_lib.Task,
) -> task_lib.Task:
  """The task on the rows of a published dataset."""
  return dataclasses.replace(
    base, load=load, difficulties=builder.DIFFICULTIES,
    checksum=checked.whole_checksum(builder))


def _drawn(builder: type[computed.Puzzles]) -> task_lib.Task:
  """Countdown with the builder's problems."""
  return dataclasses.replace(
    _COUNTDOWN, load=functools.partial(countdown_data.load, builder),
    version="1.0.0", checksum=checked.whole_checksum(builder))


_GSM8K = task_lib.Task(
    load=gsm8k_data.load,
    prompts=math_prompts.GSM8K,
    rewards={"solved": gsm8k.correct_reward, "format": gsm8k.format_reward},
    metrics=gsm8k.metrics,
    difficulties=gsm8k_data.Gsm8k.DIFFICULTIES,
    version="1.0.0",
    checksum=checked.whole_checksum(gsm8k_data.Gsm8k),
    answer=gsm8k.answer,
    fields=math_prompts.GSM8K_FIELDS,
)
_MATH = task_lib.Task(
    load=competition_data.load,
    prompts=math_prompts.MATH,
    rewards={"solved": competition.correct_reward,
             "format": competition.format_reward},
    metrics=competition.metrics,
    difficulties=competition_data.Math.DIFFICULTIES,
    version="1.0.0",
    checksum=checked.whole_checksum(competition_data.Math),
    answer=competition.answer,
    fields=math_prompts.MATH_FIELDS,
)
_MBPP = task_lib.Task(
  load=code_data.load_mbpp,
  prompts=code_prompts.MBPP,
  rewards={
    "solved": code_grading.passed_reward,
    "tests": code_grading.fraction_reward,
    "format": code_grading.format_reward,
  },
  metrics=code_grading.metrics,
  difficulties=code_data.Mbpp.DIFFICULTIES,
  version="1.0.0",
  checksum=checked.whole_checksum(code_data.Mbpp),
  answer=code_grading.answer,
  start=code_results.start,
  fields=code_prompts.FIELDS,
  extras=code_prompts.EXTRAS,
)

TASKS = {
  "countdown": _COUNTDOWN,
  "countdown4": _drawn(countdown_drawn_data.Countdown4),
  "countdown5": _drawn(countdown_drawn_data.Countdown5),
  "countdown_d1": _of(
    published_puzzles.CountdownD1,
    published_puzzles.load_countdown_d1,
    _COUNTDOWN,
  ),
  "countdown_digits": dataclasses.replace(
    _COUNTDOWN,
    load=functools.partial(countdown_data.load, countdown_data.CountdownDigits),
    prompts=countdown_prompts.DIGITS,
    checksum=checked.whole_checksum(countdown_data.CountdownDigits),
  ),
  "gsm8k": _GSM8K,
  "humaneval": dataclasses.replace(
    _of(code_data.HumanEval, code_data.load_humaneval, _MBPP),
    prompts=code_prompts.HUMANEVAL,
    extras={},
  ),
  "math": _MATH,
  "math_4500": _of(
    competition_data.Math4500, competition_data.load_4500, _MATH
  ),
  "math_500": _of(competition_data.Math500, competition_data.load_500, _MATH),
  "math_5000": _of(
    competition_data.Math5000, competition_data.load_5000, _MATH
  ),
  "mbpp": _MBPP,
  "mbpp_sanitized": _of(
    code_data.MbppSanitized, code_data.load_mbpp_sanitized, _MBPP
  ),
  "sudoku": _SUDOKU,
  "sudoku9": dataclasses.replace(
    _SUDOKU,
    load=data_9x9.load,
    prompts=sudoku_prompts.PROMPTS9,
    difficulties=data_9x9.DIFFICULTIES,
    version="1.0.0",
    checksum=checked.whole_checksum(data_9x9.Sudoku9x9),
  ),
  "sudoku_d1": _of(
    published_puzzles.SudokuD1, published_puzzles.load_sudoku_d1, _SUDOKU
  ),
  "sudoku_spg": _of(
    published_puzzles.SudokuSpg, published_puzzles.load_sudoku_spg, _SUDOKU
  ),
}
