"""Any text as bytes, and any bytes as text."""

import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from dlrl.models import char_tokenizer
from dlrl.runtime import terminal

TOKENIZER = char_tokenizer.ByteTokenizer()
PAD, EOS, MASK = TOKENIZER.pad_id, TOKENIZER.eos_id, TOKENIZER.mask_id
UNKNOWN = "\ufffd"
fuzzed = hypothesis.settings(deadline=None, database=None)


@pytest.mark.slow
@fuzzed
@hypothesis.given(st.text())
@hypothesis.example("Was ist drei plus vier?")
@hypothesis.example("七 \U0001f600\u0301\x00\x1b\r\n\ufeff")
def test_any_text_survives_encoding_and_decoding(text):
  ids = TOKENIZER.encode(text)
  assert TOKENIZER.prompt(text) == ids
  assert len(ids) == sum(
    1 + (ord(c) > 0x7f) + (ord(c) > 0x7ff) + (ord(c) > 0xffff) for c in text)
  assert TOKENIZER.decode(ids) == text
  assert TOKENIZER.decode([*ids, EOS, *ids]) == text
  assert TOKENIZER.decode([PAD, *ids, PAD, PAD]) == text
  assert TOKENIZER.decode_all([*ids, EOS, PAD, *ids]) == text + UNKNOWN + text


def test_ids_are_the_special_ones_and_then_the_bytes():
  assert (PAD, EOS, MASK, TOKENIZER.vocab_size) == (0, 1, 2, 259)
  assert TOKENIZER.encode("\x00A~") == [3, 0x41 + 3, 0x7e + 3]
  assert TOKENIZER.encode("é€") == [
    byte + 3 for byte in (0xc3, 0xa9, 0xe2, 0x82, 0xac)]


@fuzzed
@hypothesis.given(st.text(min_size=1), st.data())
def test_a_canvas_that_ends_in_a_character_shows_no_part_of_it(text, data):
  ids = TOKENIZER.encode(text)
  cut = data.draw(st.integers(0, len(ids)))
  whole = ""  # the characters that end before the cut
  while len((whole + text[len(whole):][:1]).encode()) <= cut < len(ids):
    whole += text[len(whole)]
  whole = text if cut == len(ids) else whole
  rest = cut > len(whole.encode())
  assert TOKENIZER.decode(ids[:cut]) == whole + UNKNOWN * rest


@fuzzed
@hypothesis.given(st.text(min_size=1), st.data())
def test_a_mask_in_an_answer_cannot_be_overlooked(text, data):
  hypothesis.assume(UNKNOWN not in text)
  ids = TOKENIZER.encode(text)
  place = data.draw(st.integers(0, len(ids)))
  token = data.draw(st.sampled_from([MASK, -1, 259, 126464]))
  assert UNKNOWN in TOKENIZER.decode([*ids[:place], token, *ids[place:]])


@fuzzed
@hypothesis.given(st.lists(st.integers(-2, 300)))
def test_whatever_a_model_writes_is_text_that_can_be_printed(ids):
  text = TOKENIZER.decode(ids)
  assert text.encode().decode() == text
  assert TOKENIZER.decode(ids[:ids.index(EOS)] if EOS in ids else ids) == text
  kept = [i - 3 for i in ids if i != PAD]
  if all(0 <= byte < 128 for byte in kept):
    assert text == "".join(map(chr, kept))
  assert not [c for c in terminal.printable(text)
              if unicodedata.category(c)[0] == "C" and c not in "\n\t"]


@pytest.mark.parametrize("call", [TOKENIZER.encode, TOKENIZER.prompt])
def test_half_a_surrogate_pair_is_refused(call):
  with pytest.raises(ValueError, match="surrogates not allowed"):
    call("a\ud800")


def test_messages_are_refused():
  with pytest.raises(ValueError, match="no chat format; give the prompt as"):
    TOKENIZER.prompt([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(("rows", "kind"), [
  (40, char_tokenizer.CharTokenizer), (258, char_tokenizer.CharTokenizer),
  (259, char_tokenizer.ByteTokenizer), (126464, char_tokenizer.ByteTokenizer)])
def test_a_model_with_room_for_all_bytes_reads_them(rows, kind):
  assert char_tokenizer.find(rows) == kind()


def test_special_ids_are_the_same_for_characters_and_bytes():
  # So that programs do not depend on how text is read.
  chars = char_tokenizer.CharTokenizer()
  for name in ("pad_id", "eos_id", "mask_id", "ends"):
    assert getattr(TOKENIZER, name) == getattr(chars, name)
