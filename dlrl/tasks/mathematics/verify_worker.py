"""The child process that compares two LaTeX answers with math-verify.

Run by `math_pool`, alone: it imports nothing of this package. A request is a
line of JSON, `[gold, answer]`; the reply is one byte, "1" or "0". A comparison
may take endless time or memory (a tower of powers), inside C code, too: so the
kernel ends the process after `argv[1]` seconds of CPU time for one comparison
and denies memory beyond `argv[2]` bytes. math-verify reads LaTeX alone here:
its reader of plain expressions calls Python's `eval`.
"""

import json
import logging
import os
import resource
import signal
import sys

import math_verify

_LATEX = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
# An approximation is no exact answer, but decimals are read as binary floats.
_ROUNDING = 12  # decimals


def same(gold: str, answer: str) -> bool:
  """Whether math-verify finds the answer equal to the gold."""
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
  # The first is slow; and without the memory for it, nothing would be right.
  if not same("x+1", "1+x"):
    sys.exit("math-verify finds that x+1 is not 1+x")
  # What a library prints is no reply, nor of use to anybody.
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.dup2(nowhere, 2)
  os.write(replies, b"R")
  for line in sys.stdin:
    gold, answer = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      verdict = same(gold, answer)
    except Exception:  # of a library, by hostile text
      verdict = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    os.write(replies, b"1" if verdict else b"0")
    # What a library keeps of one comparison must not starve the next.
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > memory / 2:
      break


if __name__ == "__main__":
  main()
