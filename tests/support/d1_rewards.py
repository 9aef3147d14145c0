r"""The rewards of d1's published training (arXiv 2504.12216).

wd1 and SPG train on nearly the same ones. They reward completions that are not
answers; the tests show how, and docs/graders.md lists it. Rewards have TRL's
signature and are summed; each docstring gives the range.
"""

import re
from collections.abc import Iterator
from collections.abc import Sequence

from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import math_strings

# Published without DOTALL, so the frame that prompts ask for, whose parts have
# several lines, is not matched.
_STRICT = re.compile(
  r"<reasoning>\n[^\n]*\n</reasoning>\n<answer>\n[^\n]*\n</answer>\n")
_TURN = re.compile(r"</reasoning>\s*<answer>")


def sudoku_reward(prompts: Sequence[object], completions: Sequence[str], *,
                  puzzle: Sequence[str], solution: Sequence[str],
                  **columns: object) -> list[float]:
  """Fraction of blanks filled as in the solution, in [0, 1].

  Reads all digits of the last answer, padded with 0 or cut to 16.
  """
  del prompts, columns
  rewards = []
  for completion, given, right in zip(
      completions, puzzle, solution, strict=True):
    digits = "".join(filter(str.isdigit, _last_tagged(completion) or ""))
    grid = digits.ljust(16, "0")
    blanks = [cell for cell in range(16) if given[cell] == "0"]
    same = sum(grid[cell] == right[cell] for cell in blanks)
    rewards.append(same / len(blanks) if digits and blanks else 0.0)
  return rewards


def countdown_reward(prompts: Sequence[object], completions: Sequence[str], *,
                     numbers: Sequence[Sequence[int]], target: Sequence[int],
                     **columns: object) -> list[float]:
  """1 for a solution, 0.1 for any other text in answer tags, 0 without."""
  del prompts, columns
  rewards = []
  for completion, given, value in zip(
      completions, numbers, target, strict=True):
    answer = _last_tagged(completion)
    solved = answer is not None and d1.reaches(answer, given, value)
    rewards.append(0.0 if answer is None else 1.0 if solved else 0.1)
  return rewards


def tags_reward(prompts: Sequence[object], completions: Sequence[str],
                **columns: object) -> list[float]:
  """0.125 for each of the frame's four tags that occurs once, on its own line.

  Subtracts 0.001, up to twice, for every character after the last tag. At most
  0.5; negative for long texts.
  """
  del prompts, columns
  return [_tags(completion) for completion in completions]


def strict_format_reward(prompts: Sequence[object], completions: Sequence[str],
                         **columns: object) -> list[float]:
  """0.5 for the frame with one line of reasoning and one of answer, else 0."""
  del prompts, columns
  return [0.5 if _STRICT.match(completion) else 0.0
          for completion in completions]


def soft_format_reward(prompts: Sequence[object], completions: Sequence[str],
                       **columns: object) -> list[float]:
  """0.5 for a frame whose parts have no line breaks, else 0."""
  del prompts, columns
  return [0.5 if _soft(completion) else 0.0 for completion in completions]


def integer_reward(prompts: Sequence[object], completions: Sequence[str],
                   **columns: object) -> list[float]:
  """0.5 for an answer of only digits, in any script, tagged or not; else 0."""
  del prompts, columns
  return [0.5 if _untagged(completion).isdigit() else 0.0
          for completion in completions]


def gsm8k_reward(prompts: Sequence[object], completions: Sequence[str], *,
                 answer: Sequence[str], **columns: object) -> list[float]:
  """2 for exactly the text after the gold's `####`, tagged or not; else 0."""
  del prompts, columns
  return [2.0 if _untagged(completion) == gold.rpartition("####")[2].strip()
          else 0.0
          for completion, gold in zip(completions, answer, strict=True)]


def math_reward(prompts: Sequence[object], completions: Sequence[str], *,
                answer: Sequence[str], **columns: object) -> list[float]:
  """2 if the last box, or the text if it has none, is the gold's; else 0."""
  del prompts, columns
  rewards = []
  for completion, gold in zip(completions, answer, strict=True):
    found, right = (
      math_strings.unboxed(math_strings.last_boxed(text) or text)
      for text in (completion, gold))
    same = math_strings.equivalent(found, right)
    rewards.append(2.0 if same else 0.0)
  return rewards


def boxed_format_reward(prompts: Sequence[object], completions: Sequence[str],
                        **columns: object) -> list[float]:
  r"""0.75 with an `<answer>`, 0.25 without.

  Meant to be 1, 0.75, 0.5 or 0.25, but the published code never finds `\boxed`
  in the answer.
  """
  del prompts, columns
  return [0.75 if "<answer>" in completion else 0.25
          for completion in completions]


def _tags(text: str) -> float:
  score = 0.125 * sum(text.count(tag) == 1 for tag in (
    "<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>"))
  if text.count("\n<answer>\n") == 1:
    score -= 0.001 * len(text.split("\n</answer>\n")[-1])
  if text.count("\n</answer>") == 1:
    score -= 0.001 * (len(text.split("\n</answer>")[-1]) - 1)
  return score


def _soft(text: str) -> bool:
  if not text.startswith("<reasoning>"):
    return False
  line_end = (text + "\n").index("\n")
  # The reasoning may end at any closing tag of its line.
  for turn in _TURN.finditer(text):
    if turn.start() > line_end:
      return False
    close = text.find("</answer>", turn.end())
    if close >= 0 and "\n" not in text[turn.end():close]:
      return True
  return False


def _last_tagged(text: str) -> str | None:
  *_, last = None, *_tagged(text)
  return last


def _tagged(text: str) -> Iterator[str]:
  """Contents of answer tags, from left to right; may contain opening tags."""
  end = 0
  while True:
    start = text.find("<answer>", end)
    close = text.find("</answer>", start + len("<answer>"))
    if start < 0 or close < 0:
      return
    yield text[start + len("<answer>"):close].strip()
    end = close + len("</answer>")


def _untagged(text: str) -> str:
  return text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
