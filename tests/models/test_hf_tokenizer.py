"""Tokenizers and chat templates, published and made up."""

import json
import shutil

import pytest
import tokenizers
from tokenizers import models as token_models
from tokenizers import pre_tokenizers

from dlrl import strict
from dlrl.models import hf_tokenizer

TEMPLATE = (
  "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}"
  "<|eot|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
SPECIAL = ["<|end|>", "<|mask|>", "<|user|>", "<|assistant|>", "<|eot|>"]
WORDS = ["yes", "no", "maybe", "42"]


def write(root, *, template=TEMPLATE, **changes):
  """Writes a tokenizer of words with ids 0-3, special tokens from 4."""
  table = tokenizers.Tokenizer(token_models.WordLevel(
    {word: i for i, word in enumerate(WORDS)}, unk_token="no"))
  table.pre_tokenizer = pre_tokenizers.Whitespace()
  table.save(str(root / "tokenizer.json"))
  (root / "config.json").write_text(json.dumps(
    {"mask_token_id": 5} | changes.pop("config", {})))
  flags = {"lstrip": False, "rstrip": False, "special": True}
  (root / "tokenizer_config.json").write_text(json.dumps({
    "eos_token": "<|end|>", "pad_token": {"content": "<|end|>"},
    "mask_token": "<|mask|>", "chat_template": template,
    "added_tokens_decoder": {
      str(4 + i): {"content": text} | flags for i, text in enumerate(SPECIAL)},
  } | changes))
  return root


def test_special_ids_ends_and_the_template_come_from_the_files(tmp_path):
  tokenizer = hf_tokenizer.load(write(tmp_path))
  assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id) == (4, 4, 5)
  assert tokenizer.ends == {4, 8}
  assert tokenizer.vocab_size == 9
  assert tokenizer.encode("yes 42") == [0, 3]
  assert tokenizer.prompt(" yes ") == [6, 0, 8, 7]
  assert tokenizer.chat([
    {"role": "user", "content": "yes"}, {"role": "assistant", "content": "no"},
    {"role": "user", "content": "maybe"}]) == [6, 0, 8, 7, 1, 8, 6, 2, 8, 7]
  assert tokenizer.decode([0, 3, 8, 1]) == tokenizer.decode([0, 3, 4]) == (
    "yes 42")
  assert "<|mask|>" in tokenizer.decode([0, 5, 3])
  assert tokenizer.decode_all([0, 8, 1, 4]).split() == [
    "yes", "<|eot|>", "no", "<|end|>"]


def test_a_last_message_of_the_assistant_is_the_beginning_of_its_answer(
    tmp_path):
  tokenizer = hf_tokenizer.load(write(tmp_path))
  user = {"role": "user", "content": "yes"}
  assert tokenizer.chat([user, {"role": "assistant", "content": "no 42"}]) == [
    6, 0, 8, 7, 1, 3]


def test_without_a_template_a_prompt_is_its_text(tmp_path):
  tokenizer = hf_tokenizer.load(write(tmp_path, template=None))
  assert tokenizer.prompt("yes") == [0]
  assert tokenizer.ends == {4}
  with pytest.raises(ValueError, match="no chat template"):
    tokenizer.chat([{"role": "user", "content": "yes"}])


def test_a_template_in_a_file_of_its_own_counts(tmp_path):
  write(tmp_path, template=None)
  (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
  assert hf_tokenizer.load(tmp_path).prompt("yes") == [6, 0, 8, 7]


@pytest.mark.parametrize("template", [
  "{{ messages.__class__.__mro__ }}",
  "{{ ''.__class__.__base__.__subclasses__() }}",
  "{{ messages.append(1) }}",
  "{{ raise_exception('no system message') }}"])
def test_a_template_cannot_reach_out_and_may_refuse(tmp_path, template):
  write(tmp_path, template=None)
  tokenizer = hf_tokenizer.load(tmp_path)
  with pytest.raises(ValueError, match="refuses"):
    hf_tokenizer.dataclasses.replace(
      tokenizer, template=hf_tokenizer._template(
        tmp_path, {"chat_template": template})).prompt("yes")


@pytest.mark.parametrize("changes, match", [
  ({"config": {"mask_token_id": None}}, "mask_token_id is None"),
  ({"config": {"mask_token_id": 77}}, "is 77 .* not the id of a token"),
  ({"mask_token": "<|eot|>"}, "is id 8"),
  ({"eos_token": "<|nothing|>"}, "eos_token is missing"),
  ({"added_tokens_decoder": {"7": {
    "content": "<|end|>", "lstrip": False, "rstrip": False, "special": True}}},
   "but 7 in")])
def test_files_that_contradict_each_other_are_an_error(
    tmp_path, changes, match):
  with pytest.raises(strict.ConfigError, match=match) as error:
    hf_tokenizer.load(write(tmp_path, **changes))
  assert str(error.value).startswith("hf_tokenizer.load(directory=")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json",
                                  "tokenizer.json"])
def test_a_missing_or_damaged_file_is_an_error(tmp_path, name):
  (write(tmp_path) / name).write_text("{")
  with pytest.raises(strict.ConfigError):
    hf_tokenizer.load(tmp_path)
  (tmp_path / name).unlink()
  with pytest.raises(strict.ConfigError):
    hf_tokenizer.load(tmp_path)


@pytest.fixture(scope="module")
def dream(shared):
  return hf_tokenizer.load(shared / "hf" / "Dream-v0-Instruct-7B")


@pytest.mark.shared_data
def test_dreams_ids_are_the_published_ones(dream):
  assert (dream.eos_id, dream.pad_id, dream.mask_id) == (151643, 151643, 151666)
  assert dream.ends == {151643, 151645}
  assert dream.vocab_size == 151667


@pytest.mark.shared_data
def test_dreams_prompt_is_its_template(dream):
  # One token per digit; everything else as in Qwen2's tokenizer.
  ids = dream.prompt("What is 12+30?")
  assert dream.table.decode(ids, skip_special_tokens=False) == (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat is 12+30?<|im_end|>\n<|im_start|>assistant\n")
  assert ids[:3] == [151644, 8948, 198]  # <|im_start|> system \n
  assert ids[-3:] == [151644, 77091, 198]  # <|im_start|> assistant \n
  assert dream.encode("What is 12+30?") == [
    3838, 374, 220, 16, 17, 10, 18, 15, 30]


@pytest.mark.shared_data
@pytest.mark.parametrize("text", [
  "", " ", "a  b\n\n c", "naïve Ω ∑ 😀", "x=1;\n\treturn 'it''s'", "١٢"])
def test_text_comes_back(dream, text):
  assert dream.decode(dream.encode(text)) == text


@pytest.mark.shared_data
def test_lladas_template_is_read_as_published(shared, tmp_path):
  """LLaDA's vocabulary is not in the reference data; words stand in for it."""
  folder = shared / "hf" / "LLaDA-8B-Instruct"
  options = json.loads((folder / "tokenizer_config.json").read_text())
  template = hf_tokenizer._template(folder, options)
  assert template.render(messages=[{"role": "user", "content": " hi "}]) == (
    "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n")
  shutil.copyfile(folder / "config.json", tmp_path / "config.json")
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
  first = min(map(int, options["added_tokens_decoder"]))
  words = {f"w{i}": i for i in range(first)}
  tokenizers.Tokenizer(token_models.WordLevel(words, unk_token="w0")).save(
    str(tmp_path / "tokenizer.json"))
  tokenizer = hf_tokenizer.load(tmp_path)
  assert tokenizer.mask_id == 126336
  assert tokenizer.ends == {126081, 126348}
