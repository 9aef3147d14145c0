"""One id per character, for tasks that need no pretrained model."""

import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
  """Ids 0, 1 and 2 are special; the characters of `alphabet` follow."""

  pad_id: int = 0
  eos_id: int = 1
  mask_id: int = 2
  alphabet: str = "0123456789+-*/()=,. |abcdefghijklmnop"

  @property
  def ends(self) -> frozenset[int]:
    """The ids that end an answer."""
    return frozenset({self.eos_id})

  @property
  def vocab_size(self) -> int:
    """Number of ids; the model's vocabulary may be larger."""
    return len(self.alphabet) + 3

  def encode(self, text: str) -> list[int]:
    """Encodes `text`, one id per character, without EOS.

    Raises:
      ValueError: a character is not in the alphabet; names it.
    """
    for char in text:
      if char not in self.alphabet:
        raise ValueError(
          f"{char!r} is not in the alphabet {self.alphabet!r}")
    return [self.alphabet.index(char) + 3 for char in text]

  def prompt(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Encodes a prompt.

    Raises:
      ValueError: as `encode`; or the prompt is a list of messages, for which
        this tokenizer has no format.
    """
    if not isinstance(prompt, str):
      raise ValueError("the character tokenizer has no chat format; give the "
                       "prompt as one text")
    return self.encode(prompt)

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first EOS, without padding.

    A mask or an id out of range becomes `?`, which no task's answer contains:
    dropping it could turn an unfinished completion into a valid one.
    """
    kept = itertools.takewhile(lambda i: i != self.eos_id, map(int, ids))
    return self.decode_all(kept)

  def decode_all(self, ids: Iterable[int]) -> str:
    """Decodes all ids except padding; EOS and mask tokens become `?`."""
    return "".join(
      self.alphabet[i - 3] if 3 <= i < self.vocab_size else "?"
      for i in map(int, ids) if i != self.pad_id)
