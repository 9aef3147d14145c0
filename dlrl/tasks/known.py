"""All tasks by name; one line of `TASKS` each."""

import dataclasses
import functools
import operator
from collections.abc import Callable

from dlrl.tasks import code
from dlrl.tasks import code_dataset
from dlrl.tasks import code_prompts
from dlrl.tasks import competition_math
from dlrl.tasks import countdown
from dlrl.tasks import countdown_dataset
from dlrl.tasks import countdown_drawn
from dlrl.tasks import countdown_prompts
from dlrl.tasks import generated
from dlrl.tasks import gsm8k
from dlrl.tasks import gsm8k_dataset
from dlrl.tasks import math_dataset
from dlrl.tasks import math_prompts
from dlrl.tasks import prepared
from dlrl.tasks import published
from dlrl.tasks import published_puzzles
from dlrl.tasks import sudoku
from dlrl.tasks import sudoku9_dataset
from dlrl.tasks import sudoku_dataset
from dlrl.tasks import sudoku_prompts
from dlrl.tasks import task as task_lib

_COUNTDOWN = task_lib.Task(
    load=functools.partial(
        countdown_dataset.load, countdown_dataset.Countdown3),
    prompts=countdown_prompts.PROMPTS,
    rewards={"solved": countdown.solved_reward},
    metrics=countdown.metrics,
    difficulties=countdown_dataset.DIFFICULTIES,
    version="1.1.0",
    checksum=prepared.whole_checksum(countdown_dataset.Countdown3),
    template=countdown.template,
    fields={"numbers": lambda row: str(list(row["numbers"])),
            "target": lambda row: str(row["target"])},
)
_SUDOKU = task_lib.Task(
    load=sudoku_dataset.load,
    prompts=sudoku_prompts.PROMPTS,
    rewards={"solved": sudoku.solved_reward, "units": sudoku.units_reward},
    metrics=sudoku.metrics,
    difficulties=sudoku_dataset.DIFFICULTIES,
    version="1.1.0",
    checksum=prepared.whole_checksum(sudoku_dataset.Sudoku4x4),
    template=sudoku.template,
    fields={"question": operator.itemgetter("puzzle")},
)


def _of(builder: type[published.Published], load: Callable[..., task_lib.Rows],
        base: task_lib.Task) -> task_lib.Task:
  """The task on the rows of a published dataset."""
  return dataclasses.replace(
    base, load=load, difficulties=builder.DIFFICULTIES,
    checksum=prepared.whole_checksum(builder))


def _drawn(builder: type[generated.Puzzles]) -> task_lib.Task:
  """Countdown with the builder's problems."""
  return dataclasses.replace(
    _COUNTDOWN, load=functools.partial(countdown_dataset.load, builder),
    version="1.0.0", checksum=prepared.whole_checksum(builder))


_GSM8K = task_lib.Task(
    load=gsm8k_dataset.load,
    prompts=math_prompts.GSM8K,
    rewards={"solved": gsm8k.correct_reward, "format": gsm8k.format_reward},
    metrics=gsm8k.metrics,
    difficulties=gsm8k_dataset.Gsm8k.DIFFICULTIES,
    version="1.0.0",
    checksum=prepared.whole_checksum(gsm8k_dataset.Gsm8k),
    answer=gsm8k.answer,
    fields={"question": operator.itemgetter("question")},
)
_MATH = task_lib.Task(
    load=math_dataset.load,
    prompts=math_prompts.MATH,
    rewards={"solved": competition_math.correct_reward,
             "format": competition_math.format_reward},
    metrics=competition_math.metrics,
    difficulties=math_dataset.Math.DIFFICULTIES,
    version="1.0.0",
    checksum=prepared.whole_checksum(math_dataset.Math),
    answer=competition_math.answer,
    fields={"question": operator.itemgetter("problem")},
)
_MBPP = task_lib.Task(
    load=code_dataset.load_mbpp,
    prompts=code_prompts.MBPP,
    rewards={"solved": code.passed_reward, "tests": code.fraction_reward,
             "format": code.format_reward},
    metrics=code.metrics,
    difficulties=code_dataset.Mbpp.DIFFICULTIES,
    version="1.0.0",
    checksum=prepared.whole_checksum(code_dataset.Mbpp),
    answer=code.answer,
    start=code.start,
    fields={"question": operator.itemgetter("text")},
    # Tests that are scored, as some papers show.
    extras={"signature": operator.itemgetter("signature"),
            "test": lambda row: row["tests"][0],
            "tests": lambda row: "\n".join(row["tests"])},
)

TASKS = {
  "countdown": _COUNTDOWN,
  "countdown4": _drawn(countdown_drawn.Countdown4),
  "countdown5": _drawn(countdown_drawn.Countdown5),
  "countdown_d1": _of(
    published_puzzles.CountdownD1, published_puzzles.load_countdown_d1,
    _COUNTDOWN),
  "countdown_digits": dataclasses.replace(
    _COUNTDOWN,
    load=functools.partial(
      countdown_dataset.load, countdown_dataset.CountdownDigits),
    prompts=countdown_prompts.DIGITS,
    checksum=prepared.whole_checksum(countdown_dataset.CountdownDigits)),
  "gsm8k": _GSM8K,
  "humaneval": dataclasses.replace(
    _of(code_dataset.HumanEval, code_dataset.load_humaneval, _MBPP),
    prompts=code_prompts.HUMANEVAL, extras={}),
  "math": _MATH,
  "math_4500": _of(math_dataset.Math4500, math_dataset.load_4500, _MATH),
  "math_500": _of(math_dataset.Math500, math_dataset.load_500, _MATH),
  "math_5000": _of(math_dataset.Math5000, math_dataset.load_5000, _MATH),
  "mbpp": _MBPP,
  "mbpp_sanitized": _of(
    code_dataset.MbppSanitized, code_dataset.load_mbpp_sanitized, _MBPP),
  "sudoku": _SUDOKU,
  "sudoku9": dataclasses.replace(
    _SUDOKU,
    load=sudoku9_dataset.load,
    prompts=sudoku_prompts.PROMPTS9,
    difficulties=sudoku9_dataset.DIFFICULTIES,
    version="1.0.0",
    checksum=prepared.whole_checksum(sudoku9_dataset.Sudoku9x9)),
  "sudoku_d1": _of(
    published_puzzles.SudokuD1, published_puzzles.load_sudoku_d1, _SUDOKU),
  "sudoku_spg": _of(
    published_puzzles.SudokuSpg, published_puzzles.load_sudoku_spg, _SUDOKU),
}
