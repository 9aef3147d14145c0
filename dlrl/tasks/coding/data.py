"""MBPP (Austin et al., arXiv 2108.07732) and HumanEval (arXiv 2107.03374).

Python programs that are judged by tests. A row has

    text         the question: MBPP's sentence, HumanEval's code to complete
    signature    MBPP: the first lines of what the tests call, from the solution
    prefix       HumanEval: the code to complete; a program starts with it
    tests        code for each test, which raises an error on a wrong program
    setup        code between the program and each test
    entry_point  name of the function
    solution     a whole program as published, with LF line ends

MBPP's sentence names neither the function nor its arguments. `signature` does,
so a prompt need not show a test that is scored.

MBPP has 974 tasks, with MBPP's `task_id` as the index; its sanitized version
has the 427 that the authors checked and partly rewrote. HumanEval has 164
functions, only for testing; its checks of a function are one test, which stops
at the first that fails.
"""

import ast
import gzip
import json
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

_COLUMNS: Mapping[str, type] = {
  "text": str, "signature": str, "prefix": str, "tests": list, "setup": str,
  "entry_point": str, "solution": str, "difficulty": int, "index": int}

# MBPP's task numbers by split, as its authors say; "prompt" is for worked
# examples.
_SPLITS = {"prompt": range(1, 11), "test": range(11, 511),
           "validation": range(511, 601), "train": range(601, 975)}
_URL = ("https://raw.githubusercontent.com/google-research/google-research/"
        "30adf0ec5f35f9609c2f1d896005e184195d9146/mbpp/")


def interface(program: str, uses: Sequence[str]) -> tuple[str, list[str]]:
  """The signatures of what other code calls in a program.

  The program is parsed and never run.

  Args:
    program: Python code.
    uses: Python code that calls functions and classes of the program.

  Returns:
    One line for each `def` and `class` that is called, and the names of the
    functions among them.

  Raises:
    SyntaxError: a text is not Python.
  """
  called = {node.func.id for text in uses for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
  lines, names = [], []
  for node in ast.parse(program).body:
    if isinstance(node, ast.ClassDef) and node.name in called:
      lines.append(f"class {node.name}:")
      lines += ["  " + _first_line(method) for method in node.body
                if isinstance(method, ast.FunctionDef)
                and method.name == "__init__"]
    elif isinstance(node, ast.FunctionDef) and node.name in called:
      lines.append(_first_line(node))
      names.append(node.name)
  return "\n".join(lines), names


def _first_line(function: ast.FunctionDef) -> str:
  return f"def {function.name}({ast.unparse(function.args)}):"


def _mbpp(item: Mapping, text: str, setup: str) -> checked.Row:
  program = item["code"].replace("\r\n", "\n")
  setup = setup.replace("\r\n", "\n")
  signature, names = interface(program, [*item["test_list"], setup])
  return {
    "text": text, "signature": signature, "prefix": "",
    "tests": item["test_list"], "setup": setup, "entry_point": names[-1],
    "solution": program, "difficulty": 1, "index": item["task_id"]}


def _human_eval(item: Mapping) -> checked.Row:
  return {
    "text": item["prompt"], "signature": "", "prefix": item["prompt"],
    "tests": [f"{item['test']}\n\ncheck({item['entry_point']})\n"], "setup": "",
    "entry_point": item["entry_point"],
    "solution": item["prompt"] + item["canonical_solution"],
    "difficulty": 1, "index": int(item["task_id"].rpartition("/")[2])}


def _by_number(rows: Sequence[checked.Row]
               ) -> dict[str, list[checked.Row]]:
  return {split: [row for row in rows if row["index"] in numbers]
          for split, numbers in _SPLITS.items()}


def _mbpp_splits(contents: Mapping[str, bytes]) -> dict[str, list[checked.Row]]:
  return _by_number([_mbpp(item, item["text"], item["test_setup_code"])
                     for item in published.json_lines(contents["all"])])


def _sanitized_splits(contents: Mapping[str, bytes]
                      ) -> dict[str, list[checked.Row]]:
  return _by_number([
    _mbpp(item, item["prompt"], "\n".join(item["test_imports"]))
    for item in json.loads(contents["all"])])


def _human_eval_splits(contents: Mapping[str, bytes]
                       ) -> dict[str, list[checked.Row]]:
  lines = gzip.decompress(contents["test"])
  return {"test": [_human_eval(x) for x in published.json_lines(lines)]}


MBPP = published.Published(
  name="mbpp",
  version="1.0.0",
  description="MBPP: mostly basic Python problems.",
  columns=_COLUMNS,
  parse=_mbpp_splits,
  files={"all": published.File(
    "mbpp/mbpp.jsonl", _URL + "mbpp.jsonl",
    ("ccf64ceae9c5403bf50a044cb6d505bf"
     "d2a2963ee58338ba268fd65beab92a9f",))},
  sha256={
    "train": "d6898af7a5cba9daf5036d65933b8268"
             "c5c960db18a7d87fb9942b333550fe06",
    "validation": "51e0186019c2c1bc2e3947656b50393c"
                  "14b2865d87207a884e70aba051c1ea12",
    "test": "84338c20d7a2251bb5d3b6b72b152d35"
            "f558930c2fd56ebd431090b5b627aeba",
    "prompt": "f7b66cdd9832c99b1f43c665f1250a91"
              "7e09b3a771ae4d3b01a0ba0b91d54c97",
  })
MBPP_SANITIZED = published.Published(
  name="mbpp_sanitized",
  version="1.0.0",
  description="MBPP, sanitized: mostly basic Python problems.",
  columns=_COLUMNS,
  parse=_sanitized_splits,
  files={"all": published.File(
    "mbpp/sanitized-mbpp.json", _URL + "sanitized-mbpp.json",
    # On one line, or indented by four.
    ("ca95deaa9a01ef0a6f439f88bcf0dd3d"
     "b3563d22f22aad6cae04ebb9a8d8c8e9",
     "7fec016546acaee11dbe14f9f0bb670e"
     "59f41919f7b522a59fba34871da78551"))},
  sha256={
    "train": "462d3c9d59a625836850db1ed9039972"
             "f402c5576d263c82e9dd58648adfc699",
    "validation": "88fd9ca5b076747ccc0858f3eb3d2fbd"
                  "61e1694481e647846ad27efd6eb20ad0",
    "test": "4aa95ba90377be82e522c1c8a801a2d6"
            "db83368f3cc77371545daf16fe2ba281",
    "prompt": "778fc7ad43c89deb51da1d0881f8678e"
              "47af81c9445d41b6ec11103ba0b513c8",
  })
HUMANEVAL = published.Published(
  name="humaneval",
  version="1.0.0",
  description="HumanEval: functions to complete.",
  columns=_COLUMNS,
  parse=_human_eval_splits,
  files={"test": published.File(
    "humaneval/HumanEval.jsonl.gz",
    "https://raw.githubusercontent.com/openai/human-eval/"
    "6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
    ("b796127e635a67f93fb35c04f4cb03cf"
     "06f38c8072ee7cee8833d7bee06979ef",))},
  sha256={"test": "c09142a9580522f479bd496fe2bf33e9"
                  "69936e2f381c47214469aa8cea4e01ba"})
