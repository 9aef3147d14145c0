"""One id per character, for the tasks that need no pretrained model."""

import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
  """The ids 0, 1 and 2 are special; the characters of `alphabet` follow."""

  pad_id: int = 0
  eos_id: int = 1
  mask_id: int = 2
  alphabet: str = "0123456789+-*/()=,. |abcdefghijklmnop"

  @property
  def vocab_size(self) -> int:
    """Number of ids in use; the model's vocabulary may be larger."""
    return len(self.alphabet) + 3

  def encode(self, text: str) -> list[int]:
    """The ids of `text`, one per character, without an eos.

    Raises:
      ValueError: names a character outside the alphabet.
    """
    for char in text:
      if char not in self.alphabet:
        raise ValueError(f"no id for {char!r}; known: {self.alphabet!r}")
    return [self.alphabet.index(char) + 3 for char in text]

  def prompt(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
    """As `encode`.

    Raises:
      ValueError: it is of messages: there is no chat format.
    """
    if not isinstance(prompt, str):
      raise ValueError("characters have no chat format; ask in one text")
    return self.encode(prompt)

  def decode(self, ids: Iterable[int]) -> str:
    """The text up to the first eos, without padding.

    A mask or an id out of range becomes `?`, which no task's answer contains:
    dropping it instead could turn an unfinished completion into a valid one.
    """
    kept = itertools.takewhile(lambda i: i != self.eos_id, map(int, ids))
    return self.decode_all(kept)

  def decode_all(self, ids: Iterable[int]) -> str:
    """The text of all ids but padding; an eos in it is `?`, as a mask is."""
    return "".join(
      self.alphabet[i - 3] if 3 <= i < self.vocab_size else "?"
      for i in map(int, ids) if i != self.pad_id)
