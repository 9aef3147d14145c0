"""The child process that compares two LaTeX answers with math-verify.

`verify_pool` runs this file as a script, which imports nothing of dlrl and so
starts fast. A request is a line of JSON, `[gold, answer]`; the reply is one
byte, "1" or "0". A comparison may need endless time or memory (a tower of
powers), also inside C code. The kernel therefore ends the process after
`argv[1]` seconds of processor time for one comparison, and denies memory beyond
`argv[2]` bytes. math-verify reads only LaTeX here, because its reader of plain
expressions calls Python's `eval`.
"""

import json
import logging
import os
import resource
import signal
import sys

import math_verify

_LATEX = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
# Decimals are read as binary floats. Rounding to 12 places forgives their error
# and still refuses approximations.
_ROUNDING = 12


def same(gold: str, answer: str) -> bool:
  """Whether math-verify finds the answer equal to the gold.

  The order matters: a relation as the gold, `1 < x < 2`, is read as a set.
  """
  right, found = (
    math_verify.parse(rf"\boxed{{{text}}}", _LATEX, parsing_timeout=None)
    for text in (gold, answer))
  return math_verify.verify(right, found, float_rounding=_ROUNDING,
                            timeout_seconds=None)


def _limit(memory: int) -> None:
  for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
  signal.signal(signal.SIGPROF, signal.SIG_DFL)


def main() -> None:
  """Answers requests until the input ends."""
  seconds, memory = float(sys.argv[1]), int(sys.argv[2])
  logging.disable()
  replies = os.dup(1)
  _limit(memory)
  # The first comparison is slow, so it must not count against a limit. It also
  # fails if there is too little memory, where all answers would be wrong.
  if not same("x+1", "1+x"):
    sys.exit("math-verify finds that x+1 is not 1+x")
  # Discards what libraries print; only `replies` goes to the parent.
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.dup2(nowhere, 2)
  os.write(replies, b"R")
  for line in sys.stdin:
    gold, answer = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      verdict = same(gold, answer)
    except Exception:  # hostile text can make the library raise anything
      verdict = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    os.write(replies, b"1" if verdict else b"0")
    # Memory that a library keeps after a comparison must not starve the next.
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory / 2:
      break


if __name__ == "__main__":
  main()
