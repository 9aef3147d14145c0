"""One id per character, or per byte of any text, for small models.

They need no pretrained model and no vocabulary file. In both, ids 0, 1 and 2
are special.
"""

import abc
import dataclasses
import itertools
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence


class _SmallTokenizer(abc.ABC):
  """The parts that both tokenizers share."""

  pad_id: int
  eos_id: int
  mask_id: int

  @property
  def ends(self) -> frozenset[int]:
    """The ids that end an answer."""
    return frozenset({self.eos_id})

  @abc.abstractmethod
  def encode(self, text: str) -> list[int]:
    """Encodes `text` without EOS."""

  def prompt(self, prompt: str | Sequence[Mapping[str, str]]) -> list[int]:
    """Encodes a prompt.

    Raises:
      ValueError: as `encode`; or the prompt is a list of messages, for which
        there is no format without a published tokenizer.
    """
    if not isinstance(prompt, str):
      raise ValueError("a model without a published tokenizer has no chat "
                       "format; give the prompt as one text")
    return self.encode(prompt)


@dataclasses.dataclass(frozen=True)
class CharTokenizer(_SmallTokenizer):
  """Ids of the characters of `alphabet` follow the special ones."""

  pad_id: int = 0
  eos_id: int = 1
  mask_id: int = 2
  alphabet: str = "0123456789+-*/()=,. |abcdefghijklmnop"

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


# No UTF-8 text has this byte, so that it decodes to U+FFFD wherever it is.
_NO_BYTE = 0xff


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(_SmallTokenizer):
  """The bytes of a text in UTF-8; their ids are the bytes plus 3.

  Decoded bytes that are not UTF-8 become U+FFFD, as a character does whose last
  bytes are beyond the canvas.
  """

  pad_id: int = 0
  eos_id: int = 1
  mask_id: int = 2

  @property
  def vocab_size(self) -> int:
    """Number of ids; the model's vocabulary may be larger."""
    return 256 + 3

  def encode(self, text: str) -> list[int]:
    """Encodes `text`, one id per byte, without EOS.

    Raises:
      ValueError: the text has half a surrogate pair, which UTF-8 has not.
    """
    return [byte + 3 for byte in text.encode()]

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first EOS, without padding.

    A mask or an id out of range becomes U+FFFD: dropping it could turn an
    unfinished completion into a valid one.
    """
    kept = itertools.takewhile(lambda i: i != self.eos_id, map(int, ids))
    return self.decode_all(kept)

  def decode_all(self, ids: Iterable[int]) -> str:
    """Decodes all ids except padding; EOS and mask tokens become U+FFFD."""
    return bytes(
      i - 3 if 3 <= i < self.vocab_size else _NO_BYTE
      for i in map(int, ids) if i != self.pad_id).decode(errors="replace")


def find(vocab_size: int) -> CharTokenizer | ByteTokenizer:
  """The tokenizer of a model that reads no published one.

  Args:
    vocab_size: rows of the model's embedding: all bytes, where it has room.
  """
  whole = ByteTokenizer()
  return whole if vocab_size >= whole.vocab_size else CharTokenizer()
