"""How 4x4 Sudoku is asked: in short, in words, and as published runs do.

The texts of other projects are reconstructed from descriptions: what they say
and the format they ask for is theirs, the wording is not, so that numbers made
with them are close to a paper's setting and not the same to the last token.
"""

from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib

CELLS = "abcdefghijklmnop"

_OURS = """\
Solve this 4x4 Sudoku. It is written as 16 digits, row by row from the top \
left; 0 is an empty cell. Fill the empty cells so that every row, every column \
and every 2x2 box in a corner has each of the digits 1 to 4 once. The other \
digits stay as they are.

Puzzle: {puzzle}

Give the filled grid as 16 digits, row by row, between <answer> and \
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
  ("0000012400434012", "2431312412434312"),
  ("0032204000204010", "1432234131244213"),
  ("0140400300000024", "3142421324311324"),
)


def bare(row: task_lib.Row) -> str:
  """The cells' names, then the digits in the same order.

  So a transformer that knows relative positions alone finds a cell's place and
  its clue at fixed distances: `abcdefghijklmnop1030040203102001`.
  """
  return CELLS + row["puzzle"]


def _ask(text: str) -> task_lib.Prompt:
  """A prompt in words: `text` with the puzzle filled in."""
  return task_lib.Prompt(
    lambda row: text.format(puzzle=row["puzzle"]), prompts.tagged)


def _worked(puzzle: str, grid: str) -> str:
  lines = []
  for i in range(0, 16, 4):
    before, after = (" ".join(x[i:i + 4]) for x in (puzzle, grid))
    row = i // 4 + 1
    lines += [f"Row {row} of the puzzle is {before}.",
              f"With what its columns and boxes lack, it becomes {after}."]
  reasoning = "\n".join([*lines, "The rows in their order are the answer."])
  return (f"Question: S{_SOLVE.format(puzzle=puzzle)}\nAnswer:\n<reasoning>\n"
          f"{reasoning}\n</reasoning>\n<answer>\n{grid}\n</answer>\n\n")


PROMPTS = {
  "bare": task_lib.Prompt(bare, between=" ", after="|"),
  "dlrl": _ask(_OURS),
  "d1": _ask(f"{_RULES}\nS{_SOLVE}"),
  "spg": _ask(f"{_RULES}\n{''.join(_worked(*pair) for pair in _EXAMPLES)}"
              f"Question: S{_SOLVE}\nAnswer:"),
  "espo": _ask(f"{_ESPO}Now, s{_SOLVE}"),
  "espo_eval": _ask(f"{_ESPO}S{_SOLVE}"),
}
