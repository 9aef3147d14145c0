"""The prompt for sums in words: `What is 47 plus 28?`."""

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
