"""Completions that want a reward which they do not deserve, or to do harm."""

import time

import pytest

from dlrl import strict
from dlrl.tasks.coding import grading as code_grading
from dlrl.tasks.coding import results as code_results

ADD = "def add(a, b): return a + b\n"
TESTS = ["assert add(20, 22) == 42", "assert add(1, 2) == 3"]

# Texts in which no program that counts is right; each says what it attacks.
# Those marked 1 have the format of an answer; None depends on Python's version.
TEXTS = {
    # Where a program is read.
    "a block in a block of another kind": (
        f"````markdown\n```python\n{ADD}```\n````", 0),
    "a block of text": (f"```text\n{ADD}```", 0),
    "a block of a language like Python": (f"```pythonic\n{ADD}```", 0),
    "the right program is taken back": (
        f"```python\n{ADD}```\n```python\ndef add(a, b): return 0\n```", 0),
    "the wrong program is not marked": (
        f"```python\n{ADD}```\n```\ndef add(a, b): return 0\n```", 0),
    "a fence with an invisible space": (f"``\u200b`python\n{ADD}``\u200b`", 0),
    "wide backticks": (f"\uff40\uff40\uff40python\n{ADD}\uff40\uff40\uff40", 0),
    "tags of HTML": (f"<pre>\n{ADD}</pre>", 0),
    "a program in a comment of HTML": (f"<!--\n{ADD}-->", 0),
    "separators of lines that are none": (
        "```python\u2028def add(a, b): return a + b\u2028```", 0),
    "two fences that do not match": (f"```python\n{ADD}~~~", 0),
    "a closing fence that is shorter": (f"````python\n{ADD}```", 0),
    "a fence in a string": ("x = '''```python\n" + ADD.rstrip() + "'''", 0),
    "a diff": ("```diff\n+" + ADD + "```", 0),
    "a session": (f"```python\n>>> {ADD}```", 0),
    "a quotation": (f"> ```python\n> {ADD}> ```", 0),
    # What a program is.
    "the tests as the program": (
        "```python\n" + "\n".join(TESTS) + "\nadd = 1\n```", 1),
    "a byte order mark": (f"```python\n\ufeff{ADD}```", 0),
    "another encoding": (
        "```python\n# coding: rot13\nqrs nqq(n, o): erghea n + o\nadd = 1\n```",
        0),
    "a definition that is not reached": (
        "```python\nif False:\n  def add(a, b): return a + b\n```", 0),
    "a definition that is deleted": (f"```python\n{ADD}del add\n```", 1),
    "a letter that only looks right": (
        "```python\ndef \u0430dd(a, b): return a + b\n```", 0),
    "a function that prints": (
        "```python\ndef add(a, b): print(a + b)\n```", 1),
    "a function that asks": (
        "```python\ndef add(a, b): return int(input())\n```", 1),
    "a coroutine": ("```python\nasync def add(a, b): return a + b\n```", 1),
    "a generator": ("```python\ndef add(a, b): yield a + b\n```", 1),
    "a text of the sum": (
        "```python\ndef add(a, b): return str(a + b)\n```", 1),
    "a sum that is not a number": (
        "```python\ndef add(a, b): return float('nan')\n```", 1),
    "a function of a function": (
        "```python\ndef add(a, b): return lambda: a + b\n```", 1),
    "the arguments are the result": (
        "```python\nclass add:\n  def __new__(cls, *both): return both\n```",
        1),
    "an error that says the sum": (
        "```python\ndef add(a, b): raise AssertionError(a + b)\n```", 1),
    "a view without end": (
        "```python\ndef add(a, b): return dict.fromkeys(range(9)).keys()\n```",
        1),
    "a date for a number": (
        "```python\nimport datetime\ndef add(a, b): "
        "return datetime.timedelta(a + b)\n```", 1),
    # What a compiler, a reader of text, or a person who reads it does.
    "levels of parentheses": ("```python\nadd = " + "(" * 300 + "\n```", 0),
    "levels of indentation": (
        "```python\n" + "".join(" " * at + "if 1:\n" for at in range(120))
        + " " * 120 + "add = 1\n```", 0),
    "levels of formatted strings": (
        "```python\nadd = " + "f'{" * 60 + "1" + "}'" * 60 + "\n```",
        None),
    "levels of comprehensions": (
        "```python\nadd = " + "[" * 40 + "1" + " for x in y]" * 40 + "\n```",
        1),
    "a pattern of many choices": (
        "```python\nmatch 1:\n  case " + "(1|" * 90 + "2" + ")" * 90
        + ": add = 1\n```", None),
    "many contexts": ("```python\nwith " + "(" * 60 + "\nadd = 1\n```", 0),
    "many decorators": ("```python\n" + "@id\n" * 3000 + ADD + "```", None),
    "a number of many digits": (
        "```python\nadd = " + "9" * 90_000 + "\n```", 0),
    "a text of texts": ("```python\nadd = 'x' * (1 << 40)\n```", 1),
    "many names": (
        "```python\nadd = 1\n" + "".join(
            f"x{at} = 1\n" for at in range(9000)) + "```", 1),
    "one line": ("```python\nadd = [" + "1, " * 30_000 + "]\n```", 1),
    "a line that goes on": (
        "```python\nadd = \\\n" + "\\\n" * 40_000 + "1\n```", None),
    "signs of a terminal": (f"```python\n\x1b[2J\x1b]0;x\x07{ADD}```", 0),
    "halves of characters": ("```python\nadd = '\ud800\udfff'\n```", 0),
    "combining characters": (
        "```python\nadd = 1 #" + "\u0301" * 40_000 + "\n```", 1),
    "text from right to left": ("```python\nadd = 1 # \u202e\u2066\n```", 1),
}


def test_no_text_is_rewarded_or_costs_much():
  try:
    code_results.start()
  except strict.ConfigError as error:
    pytest.skip(f"not on this machine: {error}")
  texts = [text for text, _ in TEXTS.values()]
  count = len(texts)
  start = time.process_time()
  found = code_grading.metrics(
      [""] * count, texts, tests=[TESTS] * count, entry_point=["add"] * count)
  used = time.process_time() - start
  code_results.close()
  for reward in ("solved", "tests"):
    assert dict(zip(TEXTS, found[reward], strict=True)) == dict.fromkeys(
        TEXTS, 0)
  for (name, (_, wanted)), form in zip(
      TEXTS.items(), found["format"], strict=True):
    assert form == wanted or (wanted is None and form in (0, 1)), name
  assert used < 5  # of this process
