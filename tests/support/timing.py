"""Time limits that do not fail because of other work in the process."""

import time


def timed(limit, function, *args):
  """Calls `function(*args)` and checks that it is fast enough.

  Up to three attempts, because one may include a garbage collection, which
  takes long in a process with many traced programs.

  Args:
    limit: seconds of CPU time of this thread.
    function: without side effects.
    *args: its arguments.

  Returns:
    The function's result.

  Raises:
    AssertionError: all attempts took longer.
  """
  for _ in range(3):
    start = time.thread_time()
    value = function(*args)
    if time.thread_time() - start < limit:
      return value
  raise AssertionError(f"takes more than {limit} s")
