r"""The child process that compares LaTeX answers with math-verify.

`verify_pool` starts it with nothing of dlrl but this folder and the system call
filter, so that it starts fast. A request is a line of JSON, a question
(`questions`); the reply is one byte, "1" or "0". A comparison may need endless
time or memory (a tower of powers), also inside C code. The kernel therefore
ends the process after some processor time for one question, and denies memory
beyond a limit. Once sympy is loaded, the process gives up files, sockets and
other processes, where the kernel has seccomp. math-verify reads only LaTeX
here, because its reader of plain expressions calls Python's `eval`.
"""

import dataclasses
import json
import logging
import mmap
import os
import re
import resource
import signal
import sys
from typing import Any

import math_verify
import sympy

from dlrl.sandbox import seccomp
from dlrl.sandbox import syscalls
from dlrl.tasks.mathematics import exact_values
from dlrl.tasks.mathematics import questions

_DEFAULT = math_verify.LatexExtractionConfig(boxed_match_priority=0)
# Its units are letters at the end, of `60m` and of `x+3t` alike; ours are gone.
_LATEX = [dataclasses.replace(
  _DEFAULT, normalization_config=dataclasses.replace(
    _DEFAULT.normalization_config, units=False))]
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9.])")
# latex2sympy takes 10\binom{9}{4} for a mixed number, 10 + 126.
_MIXED = re.compile(r"(?<=[0-9])\s*(?=\\binom(?![A-Za-z]))")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(
  r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?[0-9]\}?)?) *([({]?) *([0-9]+) *\^ *"
  r"(?:\{ *\\circ *\}|\\circ(?![A-Za-z])) *([)}]?)")
# sympy imports much only when it is needed; later there are no files.
_WARM_UP = (
  ("x+1", "1+x"), (r"\sqrt{5+2\sqrt{6}}", r"\sqrt{2}+\sqrt{3}"),
  ("y=2x+3", "2x-y+3=0"), ("x^2=4", "y^3=x"), ("1<x<2", "(1,2)"),
  (r"(-\infty,1)\cup[2,3]", r"[2,3]\cup(-\infty,1)"), ("x>1", "1<x"),
  (r"\begin{pmatrix}1/2\\2\end{pmatrix}",
   r"\begin{pmatrix}0.5\\2\end{pmatrix}"),
  (r"\sin^2 x", r"1-\cos^2 x"), (r"\{1,2\}\cup\{3\}", r"\{3,2,1\}"),
  (r"\sqrt{1+e^{-2000}}", "1"), (r"\log_2 x", r"\frac{\ln x}{\ln 2}"),
  (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"|x|", r"\sqrt{x^2}"),
  (r"\frac{1}{1+i}", r"\frac{1-i}{2}"), (r"\prod_{k=1}^n k", "n!"),
  (r"\int_0^1 x^2 dx", r"\sum_{k=1}^{3} \frac{k}{18}"),
  (r"\lfloor x\rfloor", r"\tan^{-1} x"), ("x^2+y^2=1", "y=x^5+x"))


def same(gold: str, answer: str) -> bool:
  """Whether math-verify finds the answer equal to the gold.

  The order matters: a relation as the gold, `1 < x < 2`, is read as a set.
  """
  exact_values.install(decimal=_DECIMAL.search(gold) is not None)
  # "cos 58" next to "cos 58^o" has only left the sign out.
  if not any(_FUNCTION.search(_DEGREES.sub("", text))
             for text in (gold, answer)):
    gold, answer = (_DEGREES.sub(_in_radians, text) for text in (gold, answer))
  right, found = (
    math_verify.parse(rf"\boxed{{{_exactly(text)}}}", _LATEX,
                      parsing_timeout=None) for text in (gold, answer))
  if right and found and _equivalent(right[0], found[0]):
    return True
  return math_verify.verify(right, found, timeout_seconds=None)


def _exactly(text: str) -> str:
  """The text without what math-verify would read as another number."""
  return _MIXED.sub(r"\\cdot ", _DECIMAL.sub(_fraction, text))


def _in_radians(function: re.Match[str]) -> str:
  name, left, degrees, right = function.groups()
  angle = rf"\frac{{{degrees}\pi}}{{180}}"
  return rf"{name}{left}{angle}{right}" if left else rf"{name}({angle}){right}"


def _fraction(decimal: re.Match[str]) -> str:
  """Exactly the number; sympy would make it a binary float."""
  whole, rest = decimal.groups()
  return rf"(\frac{{{int(whole + rest)}}}{{1{'0' * len(rest)}}})"


def _equivalent(gold: Any, answer: Any) -> bool:
  """Whether two equations differ only in a factor."""
  if not (isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq)):
    return False
  try:
    left, right = (side.lhs.doit() - side.rhs.doit() for side in (gold, answer))
    if exact_values.equal(left, 0) or exact_values.equal(right, 0):
      return False
    ratio = sympy.simplify(left / right)
    return bool(ratio.is_number and ratio.is_finite)
  except Exception:  # what sympy cannot subtract is for math-verify
    return False


def _limit(memory: int) -> None:
  for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
  signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _confine() -> None:
  if seccomp.supported():
    syscalls.check(syscalls.prctl(syscalls.SET_NO_NEW_PRIVS, 1),
                   "no new privileges")
    seccomp.install(files=False)


def _available(size: int) -> bool:
  """Whether so many bytes of address space are left below the limit.

  Getrusage would not do: its maximum outlives exec, and so begins with that of
  the process which started this one, of a trainer for example.
  """
  try:
    mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0).close()
  except (OSError, MemoryError):
    return False
  return True


def main(seconds: float, memory: int) -> None:
  """Answers requests until the input ends."""
  logging.disable()
  replies = os.dup(1)
  _limit(memory)
  # The first comparisons are slow, so they must not count against a limit. They
  # also fail if there is too little memory, where all answers would be wrong.
  right, *_ = [same(*pair) for pair in _WARM_UP]
  if not right:
    sys.exit("math-verify finds that x+1 is not 1+x")
  # Discards what libraries print; only `replies` goes to the parent.
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  os.dup2(nowhere, 2)
  _confine()
  os.write(replies, b"R")
  for line in sys.stdin:
    question = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
      verdict = questions.answered(question, same)
    except Exception:  # hostile text can make the library raise anything
      verdict = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    os.write(replies, b"1" if verdict else b"0")
    # Memory that a library keeps after a comparison must not starve the next.
    if not _available(memory // 2):
      break
