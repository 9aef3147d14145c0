"""A process of a job of two, the first of which looks for checkpoints.

Arguments: the coordinator's port, the number of this process, the directory.
"""

import sys

from dlrl.runtime import processes
from dlrl.storage import checkpoint

port, number, directory = sys.argv[1:]
processes.start(processes.Job(
  coordinator=f"localhost:{port}", processes=2, process=int(number),
  timeout=10))
print(processes.by_first(lambda: checkpoint.steps(directory)), flush=True)
