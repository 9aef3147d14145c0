"""A process of a job of two: prints a model's name with the commit of the job.

Arguments: the coordinator's port, the number of this process, the name.
"""

import sys

from dlrl import config
from dlrl.run import hub_commits
from dlrl.runtime import processes

port, number, name = sys.argv[1:]
processes.start(processes.Job(
  coordinator=f"localhost:{port}", processes=2, process=int(number)))
print(hub_commits.fixed(config.Config(pretrained=name)).pretrained, flush=True)
