"""Grain pipelines from a task's rows to batches of numpy arrays.

Every process reads the whole global batch: prompts are tiny, and what is read
then does not depend on the number of hosts. The state of an iterator, from
`get_state()`, is part of a checkpoint; `set_state` continues exactly.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import grain
import numpy as np

from dlrl.runtime import strict

Row = Mapping[str, Any]
Source = Sequence[Row]  # anything with a length and random access

_EVAL_SEED = 20251  # one held-out set for all runs, whatever their seed


class Tokenizer(Protocol):
  """What the pipelines need to know of a tokenizer."""

  @property
  def pad_id(self) -> int:
    """Fills prompts, on the right."""

  @property
  def eos_id(self) -> int:
    """Fills completions, on the right."""

  @property
  def mask_id(self) -> int:
    """Of what is to be predicted."""

  @property
  def vocab_size(self) -> int:
    """One more than the greatest id."""

  def encode(self, text: str) -> list[int]:
    """The ids of `text`, and no others."""

  def prompt(self, text: str) -> list[int]:
    """The ids of a prompt, in the model's chat format if it has one."""

  def decode(self, ids: Iterable[int]) -> str:
    """The text of a completion, up to its end."""


def rl_batches(source: Source, tokenizer: Tokenizer, *, batch_size: int,
               prompt_length: int, seed: int, truncate: bool = False
               ) -> grain.DatasetIterator:
  """An endless iterator of prompts, shuffled anew in every epoch.

  Args:
    source: rows with a text `prompt` and an int `index`.
    tokenizer: encodes the prompts.
    batch_size: b, prompts over all hosts.
    prompt_length: p, tokens.
    seed: of the shuffles, in [0, 2**32).
    truncate: longer prompts lose their beginning, and the batch has `truncated`
      int32 [b], 1 where one did; otherwise they are an error.

  Returns:
    Batches of prompt_ids int32 [b, p], padded on the right; prompt_length int32
    [b], the tokens before the padding; and each column of the rows: ints as
    int32 [b], texts as numpy strings [b].

  Raises:
    strict.ConfigError: the source is empty; or, when the batch is drawn, a
      prompt has more than p tokens.
  """
  row = functools.partial(
    _prompt, tokenizer=tokenizer, length=prompt_length, truncate=truncate)
  return _batches(source, row, batch_size, seed)


def sft_batches(source: Source, tokenizer: Tokenizer, *, batch_size: int,
                prompt_length: int, gen_length: int, seed: int,
                truncate: bool = False) -> grain.DatasetIterator:
  """`rl_batches` with `completion` int32 [b, gen_length], from `solution`.

  The rest of the canvas is eos, to be learned: generation fills it so, too.

  Raises:
    strict.ConfigError: as `rl_batches`, and when a solution has more than
      `gen_length` tokens.
  """
  def row(values: Row) -> Row:
    text = values["solution"]
    completion = _fit(tokenizer.encode(text), gen_length, tokenizer.eos_id,
                      f"solution {text!r}", "sft.gen_length")[0]
    prompt = _prompt(values, tokenizer, prompt_length, truncate)
    return {**prompt, "completion": completion}

  return _batches(source, row, batch_size, seed)


def eval_rows(source: Source, tokenizer: Tokenizer, items: int,
              prompt_length: int, truncate: bool = False
              ) -> dict[str, np.ndarray]:
  """One batch, as of `rl_batches`, of `items` rows that never change.

  They are the first of a fixed permutation, so more items include the fewer.

  Raises:
    strict.ConfigError: the source has fewer rows, or a prompt is too long.
  """
  strict.require(1 <= items <= len(source), "eval.size", items,
                 f"there are {len(source)} rows to choose from")
  # Raw words: numpy may change permutation(), but not the stream.
  order = np.argsort(np.random.PCG64(_EVAL_SEED).random_raw(len(source)))
  rows = [_prompt(source[int(i)], tokenizer, prompt_length, truncate)
          for i in order[:items]]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _batches(source: Source, row: Callable[[Row], Row], batch_size: int,
             seed: int) -> grain.DatasetIterator:
  strict.require(len(source) > 0, "task", source, "there are no rows")
  # Repeated before it is batched, so that no row is dropped at an epoch's end.
  rows = grain.MapDataset.source(source).seed(seed).shuffle().repeat().map(row)
  # Without threads: rows are cheap, and nothing is read ahead of the state.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  # There is no remainder, but to round its count up overflows at batch size 1.
  batches = rows.batch(batch_size, drop_remainder=True)
  return iter(batches.to_iter_dataset(options))


def _prompt(
  values: Row, tokenizer: Tokenizer, length: int, truncate: bool) -> Row:
  text = values["prompt"]
  whole = tokenizer.prompt(text)
  # The end stays: the question, and where a chat's answer starts.
  kept = whole[-length:] if truncate else whole
  ids, size = _fit(kept, length, tokenizer.pad_id, f"prompt {text!r}",
                   "task.prompt_length")
  columns = {name: np.asarray(value) if isinstance(value, str)
             else np.int32(value) for name, value in values.items()}
  if truncate:
    columns["truncated"] = np.int32(len(whole) > length)
  return {**columns, "prompt_ids": ids, "prompt_length": np.int32(size)}


def _fit(ids: list[int], length: int, fill: int, what: str, field: str
         ) -> tuple[np.ndarray, int]:
  """`ids`, filled up to [length], and how many there were."""
  strict.require(len(ids) <= length, field, length,
                 f"the {what} has {len(ids)} tokens; raise the limit"
                 + (", or set task.long_prompts to 'truncate'"
                    if field == "task.prompt_length" else ""))
  return np.array(ids + [fill] * (length - len(ids)), np.int32), len(ids)
