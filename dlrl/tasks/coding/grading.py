"""Code tasks: the completion contains a program, and tests judge it.

The program is the last complete fenced block that defines the entry point and
is marked as Python or not marked at all; `fences` says where a fence may stand.
The prompt may have opened the block. A completion without fences can be a
program as a whole. Programs run only in `dlrl.sandbox`; this process does not
even parse them. Rewards have TRL's signature. They are None where the sandbox
failed, not the program, and where a test decides nothing there: such a
completion is left out of the loss.

Columns that the rewards read; all but `tests` may be missing or empty:

    tests        a list per example; each test is a statement, judged by itself,
                 that raises unless the program is right
    setup        code that runs before the tests
    entry_point  the function that the tests call
    prefix       code that the completion continues, such as HumanEval's
                 prompts; complete in itself and trusted as tests are
"""

import re
from collections.abc import Sequence
from typing import Any

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import sandbox
from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import fences
from dlrl.tasks.coding import results as code_results
from dlrl.tasks.coding import syntax

Texts = Sequence[str]
Rewards = list[float | None]

_MAX_CHARACTERS = 100_000  # of a completion; in longer ones no program is read

def blocks(completion: str) -> tuple[list[tuple[str, str]], bool]:
  """Finds the fenced blocks of a completion.

  Returns:
    `(language, content)` of each complete block, the language in lower case;
    and whether any block is incomplete.
  """
  reading = fences.read(fences.lines(completion))
  return reading.complete, reading.broken


def program(completion: str, *, prefix: str = "",
            entry_point: str = "") -> str | None:
  """Returns the program of a completion, after `prefix`; None without one."""
  if len(completion) > _MAX_CHARACTERS:
    return None
  lines, pieces = fences.lines(completion), fences.pieces(completion)
  opened = fences.Fence("", "```")  # by the prompt
  readings = [fences.read(parts) for parts in (
      lines, pieces, [opened, *lines], [opened, *pieces])]
  if any(isinstance(line, fences.Fence) for line in lines):
    text = _fitting(readings, prefix, entry_point) or _last(
        readings[:1] if entry_point else readings)
  else:  # what stands between a program's backticks is not the program
    whole = [reading for reading in readings if not reading.broken]
    text = _fitting(whole, "", entry_point) or completion
    if not re.search(_defined(entry_point), prefix + text):
      return None
  return prefix + text if text.strip() else None


def _last(readings: Sequence[fences.Reading]) -> str:
  """The last block in Python by the first reading with one, or nothing."""
  programs = [reading.programs() for reading in readings]
  return next((texts[-1] for texts in programs if texts), "")


def _fitting(readings: Sequence[fences.Reading], prefix: str,
             entry_point: str) -> str:
  """The last block that fits the task by the best reading, or nothing.

  A reading without an incomplete block is better than one with one, and an
  earlier reading better than a later one.
  """
  if not entry_point:
    return ""
  for reading in sorted(readings, key=lambda reading: reading.broken):
    for text in reversed(reading.programs()):
      if _fits(text, prefix, entry_point):
        return text
  return ""


def _fits(text: str, prefix: str, entry_point: str) -> bool:
  """Whether a block defines the entry point, or may be the rest of `prefix`."""
  return (re.search(_defined(entry_point), text) is not None
          or (prefix != "" and text.lstrip("\n")[:1] in (" ", "\t")))


def _continued(prompts: Sequence[task_lib.Text], completions: Texts
               ) -> list[str]:
  """The completions, after the fence at the end of their prompt if it has one.
  """
  return [_opened(prompt) + completion for prompt, completion in zip(
      prompts, completions, strict=True)]


def _opened(prompt: task_lib.Text) -> str:
  """The line of the fence with which a prompt ends, or nothing.

  A message ends with one only if it is the beginning of the answer.
  """
  if not isinstance(prompt, str):
    last = prompt[-1]
    prompt = last["content"] if last["role"] == "assistant" else ""
  opened = fences.read(fences.lines(prompt.rstrip())).open
  return (f"{opened.text}\n"
          if opened and prompt.rstrip().endswith(opened.text.rstrip()) else "")


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
  del columns
  fractions = _fractions(_continued(prompts, completions), tests, setup,
                         entry_point, prefix)
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
  del columns
  return _fractions(_continued(prompts, completions), tests, setup, entry_point,
                    prefix)


def format_reward(prompts: Texts, completions: Texts, *,
                  entry_point: Texts = (), prefix: Texts = (),
                  **columns: object) -> Rewards:
  """1 if the only fenced block is marked as Python and compiles, else 0.

  If there is an entry point, the block, after the prefix, must define it.
  None where the sandbox fails, or takes no text as long as block and prefix.
  """
  del columns
  found = [_only_block(text) for text in _continued(prompts, completions)]
  asked = [(before + text, _defined(name)) for text, before, name in zip(
      found, _column(prefix, found), _column(entry_point, found), strict=True)
      if text is not None]
  known = iter(syntax.defines(asked))
  return [0.0 if text is None else next(known) for text in found]


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
  found: list[float | None] = [0.0] * len(completions)
  jobs: dict[int, sandbox.Program] = {}
  for place, (completion, checks, before, name, start) in enumerate(zip(
      completions, tests, _column(setup, completions),
      _column(entry_point, completions), _column(prefix, completions),
      strict=True)):
    strict.require(
        len(checks) > 0, "reward.tests", checks, "an example has no tests; "
        "give each at least one in the column `tests`", strict.ArgumentError)
    code = program(completion, prefix=start, entry_point=name)
    if code is None:
      continue
    # The prefix is part of the setup as well: what it defines must be the
    # tests' own, as the program may define the same names in another way.
    before = f"{before}\n{start}"
    if sum(map(len, (code, before, *checks))) > sandbox.MAX_CHARACTERS:
      found[place] = None  # with such tests no program can be run
    else:
      jobs[place] = sandbox.Program(code, tuple(checks), before, name)
  for place, result in zip(
      jobs, code_results.run(list(jobs.values())), strict=True):
    found[place] = _fraction(result)
  return found


def _fraction(result: sandbox.Result) -> float | None:
  return (None if client.Outcome.UNKNOWN in result.outcomes
          else sum(result.passed) / len(result.passed))


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
