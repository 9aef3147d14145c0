"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems of grade school.

The 7,473 public train problems are 6,946 for training and 527 for validation.
"""

import functools
import re
from collections.abc import Mapping

import tensorflow_datasets as tfds

from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

_URL = ("https://raw.githubusercontent.com/openai/grade-school-math/"
        "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/")
_CALCULATION = re.compile(r"<<[^<>]*>>")


class Gsm8k(published.Published):
  """Rows of `question`, `answer` (as published) and `solution`."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "GSM8K: word problems of grade school."
  COLUMNS: Mapping[str, type] = {
    "question": str, "answer": str, "solution": str, "difficulty": int,
    "index": int}
  FILES: Mapping[str, published.File] = {
    "train": published.File(
      "gsm8k/train.jsonl", _URL + "train.jsonl",
      ("17f347dc51477c50d4efb83959dbb7c5"
       "6297aba886e5544ee2aaed3024813465",)),
    "test": published.File(
      "gsm8k/test.jsonl", _URL + "test.jsonl",
      ("3730d312f6e3440559ace48831e51066"
       "acaca737f6eabec99bccb9e4b3c39d14",)),
  }
  SHA256: Mapping[str, str] = {
    "train": "f3ab3a5ba10127a50a43c5ea7ef7e599"
             "d13146409ceee9eb0cb8017fd3611d0e",
    "validation": "8f795d48a5fb5dc1448668a3281518e7"
                  "1fafeca7855e5ebcc00ae86e0549dd1e",
    "test": "f31b0ab26f9aa304f4e6682f6591ce0d"
            "d305db8eb9f4a0456d9e7fb3cb4736b6",
  }

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """Validation is cut from the train file."""
    rows = {name: [_row(*item) for item in enumerate(
      published.json_lines(content))] for name, content in contents.items()}
    return {**published.cut(rows["train"], "question"), "test": rows["test"]}


load = functools.partial(published.load, Gsm8k)


def parts(answer: str) -> tuple[str, str]:
  r"""The rationale, without the calculator's notes, and the number.

  Args:
    answer: as published, `Half is 4/2=<<4/2=2>>2.\n#### 2`.
  """
  rationale, _, number = answer.rpartition("####")
  return _CALCULATION.sub("", rationale).strip(), number.strip()


def _row(index: int, item: Mapping[str, str]) -> checked.Row:
  steps, number = parts(item["answer"])
  return {"question": item["question"], "answer": item["answer"],
          "solution": f"{steps}\nThe answer is \\boxed{{{number}}}.",
          "difficulty": 1, "index": index}
