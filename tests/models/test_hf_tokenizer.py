"""Tokenizers and chat templates, published and made up."""

import json
import os
import shutil

import pytest
import tokenizers
from tokenizers import models as token_models
from tokenizers import pre_tokenizers

from dlrl import strict
from dlrl.models import chat_template
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
  tokenizer = hf_tokenizer.load(write(tmp_path, template=(
    "{% if messages | length > 1 %}ok{% else %}" + template + "{% endif %}")))
  with pytest.raises(ValueError, match="refuses"):
    tokenizer.prompt("yes")


@pytest.mark.parametrize("changes, match", [
  ({"config": {"mask_token_id": None}}, "mask_token_id is None"),
  ({"config": {"mask_token_id": 77}}, "is 77 .* not the id of a token"),
  ({"mask_token": "<|eot|>"}, "is id 8"),
  ({"eos_token": "<|nothing|>"}, "eos_token is missing"),
  ({"eos_token": "<|mask|>"}, "eos_token is '<|mask|>' .* the mask token"),
  ({"pad_token": "<|nothing|>"}, "pad_token is .* not in the vocabulary"),
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
def test_llada2s_template_is_read_as_published(shared, tmp_path):
  """LLaDA2's vocabulary is not in the reference data; words stand in for it."""
  folder = shared / "hf" / "LLaDA2.0-mini"
  for name in ("config.json", "tokenizer_config.json",
               "generation_config.json", "special_tokens_map.json"):
    shutil.copyfile(folder / name, tmp_path / name)
  table = tokenizers.Tokenizer(token_models.WordLevel(
    {f"w{i}": i for i in range(156_891)}, unk_token="w0"))
  table.pre_tokenizer = pre_tokenizers.Whitespace()
  table.add_special_tokens([
    "<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mask|>",
    "<role>", "</role>", "<|role_end|>"])
  table.save(str(tmp_path / "tokenizer.json"))
  tokenizer = hf_tokenizer.load(tmp_path)
  # No file names the mask's id, and the template the end of a turn.
  assert (tokenizer.mask_id, tokenizer.eos_id, tokenizer.pad_id) == (
    156_895, 156_892, 156_892)
  assert tokenizer.ends == {156_892, 156_898}
  said = [{"role": "system", "content": "Be brief."},
          {"role": "user", "content": "2+2?"},
          {"role": "assistant", "content": "<think>\nwell\n</think>\n\n4"},
          {"role": "user", "content": "And 3+3?"}]
  system, turn = "<role>SYSTEM</role>", "detailed thinking off<|role_end|>"
  question = "<role>HUMAN</role>And 3+3?<|role_end|>"
  render = tokenizer.template.render
  assert render(said[-1:], add_generation_prompt=True) == (
    f"{system}{turn}{question}<role>ASSISTANT</role>")
  # What was thought before the last question is left out.
  assert render(said, add_generation_prompt=True) == (
    f"{system}Be brief.\n{turn}<role>HUMAN</role>2+2?<|role_end|>"
    f"<role>ASSISTANT</role>4<|role_end|>{question}<role>ASSISTANT</role>")
  ids = tokenizer.prompt("w7")
  assert ids[:1] == [156_896] and ids[-1:] == [156_897]
  assert ids[ids.index(7):][:2] == [7, 156_898]
  (tmp_path / "generation_config.json").write_text(
    '{"eos_token_id": [156891, 156898]}')
  assert hf_tokenizer.load(tmp_path).ends == {156_891, 156_892, 156_898}


@pytest.mark.shared_data
def test_lladas_template_is_read_as_published(shared, tmp_path):
  """LLaDA's vocabulary is not in the reference data; words stand in for it."""
  folder = shared / "hf" / "LLaDA-8B-Instruct"
  options = json.loads((folder / "tokenizer_config.json").read_text())
  template = chat_template.ChatTemplate(options["chat_template"], {
    "bos_token": options["bos_token"]})
  assert template.render([{"role": "user", "content": " hi "}]) == (
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


@pytest.mark.parametrize("form", [
  [{"name": "default", "template": TEMPLATE},
   {"name": "tool_use", "template": "{{ tools }}"}],
  [{"name": "rag", "template": "no"}, {"name": "default",
                                       "template": TEMPLATE}]])
def test_of_several_named_templates_the_default_counts(tmp_path, form):
  tokenizer = hf_tokenizer.load(write(tmp_path, template=form))
  assert tokenizer.prompt("yes") == [6, 0, 8, 7]


NO_TEMPLATE = [
  1, True, {}, {"default": TEMPLATE}, [], [TEMPLATE], [None],
  [{"name": "tool_use", "template": TEMPLATE}], [{"template": TEMPLATE}],
  [{"name": "default", "template": None}], [{"name": "default"}],
  [{"name": ["default"], "template": TEMPLATE}], "\ud800",
  [{"name": "default", "template": TEMPLATE}] * 2, "{{", "{% for %}",
  "{{ 10 ** (10 ** 10) }}", "{{ raise_exception('\x1b[2J') }}",
  "{{ messages[5].content.x }}"]
NO_TOKEN = [1, True, [], ["<|end|>"], {"content": 1}, {"content": ["a"]},
            "\ud800", "<|nothing|>", {}, ""]
PLAIN = {"content": "<|end|>", "special": True}
NO_ADDED = [
  [], "x", 1, {"4": None}, {"4": "<|end|>"}, {"4": {}}, {"x": PLAIN},
  {"-4": PLAIN}, {"4.0": PLAIN}, {"": PLAIN}, {"\u0664": PLAIN},
  {"9" * 5000: PLAIN}, {"4": PLAIN | {"content": 1}},
  {"4": PLAIN | {"lstrip": "no"}}, {"4": PLAIN | {"special": 1}},
  {"4": PLAIN | {"content": "\ud800"}}, {"999999999": PLAIN}]
NO_ID = [None, -1, 9, 77, 2**64, 10**400, 5.0, "5", True, [5], float("nan")]


@pytest.mark.parametrize("field, value", [
  *[("chat_template", value) for value in NO_TEMPLATE],
  *[("eos_token", value) for value in (*NO_TOKEN, None)],
  *[("mask_token", value) for value in NO_TOKEN if value not in ({}, "")],
  *[("pad_token", value) for value in NO_TOKEN[:7]],
  *[("added_tokens_decoder", value) for value in NO_ADDED],
  *[("mask_token_id", value) for value in NO_ID]],
  ids=lambda x: ascii(x)[:30])
def test_each_field_is_read_by_type_and_range(tmp_path, field, value):
  changes = ({"config": {field: value}} if field == "mask_token_id"
             else {"template": value} if field == "chat_template"
             else {field: value})
  write(tmp_path, **changes)
  with pytest.raises(strict.ArgumentError) as error:
    hf_tokenizer.load(tmp_path)
  text = str(error.value)
  assert text.startswith(f"hf_tokenizer.load(directory={str(tmp_path)!r}): ")
  assert field.replace("_", " ") in text.replace("_", " ") or (
    field == "added_tokens_decoder" and "tokenizer" in text)
  assert len(text) < 2000


FILES = {
  "empty": b"", "cut": b'{"a": ', "list": b"[]", "null": b"null",
  "text": b'"a"',
  "deep": b'{"a":' * 100_000, "latin": b'{"a": "\xe9"}', "zeros": bytes(99),
  "wide": "{}".encode("utf-16"), "no model": b'{"model": {}}',
  "no words": b'{"model": {"type": "BPE", "vocab": [], "merges": 1}}'}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", [
  "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_each_kind_of_damaged_file_is_refused(tmp_path, name, content):
  write(tmp_path)
  if name in ("vocab.json", "merges.txt"):
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
  (tmp_path / name).write_bytes(content)
  with pytest.raises(strict.ArgumentError):
    hf_tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", [
  "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_not_a_file_is_refused_and_not_waited_for(
    tmp_path, name, make):
  write(tmp_path)
  (tmp_path / name).unlink(missing_ok=True)
  make(tmp_path / name)
  with pytest.raises(strict.ArgumentError, match=name):
    hf_tokenizer.load(tmp_path)


def test_a_template_of_another_encoding_is_refused(tmp_path):
  write(tmp_path, template=None)
  path = tmp_path / "chat_template.jinja"
  path.write_bytes("\ufeff\u00e9{{ messages[0].content }}".encode())
  assert hf_tokenizer.load(tmp_path).template.render(
    [{"role": "user", "content": "yes"}]) == "\u00e9yes"
  path.write_bytes("\u00e9".encode("latin-1"))
  with pytest.raises(strict.ArgumentError, match=r"chat_template\.jinja"):
    hf_tokenizer.load(tmp_path)


def test_flags_of_a_token_may_be_absent_and_a_single_word_is_one(tmp_path):
  tokenizer = hf_tokenizer.load(write(tmp_path, template=None))
  added = {str(4 + i): {"content": text} for i, text in enumerate(SPECIAL)}
  added["9"] = {"content": "maybenot", "single_word": True}
  plain = hf_tokenizer.load(write(
    tmp_path, template=None, added_tokens_decoder=added))
  assert plain.encode("yes") == tokenizer.encode("yes")
  assert plain.encode("maybenot") == [9]
  assert 9 not in plain.encode("maybenots")


@pytest.mark.parametrize("text", [
  "<|mask|>", "yes <|mask|> no", "yes<|mask|>", "<|mask|>" * 3])
def test_a_text_with_the_mask_token_is_refused(tmp_path, text):
  tokenizer = hf_tokenizer.load(write(tmp_path))
  bare = hf_tokenizer.load(write(tmp_path, template=None))
  for encode in (
      tokenizer.encode, tokenizer.prompt, bare.prompt,
      lambda text: tokenizer.chat([{"role": "user", "content": text}]),
      lambda text: tokenizer.chat([{"role": "user", "content": "yes"},
                                   {"role": "assistant", "content": text}])):
    with pytest.raises(ValueError, match="contains the mask token"):
      encode(text)
  # A completion that is not finished still shows its masks.
  assert "<|mask|>" in tokenizer.decode([0, 5])


@pytest.mark.parametrize("prompt", [
  None, 1, b"yes", {}, {"role": "user", "content": "yes"}, [1], ["yes"],
  [{"content": "yes"}], [{"role": "user"}], [{"role": "user", "content": 1}],
  [{"role": None, "content": "yes"}], [{"role": "user", "content": ["yes"]}],
  "\ud800", [{"role": "user", "content": "\ud800"}]], ids=ascii)
def test_what_is_no_conversation_is_refused(tmp_path, prompt):
  tokenizer = hf_tokenizer.load(write(tmp_path))
  with pytest.raises(ValueError, match="a conversation is a list of"):
    tokenizer.prompt(prompt)
  with pytest.raises(ValueError):
    tokenizer.encode(prompt)


def test_a_text_that_the_vocabulary_cannot_encode_is_refused(tmp_path):
  path = write(tmp_path) / "tokenizer.json"
  table = json.loads(path.read_text())
  table["model"]["unk_token"] = "absent"
  path.write_text(json.dumps(table))
  with pytest.raises(ValueError, match="cannot encode 'zzz'"):
    hf_tokenizer.load(tmp_path).encode("zzz")
  table["model"]["unk_token"] = "no"
  table["pre_tokenizer"] = {  # Rust panics, instead of searching for hours
    "type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated",
    "invert": False}
  path.write_text(json.dumps(table))
  with pytest.raises(ValueError, match="cannot encode 'aaa"):
    hf_tokenizer.load(tmp_path).encode("a" * 100)
