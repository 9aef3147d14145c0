"""Time limits that something else in the process cannot break."""

import time


def timed(limit, function, *args):
  """What `function(*args)` returns, if that takes less CPU time than `limit`.

  Args:
    limit: seconds, of any of three attempts: a collection of this process's
      garbage, which takes as long as JAX has made it, may fall into one.
    function: has no effects.
    *args: its arguments.

  Raises:
    AssertionError: each attempt took longer.
  """
  for _ in range(3):
    start = time.thread_time()
    value = function(*args)
    if time.thread_time() - start < limit:
      return value
  raise AssertionError(f"takes more than {limit} s")
