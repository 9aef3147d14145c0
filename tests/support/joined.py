"""A process that joins a job, prints what it gathers, and may fail.

The process whose index is the environment variable FAIL raises an error.
"""

import json
import os
import sys

import jax

from dlrl.runtime import processes

job = json.loads(sys.argv[1])
processes.start(processes.Job(**job))
try:
  place = jax.process_index()
  print(json.dumps(processes.gather([place, "ä" * place, float("inf")])))
  print(json.dumps([processes.anywhere(place == 1), processes.anywhere(False)]))
  print(json.dumps(processes.by_first(lambda: {"of": place})), flush=True)
  if str(place) == os.environ.get("FAIL"):
    raise ArithmeticError("no reward")
  for _ in range(1000 if "FAIL" in os.environ else 0):
    processes.gather(None)
except Exception as e:
  processes.fail(e)
