"""Code tasks: the completion contains a program, and tests judge it.

The program is the last complete fenced block that is marked as Python or not
marked at all. A completion without fences can be a program as a whole. Programs
run only in `dlrl.sandbox`; this process does not even parse them. Rewards have
TRL's signature. They are None where the sandbox failed, not the program: such a
completion is left out of the loss.

Columns that the rewards read; all but `tests` may be missing or empty:

    tests        a list per example; each test is a statement, judged by itself,
                 that raises unless the program is right
    setup        code that runs before the tests
    entry_point  the function that the tests call
    prefix       code that the completion continues, such as HumanEval's
                 prompts; complete in itself and trusted as tests are
"""

import base64
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import sandbox
from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import results as code_results

Texts = Sequence[str]
Rewards = list[float | None]

_MAX_CHARACTERS = 100_000  # of a completion; in longer ones no program is read
_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\s]*)[^`]*")
_PYTHON = frozenset({"python", "python3", "py", ""})

# Trusted code that reads hostile text. It runs in the sandbox as well, because
# such a text can crash Python's parser.
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
_COMPILES: Mapping[client.Outcome | None, float] = {
    client.Outcome.PASSED: 1.0, client.Outcome.FAILED: 0.0}
_CHECKS_PER_PROCESS = 32  # so that their times are within the sandbox's limits


def blocks(completion: str) -> tuple[list[tuple[str, str]], bool]:
  """Finds the fenced blocks of a completion.

  A fence with a language never closes a block: the block before was incomplete.

  Returns:
    `(language, content)` of each complete block, the language in lower case;
    and whether any block is incomplete.
  """
  found: list[tuple[str, str]] = []
  content: list[str] = []
  fence, language, broken = "", "", False
  for line in completion.split("\n"):
    match = _FENCE.fullmatch(line.rstrip())
    if match is None or len(match[1]) < len(fence):
      content.append(line)
    elif fence and not match[2]:
      found.append((language, "".join(f"{text}\n" for text in content)))
      fence = ""
    else:
      broken = broken or fence != ""
      fence, language, content = match[1], match[2].lower(), []
  return found, broken or fence != ""


def program(completion: str, *, prefix: str = "",
            entry_point: str = "") -> str | None:
  """Returns the program of a completion, after `prefix`; None without one."""
  if len(completion) > _MAX_CHARACTERS:
    return None
  found, broken = blocks(completion)
  programs = [text for language, text in found if language in _PYTHON]
  if programs:
    text = programs[-1]
  elif found or broken:
    return None
  else:
    text = completion
  if not text.strip():
    return None
  text = prefix + text
  if not programs and not re.search(_defined(entry_point), text):
    return None
  return text


def answer(example: task_lib.Example, completion: str) -> str | None:
  """Returns the completion's program, for majority votes."""
  return program(completion, prefix=example.get("prefix", ""),
                 entry_point=example.get("entry_point", ""))


def _defined(entry_point: str) -> str:
  """A pattern for what defines the entry point at the top level of a module.

  Without an entry point, the pattern matches everything.
  """
  name = re.escape(entry_point)
  return (rf"(?m)^(?:(?:async +)?def|class) +{name}\b|^{name} *="
          if entry_point else "")


def passed_reward(prompts: Texts, completions: Texts, *,
                  tests: Sequence[Texts], setup: Texts = (),
                  entry_point: Texts = (), prefix: Texts = (),
                  **columns: object) -> Rewards:
  """1 for a program that passes all tests, 0 for everything else.

  Raises:
    strict.ConfigError: an example has no test, or the sandbox cannot start.
  """
  del prompts, columns
  fractions = _fractions(completions, tests, setup, entry_point, prefix)
  return [None if fraction is None else float(fraction == 1)
          for fraction in fractions]


def fraction_reward(prompts: Texts, completions: Texts, *,
                    tests: Sequence[Texts], setup: Texts = (),
                    entry_point: Texts = (), prefix: Texts = (),
                    **columns: object) -> Rewards:
  """The fraction of tests that a program passes; 0 without a program.

  Raises:
    strict.ConfigError: same as `passed_reward`.
  """
  del prompts, columns
  return _fractions(completions, tests, setup, entry_point, prefix)


def format_reward(prompts: Texts, completions: Texts, *,
                  entry_point: Texts = (), prefix: Texts = (),
                  **columns: object) -> Rewards:
  """1 if the only fenced block is marked as Python and compiles, else 0.

  If there is an entry point, the block, after the prefix, must define it.
  None where the sandbox fails, or takes no text as long as block and prefix.
  """
  del prompts, columns
  found = [_only_block(completion) for completion in completions]
  checks = [
      None if text is None else
      f"assert defines({_encoded(before + text)}, {_defined(name)!r}, "
      f"{_CHECK_S})"
      for text, before, name in zip(
          found, _column(prefix, found), _column(entry_point, found),
          strict=True)]
  outcomes = _outcomes(
      dict.fromkeys(c for c in checks if c is not None), _CHECKS_PER_PROCESS)
  # A check that others left no time gets some of its own.
  outcomes |= _outcomes([check for check, outcome in outcomes.items()
                         if outcome is client.Outcome.LATE], 1)
  # Unknown, with the rest: what is too long for the sandbox with its prefix.
  return [0.0 if check is None else _COMPILES.get(outcomes.get(check))
          for check in checks]


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


def metrics(prompts: Texts, completions: Texts,
            **columns: Any) -> dict[str, Rewards]:
  """Returns the three rewards as `solved`, `tests` and `format`.

  Each program runs once, because `results` remembers what it ran.

  Raises:
    strict.ConfigError: same as `passed_reward`.
  """
  return {
      "solved": passed_reward(prompts, completions, **columns),
      "tests": fraction_reward(prompts, completions, **columns),
      "format": format_reward(prompts, completions, **columns)}


def _fractions(completions: Texts, tests: Sequence[Texts], setup: Texts,
            entry_point: Texts, prefix: Texts) -> Rewards:
  jobs: list[sandbox.Program | None] = []
  for completion, checks, before, name, start in zip(
      completions, tests, _column(setup, completions),
      _column(entry_point, completions), _column(prefix, completions),
      strict=True):
    strict.require(
        len(checks) > 0, "reward.tests", checks, "an example has no tests; "
        "give each at least one in the column `tests`", strict.ArgumentError)
    code = program(completion, prefix=start, entry_point=name)
    # The prefix is part of the setup as well: what it defines must be the
    # tests' own, as the program may define the same names in another way.
    jobs.append(None if code is None else sandbox.Program(
        code, tuple(checks), f"{before}\n{start}", name))
  results = iter(code_results.run([job for job in jobs if job is not None]))
  return [0.0 if job is None else _fraction(next(results)) for job in jobs]


def _fraction(result: sandbox.Result) -> float | None:
  return (None if client.Outcome.UNKNOWN in result.outcomes
          else sum(result.passed) / len(result.passed))


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


def _only_block(completion: str) -> str | None:
  if len(completion) > _MAX_CHARACTERS:
    return None
  found, broken = blocks(completion)
  if broken or len(found) != 1:
    return None
  language, text = found[0]
  return text if language == "python" else None


def _column(values: Texts, completions: Sequence[object]) -> Texts:
  return values if len(values) else [""] * len(completions)
