"""The prompt for a number between two others: `What is between 42 and 51?`."""

import operator
from collections.abc import Mapping

from dlrl.tasks import task as task_lib

FIELDS: Mapping[str, task_lib.Show] = {
  "question": operator.itemgetter("puzzle")}


def _question(example: task_lib.Example) -> str:
  return f"What is {example['puzzle']}?"


PROMPTS = {
  "bare": task_lib.Prompt(_question, between=" ", after="\n"),
}
