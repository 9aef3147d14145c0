"""A reward that logs its calls and hangs at call number $PAUSE_AT."""

import json
import os
import pathlib
import time

from dlrl import tasks


def units(prompts, completions, **columns):
  log = pathlib.Path(os.environ["REWARDS_LOG"])
  with log.open("a") as file:
    print(json.dumps(len(completions)), file=file)
  if len(log.read_text().splitlines()) == int(os.environ.get("PAUSE_AT", -1)):
    time.sleep(600)
  return tasks.TASKS["sudoku"].rewards["units"](
    prompts, completions, **columns)
