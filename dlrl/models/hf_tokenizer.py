"""Tokenizers and chat templates of published checkpoints, without their code.

The vocabulary is read by Hugging Face's `tokenizers`, the chat template runs in
a process of its own: both are downloads and are treated as untrusted data.
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from dlrl import strict
from dlrl.models import chat_template
from dlrl.models import families
from dlrl.models.chat_template import Message
from dlrl.runtime import json_file

# How Qwen's tokenizer, which Dream uses as well, splits a text before merging.
# Needed where a checkpoint has vocab.json and merges.txt only.
_QWEN_SPLIT = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_PROBE = "\u2603 probe \u2603"  # a message that no template contains
_ARGUMENT = functools.partial(
  strict.ArgumentError, "hf_tokenizer.load.directory")


@dataclasses.dataclass(frozen=True)
class HfTokenizer:
  """Converts text to ids and back, as published.

  Attributes:
    table: the vocabulary with its rules.
    template: renders chat messages as text; None: no chat format.
    pad_id: pads prompts; nothing attends to it.
    eos_id: fills completions after their end.
    mask_id: stands for a token that is to be predicted.
    ends: ids that end an answer: EOS, the end of a turn in a chat, and those of
      `generation_config.json`.
  """

  table: tokenizers.Tokenizer
  template: chat_template.ChatTemplate | None
  pad_id: int
  eos_id: int
  mask_id: int
  ends: frozenset[int]

  @property
  def vocab_size(self) -> int:
    """One more than the largest id; the model's vocabulary is often larger."""
    return 1 + max(self.table.get_vocab(with_added_tokens=True).values())

  def encode(self, text: str) -> list[int]:
    """Encodes `text`; names of special tokens in it become these tokens.

    Raises:
      ValueError: the text contains the mask token, which would stand for one
        that is to be predicted; or the vocabulary has no token for a part.
    """
    with _values(f"the tokenizer cannot encode {json_file.shown(text)}"):
      ids = self.table.encode(text, add_special_tokens=False).ids
    if self.mask_id in ids:
      raise ValueError(
        f"{json_file.shown(text)} contains the mask token "
        f"{self.table.id_to_token(self.mask_id)!r}, which stands for tokens "
        "that are to be predicted; remove it")
    return ids

  def chat(self, messages: Sequence[Message]) -> list[int]:
    """Encodes a conversation up to the point where the assistant answers.

    If the last message is the assistant's, the answer continues it.

    Raises:
      ValueError: the messages are malformed, the model has no chat template,
        the template refuses them, or as `encode`.
    """
    _check(messages)
    begun = ""
    if messages and messages[-1]["role"] == "assistant":
      *messages, last = messages
      begun = last["content"]
    text = self._render(messages, add_generation_prompt=True)
    return self.encode(text + begun)

  def prompt(self, prompt: str | Sequence[Message]) -> list[int]:
    """Encodes a conversation, or a single message of the user.

    A model without a chat template gets the bare text of a single message.

    Raises:
      ValueError: as `encode`, or as `chat`.
    """
    if not isinstance(prompt, str):
      return self.chat(prompt)
    if self.template is None:
      return self.encode(prompt)
    return self.chat([{"role": "user", "content": prompt}])

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the first id in `ends`; special tokens stay visible."""
    kept = []
    for token in map(int, ids):
      if token in self.ends:
        break
      kept.append(token)
    return self.table.decode(kept, skip_special_tokens=False)

  def decode_all(self, ids: Iterable[int]) -> str:
    """Decodes all ids, including special tokens."""
    return self.table.decode([int(i) for i in ids], skip_special_tokens=False)

  def _render(self, messages: Sequence[Message], **options: Any) -> str:
    if self.template is None:
      raise ValueError(
        "this model has no chat template; give a prompt as one text")
    try:
      return self.template.render(messages, **options)
    except ValueError as e:
      raise ValueError("the chat template refuses "
                       f"{json_file.shown(list(messages))}: {e}") from e


def load(
  directory: str | pathlib.Path, *, family: families.Family | None = None,
  error: families.Refusal = _ARGUMENT,
) -> HfTokenizer:
  """Loads the tokenizer of a published checkpoint.

  Args:
    directory: has config.json, tokenizer_config.json, and either tokenizer.json
      or vocab.json and merges.txt; perhaps generation_config.json. Or a name
      on the Hub: ORG/NAME or ORG/NAME@REVISION.
    family: your own, for a model_type that is not one of dlrl's.
    error: makes the error to raise.

  Raises:
    strict.ConfigError: a file is missing or damaged, or the special tokens do
      not agree with config.json; by default an `ArgumentError`.
  """
  refuse = functools.partial(error, str(directory))
  root = families.folder(directory, refuse)
  options, model = (
    json_file.Fields(name, change(json_file.read(
      root / name,
      lambda fix: refuse(f"has no tokenizer that can be read: {fix}"))))
    for name, change in (
      ("tokenizer_config.json", dict),
      ("config.json", lambda file: families.completed(file, family))))
  mask_id = model.integer("mask_token_id", 0, 2**24)
  names = {name: _token(options, name)
           for name in ("mask_token", "eos_token", "pad_token")}
  added = _added(options)
  text = _template(root, options)
  for fields in (model, options):
    fields.finish(refuse)
  table = _table(root, added, refuse)
  ids = {name: table.token_to_id(text) for name, text in names.items() if text}
  if table.id_to_token(mask_id) is None:
    raise refuse(f"mask_token_id is {mask_id} in its config.json, which is not "
                 "the id of a token")
  eos_id = _eos_id(names, ids, mask_id, refuse)
  pad_id = ids.get("pad_token")
  if names["pad_token"] and pad_id is None:
    raise refuse(f"pad_token is {names['pad_token']!r} in its "
                 "tokenizer_config.json, which is not in the vocabulary")
  try:
    template = (chat_template.ChatTemplate(text, _tokens(options)) if text
                else None)
    tokenizer = HfTokenizer(
      table, template, eos_id if pad_id is None else pad_id, eos_id, mask_id,
      frozenset({eos_id}))
    ends = {eos_id, *_end_of_turn(tokenizer), *_listed_ends(
      root, table, refuse)} - {mask_id}
  except ValueError as e:
    raise refuse(f"its chat template cannot be used: {e}") from e
  return dataclasses.replace(tokenizer, ends=frozenset(ends))


def _eos_id(
  names: Mapping[str, str | None], ids: Mapping[str, int | None], mask_id: int,
  refuse: json_file.Refuse,
) -> int:
  """Checks the mask token, and returns the id of the end of a text."""
  if names["mask_token"] and ids["mask_token"] != mask_id:
    raise refuse(f"mask_token is id {ids['mask_token']} in its "
                 f"tokenizer_config.json and {mask_id} in its config.json")
  eos_id = ids.get("eos_token")
  if eos_id is None:
    raise refuse("eos_token is missing in its tokenizer_config.json, or is not "
                 "in the vocabulary")
  if eos_id == mask_id:
    raise refuse(f"eos_token is {names['eos_token']!r} in its "
                 "tokenizer_config.json, which is the mask token")
  return eos_id


def _token(options: json_file.Fields, name: str) -> str | None:
  """Reads the text of a special token: a string, or an object with one."""
  text = _content(options.values.get(name))
  options.require(
    text is None or json_file.is_text(text), f"{name} is "
    f"{json_file.shown(text)} in its tokenizer_config.json; must be a text")
  return text if isinstance(text, str) else None


def _content(value: Any) -> Any:
  return value.get("content") if isinstance(value, dict) else value


def _tokens(options: json_file.Fields) -> dict[str, str]:
  """The special tokens that a chat template may use, by name."""
  return {name: text for name, text in (
    (name, _content(value)) for name, value in options.values.items())
    if name.endswith("_token") and json_file.is_text(text)}


def _added(options: json_file.Fields) -> dict[int, tokenizers.AddedToken]:
  """Reads the tokens that come on top of the vocabulary, by id."""
  value = options.values.get("added_tokens_decoder")
  options.require(
    value is None or isinstance(value, dict), "added_tokens_decoder is "
    f"{json_file.shown(value)} in its tokenizer_config.json; must be an object")
  found = {}
  for key, token in (value if isinstance(value, dict) else {}).items():
    flags = {name: _flag(token, name, False) for name in (
      "special", "lstrip", "rstrip", "single_word")}
    flags["normalized"] = _flag(token, "normalized", not flags["special"])
    if (key.isascii() and key.isdigit() and len(key) < 10
        and json_file.is_text(_content(token))
        and all(isinstance(flag, bool) for flag in flags.values())):
      found[int(key)] = tokenizers.AddedToken(_content(token), **flags)
    else:
      options.problems.append(
        f"added_tokens_decoder has {json_file.shown({key: token})} in its "
        "tokenizer_config.json; must map an id to an object with content, a "
        "text, and flags")
  return found


def _flag(token: Any, name: str, default: bool) -> Any:
  return token.get(name, default) if isinstance(token, dict) else None


def _table(
  root: pathlib.Path, added: Mapping[int, tokenizers.AddedToken],
  refuse: json_file.Refuse,
) -> tokenizers.Tokenizer:
  """Reads the vocabulary and adds the tokens of tokenizer_config.json."""
  files = [root / name for name in (
    ("tokenizer.json",) if (root / "tokenizer.json").exists()
    else ("vocab.json", "merges.txt"))]
  for file in files:
    if not file.is_file():
      raise refuse(f"has no tokenizer that can be read: {file} is missing or "
                   "not a file; name the directory of a downloaded checkpoint")
  try:
    with _values("its tokenizer is damaged"):
      table = (tokenizers.Tokenizer.from_file(str(files[0])) if len(files) == 1
               else _bpe(*files))
      # tokenizer.json may ask for either; both would change prompts silently.
      table.no_truncation()
      table.no_padding()
      for token in (added[number] for number in sorted(added)):
        add = table.add_special_tokens if token.special else table.add_tokens
        add([token])
  except ValueError as e:
    raise refuse(str(e)) from e
  for number, token in added.items():
    if table.token_to_id(token.content) != number:
      raise refuse(
        f"{token.content!r} has id {table.token_to_id(token.content)} in its "
        f"tokenizer, but {number} in its tokenizer_config.json")
  return table


def _bpe(vocab: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
  table = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
  table.normalizer = normalizers.NFC()
  table.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(
      tokenizers.Regex(_QWEN_SPLIT), behavior="isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  table.decoder = decoders.ByteLevel()
  return table


def _template(root: pathlib.Path, options: json_file.Fields) -> str | None:
  """Reads the chat template; None if the checkpoint has none.

  Of several named ones, it is the one that is called `default`.
  """
  path = root / "chat_template.jinja"
  if path.exists():
    try:
      return json_file.text(path)
    except (OSError, ValueError) as e:
      options.problems.append(f"cannot read {path} ({e}); download it again")
      return None
  value = options.values.get("chat_template")
  if value is None:
    return None
  if isinstance(value, list):
    named = [(entry.get("name"), entry.get("template")) for entry in value
             if isinstance(entry, dict)]
    chosen = [text for name, text in named if name == "default"]
    options.require(
      len(chosen) == 1, "chat_template is a list of templates in its "
      "tokenizer_config.json, and one must have the name 'default'; found "
      f"{json_file.shown([name for name, _ in named])}")
    value = chosen[0] if chosen else ""
  options.require(
    json_file.is_text(value), f"chat_template is {json_file.shown(value)} in "
    "its tokenizer_config.json; must be a text or a list of named texts")
  return value if isinstance(value, str) else None


def _end_of_turn(tokenizer: HfTokenizer) -> list[int]:
  """Finds the special token that the template puts after an answer.

  It is not named in any file, so a probe conversation is rendered.
  """
  if tokenizer.template is None:
    return []
  text = tokenizer._render([
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": _PROBE}], add_generation_prompt=False)
  with _values("its end of turn cannot be encoded"):
    after = tokenizer.table.encode(
      text.split(_PROBE)[-1], add_special_tokens=False)
  special = tokenizer.table.get_added_tokens_decoder()
  return [token for token in after.ids[:1]
          if token in special and special[token].special]


def _listed_ends(
  root: pathlib.Path, table: tokenizers.Tokenizer, refuse: json_file.Refuse
) -> list[int]:
  """Reads the ids that end a generation; none without a file of them."""
  path = root / "generation_config.json"
  if not path.exists():
    return []
  value = json_file.read(path, refuse).get("eos_token_id")
  ids = value if isinstance(value, list) else [] if value is None else [value]
  # Not isinstance: True is an int as well. Larger numbers are not ids in Rust.
  if not all(type(i) is int and 0 <= i < 2**24 and table.id_to_token(i)
             is not None for i in ids):
    raise refuse(f"eos_token_id is {json_file.shown(value)} in its "
                 "generation_config.json; must be the id of a token, or a list "
                 "of them")
  return ids


def _check(messages: Any) -> None:
  ok = isinstance(messages, Sequence) and all(
    isinstance(message, Mapping) and json_file.is_text(message.get(key))
    for message in messages for key in ("role", "content"))
  if not ok:
    raise ValueError(
      'a conversation is a list of {"role": ..., "content": ...}, both texts; '
      f"got {json_file.shown(messages)}")


@contextlib.contextmanager
def _values(what: str) -> Iterator[None]:
  """Turns what `tokenizers`, which is in Rust, raises into ValueError.

  It raises plain Exceptions, and when it panics one that is not even that.
  """
  try:
    yield
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as e:
    raise ValueError(f"{what}: {e}") from e
