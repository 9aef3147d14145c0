"""Tokenizers and chat templates of published checkpoints, without their code.

The vocabulary is read by Hugging Face's `tokenizers`, the chat template by
`jinja2` in its sandbox: both are downloads and are treated as untrusted data.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.sandbox
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

from dlrl import strict
from dlrl.models import families

Message = Mapping[str, str]  # role: system, user or assistant; content

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
    ends: ids that end an answer: EOS, and the end of a turn in a chat.
  """

  table: tokenizers.Tokenizer
  template: jinja2.Template | None
  pad_id: int
  eos_id: int
  mask_id: int
  ends: frozenset[int]

  @property
  def vocab_size(self) -> int:
    """One more than the largest id; the model's vocabulary is often larger."""
    return 1 + max(self.table.get_vocab(with_added_tokens=True).values())

  def encode(self, text: str) -> list[int]:
    """Encodes `text`; names of special tokens in it become these tokens."""
    return self.table.encode(text, add_special_tokens=False).ids

  def chat(self, messages: Sequence[Message]) -> list[int]:
    """Encodes a conversation up to the point where the assistant answers.

    If the last message is the assistant's, the answer continues it.

    Raises:
      ValueError: the model has no chat template, or the template refuses these
        messages.
    """
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
      ValueError: as `chat`, for a conversation.
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
      return self.template.render(messages=messages, **options)
    except (jinja2.TemplateError, TypeError, KeyError) as e:
      raise ValueError(f"the chat template refuses {messages!r}: {e}") from e


def load(
  directory: str | pathlib.Path, *, error: families.Refusal = _ARGUMENT
) -> HfTokenizer:
  """Loads the tokenizer of a published checkpoint.

  Args:
    directory: has config.json, tokenizer_config.json, and either tokenizer.json
      or vocab.json and merges.txt.
    error: makes the error to raise.

  Raises:
    strict.ConfigError: a file is missing or damaged, or the special tokens do
      not agree with config.json; by default an `ArgumentError`.
  """
  root = pathlib.Path(directory).expanduser()
  bad = functools.partial(error, str(directory))
  try:
    options = json.loads((root / "tokenizer_config.json").read_text())
    model = json.loads((root / "config.json").read_text())
    table = _table(root, options)
  except (OSError, ValueError) as e:
    raise bad(f"has no tokenizer that can be read ({e}); name the directory of "
              "a downloaded checkpoint") from e
  except Exception as e:  # `tokenizers` is in Rust and raises plain Exceptions
    raise bad(f"its tokenizer is damaged: {e}") from e

  def id_of(name: str) -> int | None:
    value = options.get(name)
    text = value["content"] if isinstance(value, dict) else value
    return None if text is None else table.token_to_id(text)

  mask_id = model.get("mask_token_id")
  if mask_id is None or table.id_to_token(mask_id) is None:
    raise bad(f"mask_token_id is {mask_id!r} in its config.json, which is not "
              "the id of a token")
  if options.get("mask_token") is not None and id_of("mask_token") != mask_id:
    raise bad(f"mask_token is id {id_of('mask_token')} in its "
              f"tokenizer_config.json and {mask_id} in its config.json")
  eos_id = id_of("eos_token")
  if eos_id is None:
    raise bad("eos_token is missing in its tokenizer_config.json, or is not in "
              "the vocabulary")
  pad_id = id_of("pad_token")
  tokenizer = HfTokenizer(
    table, _template(root, options), eos_id if pad_id is None else pad_id,
    eos_id, mask_id, frozenset({eos_id}))
  ends = {eos_id, *_end_of_turn(tokenizer)} - {mask_id}
  return dataclasses.replace(tokenizer, ends=frozenset(ends))


def _table(
  root: pathlib.Path, options: Mapping[str, Any]
) -> tokenizers.Tokenizer:
  """Reads the vocabulary and adds the tokens of tokenizer_config.json."""
  if (root / "tokenizer.json").exists():
    table = tokenizers.Tokenizer.from_file(str(root / "tokenizer.json"))
  else:
    table = tokenizers.Tokenizer(models.BPE.from_file(
      str(root / "vocab.json"), str(root / "merges.txt")))
    table.normalizer = normalizers.NFC()
    table.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(
        tokenizers.Regex(_QWEN_SPLIT), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    table.decoder = decoders.ByteLevel()
  # tokenizer.json may ask for either; both would change prompts silently.
  table.no_truncation()
  table.no_padding()
  added = options.get("added_tokens_decoder", {})
  for number, token in sorted(added.items(), key=lambda item: int(item[0])):
    text, special = token["content"], token["special"]
    add = table.add_special_tokens if special else table.add_tokens
    add([tokenizers.AddedToken(
      text, special=special, normalized=token.get("normalized", not special),
      lstrip=token["lstrip"], rstrip=token["rstrip"])])
    if table.token_to_id(text) != int(number):
      raise ValueError(f"{text!r} has id {table.token_to_id(text)}, but "
                       f"{number} in tokenizer_config.json")
  return table


def _template(
  root: pathlib.Path, options: Mapping[str, Any]
) -> jinja2.Template | None:
  """Compiles the chat template; None if the checkpoint has none."""
  text = options.get("chat_template")
  if (root / "chat_template.jinja").exists():
    text = (root / "chat_template.jinja").read_text()
  if text is None:
    return None

  def refuse(message: str) -> None:
    raise jinja2.TemplateError(message)

  # The settings of `transformers`, or whitespace would differ. Sandboxed,
  # because a template is a program, and this one is a download.
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"])
  environment.globals["raise_exception"] = refuse
  tokens = {name: value["content"] if isinstance(value, dict) else value
            for name, value in options.items()
            if name.endswith("_token") and value is not None}
  return environment.from_string(text, globals=tokens)


def _end_of_turn(tokenizer: HfTokenizer) -> list[int]:
  """Finds the special token that the template puts after an answer.

  It is not named in any file, so a probe conversation is rendered.
  """
  if tokenizer.template is None:
    return []
  text = tokenizer._render([
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": _PROBE}], add_generation_prompt=False)
  after = tokenizer.table.encode(
    text.split(_PROBE)[-1], add_special_tokens=False)
  special = tokenizer.table.get_added_tokens_decoder()
  return [token for token in after.ids[:1]
          if token in special and special[token].special]
