"""Code: a program that passes tests, in a completion that is prose and code.

A completion's program is its last complete fenced block marked as Python or as
nothing; a completion without fences can be a program as a whole. It runs in
`dlrl.sandbox` only; not even its syntax is looked at in this process. Rewards
have TRL's signature. They return None where the sandbox failed, not the
program: such a completion has no place in a loss.

Columns: `tests`, lists of statements that raise unless the program is right,
each by itself; `setup`, run before them; `entry_point`, the name of what they
call; `prefix`, code that the completion goes on from, such as HumanEval's
prompts, complete by itself and trusted as tests are. All but the first may be
left out or empty.
"""

import re
from collections.abc import Sequence
from typing import Any

from dlrl import strict
from dlrl.sandbox import sandbox
from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import results as code_results

Texts = Sequence[str]
Rewards = list[float | None]

_LONGEST = 100_000  # characters; a longer completion has no program
_FENCE = re.compile(r" {0,3}(`{3,})[ \t]*([^`\s]*)[^`]*")
_PYTHON = frozenset({"python", "python3", "py", ""})

# Trusted code on hostile text: in the sandbox too, for a parser may crash.
_CHECK = """
import re
import warnings

warnings.simplefilter("ignore")

def compiled(source):
  return compile(source, "program", "exec", dont_inherit=True)

EMPTY = compiled("").co_code

def defines(source, defined):
  # Nested, these take time quadratic in their number.
  if source.count("lambda") > 200 or source.count("else") > 500:
    return False
  return compiled(source).co_code != EMPTY and bool(re.search(defined, source))
"""
_CHECKED_AT_ONCE = 64


def blocks(completion: str) -> tuple[list[tuple[str, str]], bool]:
  """Complete fenced blocks, (language, content), and whether others began.

  Languages are in lower case. A fence with a language ends no block: the one
  before was not complete.
  """
  found: list[tuple[str, str]] = []
  content: list[str] = []
  fence, language, broken = "", "", False
  for line in completion.split("\n"):
    match = _FENCE.fullmatch(line.rstrip())
    if match is None or len(match[1]) < len(fence):
      content.append(line)
    elif fence and not match[2]:
      found.append((language, "".join(f"{one}\n" for one in content)))
      fence = ""
    else:
      broken = broken or fence != ""
      fence, language, content = match[1], match[2].lower(), []
  return found, broken or fence != ""


def program(completion: str, *, prefix: str = "",
            entry_point: str = "") -> str | None:
  """The program of a completion, `prefix` included; None: it has none."""
  if len(completion) > _LONGEST:
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


def start(allow_missing: Sequence[str]) -> str:
  """Starts the sandbox; returns one line that says what it protects.

  Args:
    allow_missing: of "files", "network", "processes": what programs may reach
      if this machine cannot keep them from it.

  Raises:
    strict.ConfigError: it cannot keep them from something else.
  """
  return code_results.start(allow_missing=allow_missing)


def answer(row: task_lib.Example, completion: str) -> str | None:
  """Its program, for votes."""
  return program(completion, prefix=row.get("prefix", ""),
                 entry_point=row.get("entry_point", ""))


def _defined(entry_point: str) -> str:
  """A pattern of what defines it at the top; without a name, of anything."""
  name = re.escape(entry_point)
  return (rf"(?m)^(?:(?:async +)?def|class) +{name}\b|^{name} *="
          if entry_point else "")


def passed_reward(prompts: Texts, completions: Texts, *,
                  tests: Sequence[Texts], setup: Texts = (),
                  entry_point: Texts = (), prefix: Texts = (),
                  **columns: object) -> Rewards:
  """1 for a program that passes all tests and 0 for everything else.

  Raises:
    strict.ConfigError: a row has no test, or the sandbox cannot be started.
  """
  del prompts, columns
  shares = _shares(completions, tests, setup, entry_point, prefix)
  return [None if share is None else float(share == 1) for share in shares]


def fraction_reward(prompts: Texts, completions: Texts, *,
                    tests: Sequence[Texts], setup: Texts = (),
                    entry_point: Texts = (), prefix: Texts = (),
                    **columns: object) -> Rewards:
  """The share of tests that a program passes; 0 where there is none.

  Raises:
    strict.ConfigError: as `passed_reward`.
  """
  del prompts, columns
  return _shares(completions, tests, setup, entry_point, prefix)


def format_reward(prompts: Texts, completions: Texts, *,
                  entry_point: Texts = (), prefix: Texts = (),
                  **columns: object) -> Rewards:
  """1 for exactly one fenced block, of Python that compiles; else 0.

  With the prefix before it, the block defines the entry point, if there is one.
  """
  del prompts, columns
  found = [_only_block(completion) for completion in completions]
  checks = [
      None if text is None else
      f"assert defines({before + text!r}, {_defined(name)!r})"
      for text, before, name in zip(
          found, _column(prefix, found), _column(entry_point, found),
          strict=True)]
  # Many in one process, of which a crash costs one.
  tests = list(dict.fromkeys(check for check in checks if check is not None))
  chunks = [tuple(tests[at:at + _CHECKED_AT_ONCE])
            for at in range(0, len(tests), _CHECKED_AT_ONCE)]
  results = code_results.run([
      sandbox.Program(_CHECK, chunk, entry_point="defines")
      for chunk in chunks])
  compiles: dict[str | None, float | None] = {None: 0.0}
  for chunk, result in zip(chunks, results, strict=True):
    for test, passed in zip(chunk, result.passed, strict=True):
      compiles[test] = (
          float(passed) if result.infrastructure_error is None else None)
  return [compiles[check] for check in checks]


def metrics(prompts: Texts, completions: Texts,
            **columns: Any) -> dict[str, Rewards]:
  """`solved`, `tests` and `format`: the three rewards; each program runs once.

  Raises:
    strict.ConfigError: as `passed_reward`.
  """
  return {
      "solved": passed_reward(prompts, completions, **columns),
      "tests": fraction_reward(prompts, completions, **columns),
      "format": format_reward(prompts, completions, **columns)}


def _shares(completions: Texts, tests: Sequence[Texts], setup: Texts,
            entry_point: Texts, prefix: Texts) -> Rewards:
  jobs: list[sandbox.Program | None] = []
  for completion, row, before, name, start in zip(
      completions, tests, _column(setup, completions),
      _column(entry_point, completions), _column(prefix, completions),
      strict=True):
    strict.require(len(row) > 0, "tests", row, "every row needs one at least")
    code = program(completion, prefix=start, entry_point=name)
    # What the prefix defines, the tests take from it, not from the program.
    jobs.append(None if code is None else sandbox.Program(
        code, tuple(row), f"{before}\n{start}", name))
  results = iter(code_results.run([job for job in jobs if job is not None]))
  return [0.0 if job is None else _share(next(results)) for job in jobs]


def _share(result: sandbox.Result) -> float | None:
  if result.infrastructure_error is not None:
    return None
  return sum(result.passed) / len(result.passed)


def _only_block(completion: str) -> str | None:
  found, broken = blocks(completion[:_LONGEST + 1])
  if len(completion) > _LONGEST or broken or len(found) != 1:
    return None
  language, text = found[0]
  return text if language == "python" else None


def _column(values: Texts, rows: Sequence[object]) -> Texts:
  return values if len(values) else [""] * len(rows)
