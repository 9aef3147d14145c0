"""MATH (Hendrycks et al., arXiv 2103.03874), tested on MATH500.

MATH500 (Lightman et al., arXiv 2305.20050) is 500 problems of MATH's test set.
The other 4,500 and the 7,500 of the train set are the 12,000 problems on which
published runs train. Four datasets:

    MATH       12,000 train problems, tested on MATH500
    MATH_4500  4,500 train problems, those of MATH's test set; the same test
    MATH_500   MATH500, for evaluation only
    MATH_5000  MATH's whole test set, for evaluation only: the first two train
               on nine tenths of it

Rows have `problem`, `answer` (LaTeX), `solution` and `subject`. The difficulty
is the level, 1 to 5; 0 where the file does not say it.
"""

import dataclasses
import re
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

# These two are in Git LFS, which stores files under their SHA-256.
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
  # All 5,000 problems, or only those not in MATH500, without their numbers.
  ("3371949f33dd702d04b43fddd7d53a02"
   "8de0aaca0e76abb1b875a050297b3aa4",
   "f0aae10abfa9857c0bc07c167aee2a6e"
   "4f1846231af92339533e4919575a8c54"))

_TEST_ROWS = ("d0d059e8d24eb2a5c8806ab8866a7711"
              "61bc20b0d337da7b021b1e83e570ea16")


def _without(content: bytes, test: Sequence[checked.Row]
             ) -> list[checked.Row]:
  """The rows whose problems are not in `test`, numbered anew."""
  tested = {row["problem"] for row in test}
  rest = [row for row in _rows(content) if row["problem"] not in tested]
  return [{**row, "index": index} for index, row in enumerate(rest)]


def _rows(content: bytes) -> list[checked.Row]:
  return [_row(*item) for item in enumerate(published.json_lines(content))]


def _row(index: int, item: Mapping) -> checked.Row:
  # The files name the same things differently, and the level is 3 or "Level 3".
  # MATH500's `answer` is exactly the content of the solution's last box.
  answer = item.get("answer") or answers.boxed(item["solution"])
  if not answer:
    raise ValueError(f"problem {index} has no answer: {item['solution']!r}")
  level = re.search("[1-5]", str(item["level"]))
  return {"problem": item["problem"], "answer": answer,
          "solution": item["solution"],
          "subject": item["subject"] if "subject" in item else item["type"],
          "difficulty": int(level[0]) if level else 0, "index": index}


def _train_and_test(contents: Mapping[str, bytes]
                    ) -> dict[str, list[checked.Row]]:
  """Never trains on a problem of the test, whatever the train file has."""
  test = _rows(contents["test"])
  rest = _without(contents["train"], test)
  return {**published.cut(rest, "problem"), "test": test}


def _whole_test(contents: Mapping[str, bytes]) -> dict[str, list[checked.Row]]:
  """MATH500 comes last, so both forms of the other file give the same rows."""
  test = _rows(contents["test"])
  rows = [*_without(contents["rest"], test), *test]
  return {"test": [{**row, "index": i} for i, row in enumerate(rows)]}


MATH = published.Published(
  name="math",
  version="1.0.0",
  description="MATH: 12,000 competition problems, tested on MATH500.",
  columns={"problem": str, "answer": str, "solution": str, "subject": str,
           "difficulty": int, "index": int},
  difficulties=(0, 5),
  parse=_train_and_test,
  files={"train": _TRAIN, "test": _MATH500},
  # The train file was not at hand when this was written, only its checksum.
  sha256={"train": "", "validation": "", "test": _TEST_ROWS})
MATH_4500 = dataclasses.replace(
  MATH,
  name="math4500",
  description="MATH: 4,500 competition problems, tested on MATH500.",
  files={"train": _WHOLE_TEST, "test": _MATH500},
  sha256={
    "train": "e9d2c5a3f3ccc842cfd4cef9c47df904"
             "93f51222f63a90f7433083790ead2f21",
    "validation": "b9decda484153f17e9efd7daf1ca5cfd"
                  "8f21523162f642b7fc1708d0805bf26c",
    "test": _TEST_ROWS,
  })
MATH_500 = dataclasses.replace(
  MATH,
  name="math500",
  description="MATH500: 500 competition problems.",
  parse=lambda contents: {"test": _rows(contents["test"])},
  files={"test": _MATH500},
  sha256={"test": _TEST_ROWS})
MATH_5000 = dataclasses.replace(
  MATH,
  name="math5000",
  description="MATH: the 5,000 competition problems of its test set.",
  parse=_whole_test,
  files={"rest": _WHOLE_TEST, "test": _MATH500},
  sha256={"test": "fed9f839f7244b685d7d25d041b5efa9"
                  "a7b57290dc6704f547f18ce73c9815c3"})
