import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dlrl import config
from dlrl.models import char_tokenizer

TOKENIZER = char_tokenizer.CharTokenizer()
PAD, EOS, MASK = TOKENIZER.pad_id, TOKENIZER.eos_id, TOKENIZER.mask_id


@hypothesis.settings(deadline=None, database=None)
@hypothesis.given(st.text(TOKENIZER.alphabet))
def test_text_survives_encoding_and_decoding(text):
  ids = TOKENIZER.encode(text)
  assert TOKENIZER.decode(ids) == text
  assert TOKENIZER.decode([*ids, EOS, *ids]) == text
  assert TOKENIZER.decode_all([*ids, EOS, PAD, *ids]) == f"{text}?{text}"
  assert len(ids) == len(text)


def test_ids_are_the_special_ones_and_then_the_characters():
  assert (PAD, EOS, MASK) == (0, 1, 2)
  assert TOKENIZER.encode("019") == [3, 4, 12]
  every = TOKENIZER.encode(TOKENIZER.alphabet)
  assert every == list(range(3, TOKENIZER.vocab_size))


def test_the_alphabet_covers_the_tasks_and_fits_the_default_model():
  TOKENIZER.encode("0123456789 (1+2)*3-4/5=9.0, |")
  assert TOKENIZER.vocab_size <= config.ModelConfig().vocab_size == 40


def test_ids_stay_what_saved_parameters_were_trained_with():
  assert TOKENIZER.alphabet == (
      "0123456789+-*/()=,. |abcdefghijklmnop")


@pytest.mark.parametrize("char", ["x", "?", "\u00b2", "\u0661", "\n", "\ud800"])
def test_an_unknown_character_is_named(char):
  with pytest.raises(ValueError) as error:
    TOKENIZER.encode("12" + char + "34")
  assert repr(char) in str(error.value)


def test_decoding_stops_at_eos_and_skips_padding():
  one, two, three = TOKENIZER.encode("123")
  assert TOKENIZER.decode([PAD, one, PAD, two, EOS, three, MASK]) == "12"
  assert TOKENIZER.decode([]) == TOKENIZER.decode([EOS, one]) == ""


@pytest.mark.parametrize("token", [MASK, -1, -22, TOKENIZER.vocab_size, 126464])
def test_a_mask_or_an_unknown_id_cannot_pass_as_an_answer(token):
  one, two = TOKENIZER.encode("12")
  assert TOKENIZER.decode([one, token, two]) == "1?2"
  assert "?" not in TOKENIZER.alphabet


@pytest.mark.parametrize("kind", [np.array, jnp.array, tuple])
def test_ids_may_come_in_any_array(kind):
  assert TOKENIZER.decode(kind(TOKENIZER.encode("12+3"))) == "12+3"


def test_tokenizers_are_values():
  assert char_tokenizer.CharTokenizer() == TOKENIZER
  assert hash(TOKENIZER) == hash(char_tokenizer.CharTokenizer())
