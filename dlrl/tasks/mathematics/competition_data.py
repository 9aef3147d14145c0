"""MATH (Hendrycks et al., arXiv 2103.03874), tested on MATH500.

MATH500 (Lightman et al., arXiv 2305.20050) is 500 problems of MATH's test set;
the other 4,500 and the 7,500 of its train set are the 12,000 problems that
published runs train on. `Math` has all 12,000, `Math4500` the former part
alone: two datasets with names of their own, and the same test, which `Math500`
is alone. `Math5000` is the test set of MATH itself, of which either of them
trains on nine tenths.
"""

import functools
import re
from collections.abc import Mapping
from collections.abc import Sequence

import tensorflow_datasets as tfds

from dlrl.tasks import answers
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

# These two are kept in git's large-file storage, under their SHA-256.
_URL = ("https://media.githubusercontent.com/media/openai/prm800k/"
        "7ecc794703b2877f63226f2477a49b34f9b25163/prm800k/math_splits/")
_TRAIN = published.File(
  "math/math_train_12000.jsonl", _URL + "train.jsonl",
  ("90d96daeac3fe343ebb1e22ce93dd996"
   "90f75983e957f88de42f87cffe1e8076",))
_MATH500 = published.File(
  "math/math500_test.jsonl", _URL + "test.jsonl",
  ("35dc41080a3680858b27fa7e0533d2d5"
   "47825316fc5dafe5d316f4ccc5a06132",))
_WHOLE_TEST = published.File(
  "math/math_test.jsonl",
  "https://raw.githubusercontent.com/ZubinGou/math-evaluation-harness/"
  "db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/data/math/test.jsonl",
  # All 5,000 problems, or those that are not in MATH500, without numbers.
  ("3371949f33dd702d04b43fddd7d53a02"
   "8de0aaca0e76abb1b875a050297b3aa4",
   "f0aae10abfa9857c0bc07c167aee2a6e"
   "4f1846231af92339533e4919575a8c54"))

_TEST_ROWS = ("d0d059e8d24eb2a5c8806ab8866a7711"
              "61bc20b0d337da7b021b1e83e570ea16")


class Math(published.Published):
  """Rows of `problem`, `answer` (LaTeX), `solution` and `subject`.

  The difficulty is the level, 1 to 5; 0 where the file does not say it.
  """

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "MATH: 12,000 competition problems, tested on MATH500."
  COLUMNS: Mapping[str, type] = {
    "problem": str, "answer": str, "solution": str, "subject": str,
    "difficulty": int, "index": int}
  DIFFICULTIES = (0, 5)
  FILES: Mapping[str, published.File] = {"train": _TRAIN, "test": _MATH500}
  # The train file was not at hand when this was written; its own checksum is.
  SHA256: Mapping[str, str] = {
    "train": "", "validation": "", "test": _TEST_ROWS}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """Without problems of the test, if the train file has any."""
    test = _rows(contents["test"])
    rest = _without(contents["train"], test)
    return {**published.cut(rest, "problem"), "test": test}


class Math4500(Math):
  """As `Math`, with the 4,500 problems of MATH's test that MATH500 leaves."""

  DESCRIPTION = "MATH: 4,500 competition problems, tested on MATH500."
  FILES: Mapping[str, published.File] = {
    "train": _WHOLE_TEST, "test": _MATH500}
  SHA256: Mapping[str, str] = {
    "train": "e9d2c5a3f3ccc842cfd4cef9c47df904"
             "93f51222f63a90f7433083790ead2f21",
    "validation": "b9decda484153f17e9efd7daf1ca5cfd"
                  "8f21523162f642b7fc1708d0805bf26c",
    "test": _TEST_ROWS,
  }


class Math500(Math):
  """MATH500 alone, for evaluation without any file to train on."""

  DESCRIPTION = "MATH500: 500 competition problems."
  FILES: Mapping[str, published.File] = {"test": _MATH500}
  SHA256: Mapping[str, str] = {"test": _TEST_ROWS}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """All of them."""
    return {"test": _rows(contents["test"])}


class Math5000(Math):
  """All of MATH's test, for evaluation alone: MATH500 comes last."""

  DESCRIPTION = "MATH: the 5,000 competition problems of its test set."
  FILES: Mapping[str, published.File] = {
    "rest": _WHOLE_TEST, "test": _MATH500}
  SHA256: Mapping[str, str] = {
    "test": "fed9f839f7244b685d7d25d041b5efa9"
            "a7b57290dc6704f547f18ce73c9815c3"}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """The same rows from either form of the file."""
    test = _rows(contents["test"])
    rest = _without(contents["rest"], test)
    return {"test": [{**row, "index": index}
                     for index, row in enumerate([*rest, *test])]}


load = functools.partial(published.load, Math)
load_500 = functools.partial(published.load, Math500)
load_5000 = functools.partial(published.load, Math5000)
load_4500 = functools.partial(published.load, Math4500)


def _without(content: bytes, test: Sequence[checked.Row]
             ) -> list[checked.Row]:
  """The rows whose problems are not in the test."""
  tested = {row["problem"] for row in test}
  rest = [row for row in _rows(content) if row["problem"] not in tested]
  return [{**row, "index": index} for index, row in enumerate(rest)]


def _rows(content: bytes) -> list[checked.Row]:
  return [_row(*item) for item in enumerate(published.json_lines(content))]


def _row(index: int, item: Mapping) -> checked.Row:
  # The two files' names for the same things; the level is 3 or "Level 3". In
  # MATH500 the answer is the content of the last box, to the letter.
  answer = item.get("answer") or answers.boxed(item["solution"])
  if not answer:
    raise ValueError(f"problem {index} has no answer: {item['solution']!r}")
  level = re.search("[1-5]", str(item["level"]))
  return {"problem": item["problem"], "answer": answer,
          "solution": item["solution"],
          "subject": item["subject"] if "subject" in item else item["type"],
          "difficulty": int(level[0]) if level else 0, "index": index}
