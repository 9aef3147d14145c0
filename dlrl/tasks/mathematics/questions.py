"""Open questions about an answer, as plain data for another process.

A question is True or False if it is decided, or

    (gold, answer)       are two texts of LaTeX equal?
    {"all": questions}   are all of them answered by yes?
    {"match": rows}      rows of questions, as many as there are columns: can
                         each row have a column of its own, with a yes there?
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

Question = bool | tuple[str, str] | dict[str, list[Any]]


def every(asked: Sequence[Question]) -> Question:
  """Whether all questions are answered by yes."""
  if any(one is False for one in asked):
    return False
  rest = [one for one in asked if one is not True]
  return rest[0] if len(rest) == 1 else {"all": rest} if rest else True


def matched(rows: Sequence[Sequence[Question]]) -> Question:
  """Whether rows and columns, as many, can be paired by places with yes."""
  if any(all(one is False for one in line)
         for line in (*rows, *zip(*rows, strict=True))):
    return False
  if len(rows) == 1:
    return rows[0][0]
  question = {"match": [list(row) for row in rows]}
  if all(isinstance(one, bool) for row in rows for one in row):
    return answered(question, lambda gold, answer: False)
  return question


def answered(question: Question, equal: Callable[[str, str], bool]) -> bool:
  """Decides a question by means of `equal(gold, answer)`."""
  if isinstance(question, bool):
    return question
  if not isinstance(question, dict):
    return equal(*question)
  if "all" in question:
    return all(answered(one, equal) for one in question["all"])
  return _paired(question["match"], equal)


def _paired(rows: list[list[Question]], equal: Callable[[str, str], bool]
            ) -> bool:
  """Kuhn's algorithm, which asks each question once at most."""
  known: dict[tuple[int, int], bool] = {}
  owner: dict[int, int] = {}

  def yes(row: int, column: int) -> bool:
    if (row, column) not in known:
      known[row, column] = answered(rows[row][column], equal)
    return known[row, column]

  def placed(row: int, seen: set[int]) -> bool:
    for column in range(len(rows)):
      if column not in seen and yes(row, column):
        seen.add(column)
        if column not in owner or placed(owner[column], seen):
          owner[column] = row
          return True
    return False

  return all(placed(row, set()) for row in range(len(rows)))
