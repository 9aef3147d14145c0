"""How Sudoku is asked: in short, in words, and 4x4 as published runs do.

The texts of other projects are reconstructed from descriptions: what they say
and the format they ask for is theirs, the wording is not, so that numbers made
with them are close to a paper's setting and not the same to the last token.
wd1 and dllm use d1's. A name that ends in `_eval` is what a project evaluates
with: the answer's first tag is given.
"""

from dlrl.tasks import frames
from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib

CELLS = "abcdefghijklmnop"

_OURS = """\
Solve this {side}x{side} Sudoku. It is written as {size} digits, row by row \
from the top left; 0 is an empty cell. Fill the empty cells so that every row, \
every column and every {box}x{box} box has each of the digits 1 to {side} \
once. The other digits stay as they are.

Puzzle: {puzzle}

Give the filled grid as {size} digits, row by row, between <answer> and \
</answer>."""

_RULES = """\
You will be given a 4x4 Sudoku puzzle as a string of 16 characters, read row \
by row from left to right, in which 0 stands for an empty cell. Solve it by \
these rules:
1. Each row holds every digit from 1 to 4 exactly once.
2. Each column holds every digit from 1 to 4 exactly once.
3. Each 2x2 box holds every digit from 1 to 4 exactly once.

Your answer must be the COMPLETE solution: a string of 16 characters with all \
cells filled.

Use this format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>
"""

_ESPO = """\
**Task:** You will be given a **4x4 Sudoku puzzle** as a string of 16 \
characters, read row by row from left to right, in which 0 stands for an empty \
cell. Solve it.

**Rules:**
- Each **row** holds every digit from 1 to 4 exactly once.
- Each **column** holds every digit from 1 to 4 exactly once.
- Each **2x2 box** holds every digit from 1 to 4 exactly once.

**Example:**
Puzzle: 0401002010030310
This is the grid:
0 4 0 1
0 0 2 0
1 0 0 3
0 3 1 0
The filled grid is:
2 4 3 1
3 1 2 4
1 2 4 3
4 3 1 2
<answer>
2431312412434312
</answer>

**Important:** the answer must be the **COMPLETE** solution, a string of 16 \
characters with all cells filled.

**Format:**
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>

"""
_SOLVE = "olve the following Sudoku puzzle: {puzzle}"

# Worked examples of SPG's prompt: here, of train puzzles of our own data.
_EXAMPLES = (
  {"puzzle": "0000012400434012", "solution": "2431312412434312"},
  {"puzzle": "0032204000204010", "solution": "1432234131244213"},
  {"puzzle": "0140400300000024", "solution": "3142421324311324"},
)


def bare(row: task_lib.Example) -> str:
  """The cells' names, then the digits in the same order.

  So a transformer that knows relative positions alone finds a cell's place and
  its clue at fixed distances: `abcdefghijklmnop1030040203102001`.
  """
  return CELLS + row["puzzle"]


def bare9(row: task_lib.Example) -> str:
  """The digits alone: the cells are more than there are letters."""
  return row["puzzle"]


def ours(row: task_lib.Example) -> str:
  """The rules in words, of a puzzle of either size."""
  size = len(row["puzzle"])
  side, box = {16: (4, 2), 81: (9, 3)}[size]
  return _OURS.format(puzzle=row["puzzle"], size=size, side=side, box=box)


def _reasoning(row: task_lib.Example) -> str:
  """The 4x4 puzzle and its solution row by row."""
  lines = []
  for i in range(0, 16, 4):
    before, after = (" ".join(row[column][i:i + 4])
                     for column in ("puzzle", "solution"))
    lines += [f"Row {i // 4 + 1} of the puzzle is {before}.",
              f"With what its columns and boxes lack, it becomes {after}."]
  return "\n".join([*lines, "The rows in their order are the answer."])


def _answer(row: task_lib.Example) -> str:
  return frames.framed(_reasoning(row), row["solution"])


def _rest(row: task_lib.Example) -> str:
  return frames.after_begun(_reasoning(row), row["solution"])


def _ask(text: str) -> task_lib.Prompt:
  """A prompt in words: `text` with the puzzle filled in."""
  return task_lib.Prompt(
    lambda row: text.format(puzzle=row["puzzle"]), _answer)


def _begin(text: str) -> task_lib.Prompt:
  """`_ask` with the answer begun."""
  return task_lib.Prompt(
    lambda row: frames.begun(text.format(puzzle=row["puzzle"])), _rest)


_D1 = f"{_RULES}\nS{_SOLVE}"
_WORKED = "".join(
  f"Question: S{_SOLVE}\nAnswer:\n".format(**row) + _answer(row) + "\n\n"
  for row in _EXAMPLES)
_SPG = f"{_RULES}\n{_WORKED}Question: S{_SOLVE}\nAnswer:"

PROMPTS = {
  "bare": task_lib.Prompt(bare, between=" ", after="|"),
  "dlrl": task_lib.Prompt(ours, prompts.tagged),
  "d1": _ask(_D1),
  "d1_eval": _begin(_D1),
  "spg": _ask(_SPG),
  "spg_eval": _begin(_SPG),
  "espo": _ask(f"{_ESPO}Now, s{_SOLVE}"),
  "espo_eval": _begin(f"{_ESPO}S{_SOLVE}"),
}
PROMPTS9 = {
  "bare": task_lib.Prompt(bare9, between=" ", after="|"),
  "dlrl": PROMPTS["dlrl"],
}
