"""Whether texts are Python, decided in the sandbox.

A hostile text can crash Python's parser, or keep it busy for hours, which must
not happen to the trainer.
"""

import base64
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.sandbox import client
from dlrl.sandbox import sandbox
from dlrl.tasks.coding import results as code_results

# Trusted code that reads hostile text.
_CHECK = """
import base64
import re
import signal
import warnings

warnings.simplefilter("ignore")

def compiled(source):
  return compile(source, "program", "exec", dont_inherit=True)

EMPTY = compiled("").co_code

def defines(encoded, defined, seconds):
  # Some short texts, such as nested `try` statements, take hours to compile.
  signal.setitimer(signal.ITIMER_PROF, seconds)
  source = base64.b64decode(encoded).decode("utf-8", "surrogatepass")
  # The time to compile these, if nested, is quadratic in their number.
  if source.count("lambda") > 200 or source.count("else") > 500:
    return False
  return compiled(source).co_code != EMPTY and bool(re.search(defined, source))
"""
_CHECK_S = 0.5  # processor time; 100 kB of ordinary code take less than 0.1 s
_DEFINES: Mapping[client.Outcome | None, float] = {
    client.Outcome.PASSED: 1.0, client.Outcome.FAILED: 0.0}
_CHECKS_PER_PROCESS = 32  # so that their times are within the sandbox's limits


def defines(asked: Sequence[tuple[str, str]]) -> list[float | None]:
  """Whether each text compiles, is not empty, and has what a pattern matches.

  Args:
    asked: texts, each with a pattern.

  Returns:
    1 or 0 for each; None where the sandbox fails, or takes no text as long.
  """
  checks = [f"assert defines({_encoded(text)}, {pattern!r}, {_CHECK_S})"
            for text, pattern in asked]
  outcomes = _outcomes(dict.fromkeys(checks), _CHECKS_PER_PROCESS)
  # A check that others left no time gets some of its own.
  outcomes |= _outcomes([check for check, outcome in outcomes.items()
                         if outcome is client.Outcome.LATE], 1)
  return [_DEFINES.get(outcomes.get(check)) for check in checks]


def _outcomes(checks: Iterable[str], at_once: int
              ) -> dict[str, client.Outcome]:
  """Runs checks as tests of one program, `_CHECK`: a process does `at_once`.

  A check that crashes the process fails only itself.
  """
  chunks = _chunks(checks, at_once)
  results = code_results.run([
      sandbox.Program(_CHECK, chunk, entry_point="defines")
      for chunk in chunks])
  return {check: outcome for chunk, result in zip(chunks, results, strict=True)
          for check, outcome in zip(chunk, result.outcomes, strict=True)}


def _encoded(text: str) -> str:
  """A literal of at most 16 characters for three of any text.

  `repr` may need ten characters for one.
  """
  return repr(base64.b64encode(text.encode("utf-8", "surrogatepass")).decode())


def _chunks(checks: Iterable[str], at_once: int) -> list[tuple[str, ...]]:
  """The checks in their order, as many at a time as the sandbox takes."""
  chunks: list[list[str]] = []
  room = 0
  for check in checks:
    if not chunks or len(chunks[-1]) == at_once or len(check) > room:
      chunks.append([])
      room = sandbox.MAX_CHARACTERS - len(_CHECK)
    if len(check) <= room:
      chunks[-1].append(check)
      room -= len(check)
  return [tuple(chunk) for chunk in chunks if chunk]
