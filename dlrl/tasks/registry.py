"""All tasks by name, in one explicit table.

A task is prompts, rewards and metrics on a dataset. Variants share all that
with a base, except for the dataset and what the table says.
"""

import dataclasses
from typing import Any

from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import data as code_data
from dlrl.tasks.coding import grading as code
from dlrl.tasks.coding import prompts as code_prompts
from dlrl.tasks.coding import results as code_results
from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import drawn_data as countdown_drawn_data
from dlrl.tasks.countdown import four_digits as countdown_four_digits
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.countdown import prompts as countdown_prompts
from dlrl.tasks.countdown import published_data as countdown_published_data
from dlrl.tasks.datasets import checked
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import competition_data
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.mathematics import gsm8k_data
from dlrl.tasks.mathematics import prompts as math_prompts
from dlrl.tasks.number_between import data as between_data
from dlrl.tasks.number_between import grading as between
from dlrl.tasks.number_between import prompts as between_prompts
from dlrl.tasks.sudoku import data as sudoku_data
from dlrl.tasks.sudoku import data_9x9 as sudoku_data_9x9
from dlrl.tasks.sudoku import grading as sudoku
from dlrl.tasks.sudoku import prompts as sudoku_prompts
from dlrl.tasks.sudoku import published_data as sudoku_published_data


def _task(dataset: checked.Dataset, **parts: Any) -> task_lib.Task:
  return task_lib.Task(
    load=dataset.load, difficulties=dataset.difficulties,
    checksum=dataset.checksum, **parts)


def _variant(base: task_lib.Task, dataset: checked.Dataset, **changes: Any
             ) -> task_lib.Task:
  return dataclasses.replace(
    base, load=dataset.load, difficulties=dataset.difficulties,
    checksum=dataset.checksum, **changes)


_COUNTDOWN = _task(
  countdown_data.COUNTDOWN3,
  version="1.1.0",
  prompts=countdown_prompts.PROMPTS,
  rewards={"solved": countdown.solved_reward},
  metrics=countdown.metrics,
  template=countdown.template,
  fields=countdown_prompts.FIELDS,
)
_SUDOKU = _task(
  sudoku_data.SUDOKU4X4,
  version="1.1.0",
  prompts=sudoku_prompts.PROMPTS,
  rewards={"solved": sudoku.solved_reward, "units": sudoku.units_reward},
  metrics=sudoku.metrics,
  template=sudoku.template,
  fields=sudoku_prompts.FIELDS,
)
_NUMBER_BETWEEN = _task(
  between_data.BETWEEN,
  version="1.0.0",
  prompts=between_prompts.PROMPTS,
  rewards={"solved": between.solved_reward},
  metrics=between.metrics,
  fields=between_prompts.FIELDS,
)
_GSM8K = _task(
  gsm8k_data.GSM8K,
  version="1.0.0",
  prompts=math_prompts.GSM8K,
  rewards={"solved": gsm8k.correct_reward, "format": gsm8k.format_reward},
  metrics=gsm8k.metrics,
  answer=gsm8k.answer,
  fields=math_prompts.GSM8K_FIELDS,
)
_MATH = _task(
  competition_data.MATH,
  version="1.0.0",
  prompts=math_prompts.MATH,
  rewards={"solved": competition.correct_reward,
           "format": competition.format_reward},
  metrics=competition.metrics,
  answer=competition.answer,
  fields=math_prompts.MATH_FIELDS,
)
_MBPP = _task(
  code_data.MBPP,
  version="1.0.0",
  prompts=code_prompts.MBPP,
  rewards={"solved": code.passed_reward, "tests": code.fraction_reward,
           "format": code.format_reward},
  metrics=code.metrics,
  answer=code.answer,
  start=code_results.start,
  fields=code_prompts.FIELDS,
  extras=code_prompts.EXTRAS,
)

TASKS = {
  "countdown": _COUNTDOWN,
  "countdown4": _variant(
    _COUNTDOWN, countdown_drawn_data.COUNTDOWN4, version="1.0.0"),
  "countdown5": _variant(
    _COUNTDOWN, countdown_drawn_data.COUNTDOWN5, version="1.0.0"),
  "countdown_d1": _variant(_COUNTDOWN, countdown_published_data.COUNTDOWN_D1),
  "countdown_digits": _variant(
    _COUNTDOWN, countdown_data.COUNTDOWN_DIGITS,
    prompts=countdown_prompts.DIGITS),
  "countdown_digits4": _variant(
    _COUNTDOWN, countdown_four_digits.COUNTDOWN_DIGITS4, version="1.0.0",
    prompts=countdown_prompts.DIGITS),
  "gsm8k": _GSM8K,
  "humaneval": _variant(
    _MBPP, code_data.HUMANEVAL, prompts=code_prompts.HUMANEVAL, extras={}),
  "math": _MATH,
  "math_4500": _variant(_MATH, competition_data.MATH_4500),
  "math_500": _variant(_MATH, competition_data.MATH_500),
  "math_5000": _variant(_MATH, competition_data.MATH_5000),
  "mbpp": _MBPP,
  "mbpp_sanitized": _variant(_MBPP, code_data.MBPP_SANITIZED),
  "number_between": _NUMBER_BETWEEN,
  "sudoku": _SUDOKU,
  "sudoku9": _variant(
    _SUDOKU, sudoku_data_9x9.SUDOKU9X9, version="1.0.0",
    prompts=sudoku_prompts.PROMPTS9),
  "sudoku_d1": _variant(_SUDOKU, sudoku_published_data.SUDOKU_D1),
  "sudoku_spg": _variant(_SUDOKU, sudoku_published_data.SUDOKU_SPG),
}
