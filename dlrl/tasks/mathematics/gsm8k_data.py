"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems of grade school.

Rows have `question`, `answer` (as published) and `solution` (without the
calculator's notes, the number in a box). The 7,473 public train problems are
cut into 6,946 for training and 527 for validation.
"""

import re
from collections.abc import Mapping

from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

_URL = ("https://raw.githubusercontent.com/openai/grade-school-math/"
        "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/")
_CALCULATION = re.compile(r"<<[^<>]*>>")


def parts(answer: str) -> tuple[str, str]:
  r"""The rationale of a published answer, without its notes, and the number.

  `Half is 4/2=<<4/2=2>>2.\n#### 2` gives `("Half is 4/2=2.", "2")`.
  """
  rationale, _, number = answer.rpartition("####")
  return _CALCULATION.sub("", rationale).strip(), number.strip()


def _row(index: int, item: Mapping[str, str]) -> checked.Row:
  steps, number = parts(item["answer"])
  return {"question": item["question"], "answer": item["answer"],
          "solution": f"{steps}\nThe answer is \\boxed{{{number}}}.",
          "difficulty": 1, "index": index}


def _splits(contents: Mapping[str, bytes]) -> dict[str, list[checked.Row]]:
  rows = {name: [_row(*item) for item in enumerate(
    published.json_lines(content))] for name, content in contents.items()}
  # The public files have no validation split.
  return {**published.cut(rows["train"], "question"), "test": rows["test"]}


GSM8K = published.Published(
  name="gsm8k",
  version="1.0.0",
  description="GSM8K: word problems of grade school.",
  columns={"question": str, "answer": str, "solution": str, "difficulty": int,
           "index": int},
  parse=_splits,
  files={
    "train": published.File(
      "gsm8k/train.jsonl", _URL + "train.jsonl",
      ("17f347dc51477c50d4efb83959dbb7c5"
       "6297aba886e5544ee2aaed3024813465",)),
    "test": published.File(
      "gsm8k/test.jsonl", _URL + "test.jsonl",
      ("3730d312f6e3440559ace48831e51066"
       "acaca737f6eabec99bccb9e4b3c39d14",)),
  },
  sha256={
    "train": "f3ab3a5ba10127a50a43c5ea7ef7e599"
             "d13146409ceee9eb0cb8017fd3611d0e",
    "validation": "8f795d48a5fb5dc1448668a3281518e7"
                  "1fafeca7855e5ebcc00ae86e0549dd1e",
    "test": "f31b0ab26f9aa304f4e6682f6591ce0d"
            "d305db8eb9f4a0456d9e7fb3cb4736b6",
  })
