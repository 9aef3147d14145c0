r"""Compares the parts of two answers by all rules that need no algebra.

The rules are those of `competition`. Both answers are spelled alike
(`spelling.spelled`).
"""

import functools
import re
from collections.abc import Callable
from collections.abc import Sequence

from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import questions
from dlrl.tasks.mathematics import spelling
from dlrl.tasks.mathematics import statements
from dlrl.tasks.mathematics import units
from dlrl.tasks.mathematics.questions import Question
from dlrl.tasks.mathematics.statements import Item

_BASED = re.compile(r"(-?[0-9][0-9A-F]*(?:\.[0-9A-F]+)?)_\{?([0-9]+)\}?"
                    r"|(-?[0-9A-F]*[0-9][0-9A-F]*)_\{?(1[1-6])\}?")
_DECIMAL_BASE = re.compile(r"(?<=[0-9])_\{?10\}?\Z")
_TIME = re.compile(
  r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?([ap])\.?m\.?", re.A | re.I)
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_WORDS = re.compile(r"[A-Za-z(][A-Za-z'.()-]*", re.A)
_BETWEEN_LETTERS = re.compile(r"['.()]|(?<=[a-z])-(?=[a-z])")
# 10 080 as an answer to a number; between two numbers there would be a comma.
_SPACED = re.compile(r"(-?[1-9][0-9]{0,2}(?: [0-9]{3})+)(?! *[0-9/]|\\)")
_TO = re.compile(r"\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*", re.A)
_OF_X = re.compile(r"y|[A-Za-z]\(x\)")
# Units do not matter, but 12 noon is not 12 midnight.
_CONTRARIES = (
  ("am", "pm"), ("am", "noon"), ("pm", "midnight"), ("noon", "midnight"),
  ("north", "south"), ("north", "east"), ("north", "west"), ("south", "east"),
  ("south", "west"), ("east", "west"), ("left", "right"), ("up", "down"),
  ("above", "below"), ("clockwise", "counterclockwise"),
  ("increase", "decrease"), ("profit", "loss"), ("percent", "times"))
_WORD = re.compile(r"(?<![\\a-z])[a-z]{2,16}(?![a-z])")
_KEPT = 4096  # results, since entries of lists are compared with one another
_INDEX = re.compile(r"_?[0-9]+\Z")


def question(gold: str, answer: str) -> Question:
  """Whether the answer is right, as far as these rules decide."""
  if gold == answer:
    return True
  if _contrary(gold, answer):
    return False
  gold, modulus = statements.residue(gold)
  answer, other_modulus = statements.residue(answer)
  if modulus and other_modulus and modulus != other_modulus:
    return False
  number, found = _number(gold), _answered(answer)
  if number is not None and found is not None:
    return exact_numbers.equal(number, found)
  right: Sequence[Item] = statements.items(gold)
  found_items = statements.items(answer)
  if len(right) == len(found_items) == 1:
    return _entry(right[0], found_items[0], _scalar)
  if len(right) == 1 and right[0].name.startswith("("):
    right = _spread(right[0])  # (x, y) = (3, 4)
  names, other = _names(right), _names(found_items)
  if len(names) > 1:
    return _system(right, found_items)
  if len(other) > 1 and not _indexed(other):
    return False
  if len(right) == len(found_items):
    return _unordered(right, found_items)
  return _list_for_group([item.value for item in right],
                         [item.value for item in found_items])


def _entry(gold: Item, answer: Item,
           compare: Callable[[str, str], Question]) -> Question:
  """Compares two entries of lists, `x = 5` and `5` for example."""
  if spelling.reduced(gold.text) == spelling.reduced(answer.text):
    return True
  if gold.equation or answer.equation or (
      gold.name and answer.name and not _same_name(gold.name, answer.name)):
    # An equation is right if it is equivalent. Where the gold is solved, the
    # answer has to be solved as well.
    solved = not (gold.equation or statements.product(gold.name)
                  or statements.unknowns(gold.value))
    both = all(item.equation or item.name for item in (gold, answer))
    return both and not solved and (gold.text, answer.text)
  return compare(gold.value, answer.value)


def _same_name(gold: str, answer: str) -> bool:
  """Whether names are equal, or y and f(x)."""
  return gold == answer or ("y" in (gold, answer) and all(
    _OF_X.fullmatch(name) for name in (gold, answer)))


def _system(gold: Sequence[Item], answer: Sequence[Item]) -> Question:
  """Compares with a gold of several names, `x = 3, y = 4`."""
  if len(answer) == 1:
    answer = _spread(answer[0])
  if len(answer) != len(gold):
    return False
  if not any(item.name or item.equation for item in answer):
    return questions.every([_value(one.value, other.value) for one, other in
                            zip(gold, answer, strict=True)])
  return _unordered(gold, answer, named=True)


def _spread(item: Item) -> Sequence[Item]:
  """The entries of `(x, y) = (3, 4)` or of `(3, 4)`; else only the item."""
  group = statements.group(item.value)
  if group is None or group.left + group.right != "()":
    return [item]
  names = item.name.strip("()").split(",") if item.name else (
    [""] * len(group.parts))
  if len(names) != len(group.parts):
    return [item]
  return [Item(name, part, f"{name}={part}" if name else part, False)
          for name, part in zip(names, group.parts, strict=True)]


def _unordered(gold: Sequence[Item], answer: Sequence[Item],
               *, named: bool = False) -> Question:
  """Whether the entries can be paired; each with its name if `named`."""
  if not named and _indexed(_names(answer)):
    answer = [item._replace(name="") for item in answer]
  return questions.matched([
    [not (named and one.name != other.name and not one.equation)
     and _entry(one, other, _value) for other in answer] for one in gold])


def _list_for_group(gold: Sequence[str], answer: Sequence[str]) -> Question:
  """A list may stand for a set, or in its order for a tuple."""
  for single, several in ((gold, answer), (answer, gold)):
    group = statements.group(single[0]) if len(single) == 1 else None
    if group is None or len(group.parts) != len(several) or (
        group.left == "[" or group.right == "]"):
      continue
    left, right = ((group.parts, several) if single is gold
                   else (several, group.parts))
    return _parts(group.left + group.right, left, right)
  return False


def _parts(brackets: str, gold: Sequence[str], answer: Sequence[str]
           ) -> Question:
  if brackets == r"\{\}":
    return questions.matched(
      [[_value(one, other) for other in answer] for one in gold])
  return questions.every([_value(one, other) for one, other in
                          zip(gold, answer, strict=True)])


def _scalar(gold: str, answer: str) -> Question:
  """A value that is not part of a list or group: it has to be worked out."""
  if _number(gold) is not None and _answered(answer) is None:
    return False
  return _value(gold, answer)


def _value(gold: str, answer: str) -> Question:
  """Compares two values without names."""
  gold, answer = statements.unwrapped(gold), statements.unwrapped(answer)
  if spelling.reduced(gold) == spelling.reduced(answer):
    return True
  if time := _time(gold):
    return time == _time(answer)
  if _CLOCK.fullmatch(spelling.reduced(gold)) and (time := _time(answer)):
    return time[:3] == _clock(spelling.reduced(gold))
  right, found = (
    statements.unwrapped(units.bare(text)) for text in (gold, answer))
  number, found_number = _number(right), _answered(answer)
  if number is not None and found_number is not None:
    return exact_numbers.equal(number, found_number)
  expected, stated = spelling.reduced(right), spelling.reduced(found)
  if expected == stated:
    return True
  if based := _base(expected):
    return stated == based[0] or based == _base(stated)
  if spelling.words(right) and _WORDS.fullmatch(expected):
    return _letters(expected) == _letters(stated)
  if len(ratio := right.split(":")) > 1:
    found = _TO.sub(":", found)
    parts = found.split(":")
    if max(len(ratio), len(parts)) > 2:  # sympy would divide one by one
      return len(ratio) == len(parts) and _parts("()", ratio, parts)
  groups = statements.group(right), statements.group(found)
  if groups[0] is None or groups[1] is None:
    return right, found
  if groups[0][:2] != groups[1][:2] or (
      len(groups[0].parts) != len(groups[1].parts)):
    return False
  return _parts("".join(groups[0][:2]), groups[0].parts, groups[1].parts)


@functools.lru_cache(_KEPT)
def _number(text: str) -> exact_numbers.Number | None:
  return _signed(units.bare(statements.unwrapped(text)))


@functools.lru_cache(_KEPT)
def _answered(text: str) -> exact_numbers.Number | None:
  """The number of an answer whose gold is a number."""
  text = statements.unwrapped(text)
  if spaced := _SPACED.match(text):
    text = spaced[0].replace(" ", "") + text[spaced.end():]
  return _signed(_DECIMAL_BASE.sub("", units.bare_of_letters(text)))


def _signed(text: str) -> exact_numbers.Number | None:
  """A number, also as `-(60)` or `-(-60)`."""
  inside = statements.unwrapped(text[1:]) if text.startswith("-") else ""
  if not inside or inside == text[1:].strip():
    return exact_numbers.whole(text)
  number = exact_numbers.whole(inside)
  return number and number._replace(value=-number.value)


def _time(text: str) -> tuple[int, int, int, str] | None:
  match = _TIME.fullmatch(spelling.reduced(text))
  if match is None:
    return None
  hour, minute, second, half = match.groups()
  return int(hour), int(minute or 0), int(second or 0), half.lower()


def _clock(text: str) -> tuple[int, ...]:
  found = [int(part) for part in text.split(":")]
  return (*found, *[0] * (3 - len(found)))


def _base(text: str) -> tuple[str, str] | None:
  match = _BASED.fullmatch(text)
  return match and (match[1] or match[3], match[2] or match[4])


def _letters(words: str) -> str:
  return _BETWEEN_LETTERS.sub("", words.casefold())


def _contrary(gold: str, answer: str) -> bool:
  """Whether the texts have opposite words, such as am and pm."""
  words, others = (frozenset(_WORD.findall(text.replace(".", "").casefold()))
                   for text in (gold, answer))
  return any((a in words and b in others) or (b in words and a in others)
             for a, b in _CONTRARIES if not {a, b} <= words)


def _names(items: Sequence[Item]) -> set[str]:
  return {item.name for item in items if item.name}


def _indexed(names: set[str]) -> bool:
  """Whether names differ only in their index, as those of several roots."""
  return len(names) > 1 and len({_INDEX.sub("", name) for name in names}) == 1
