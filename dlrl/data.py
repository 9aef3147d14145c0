"""Grain pipelines from a task's examples to batches of NumPy arrays.

A batch holds the positions of its examples in the source, where their columns,
of any type, are looked up. Every process reads the whole global batch: prompts
are tiny, and the order then does not depend on the number of hosts. Checkpoints
keep the iterator's `get_state()`; `set_state` continues exactly.
"""

import collections
import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import grain
import numpy as np

from dlrl import strict
from dlrl import tasks
from dlrl.runtime import progress
from dlrl.tasks import mixture
from dlrl.tasks import prompts
from dlrl.tasks.user_files import tables

Arrays = dict[str, np.ndarray]
Item = Callable[[int], Arrays]  # from an example's position to its arrays

_LEAST_WIDTH = 128  # shorter prompts cost little beside their completions
_EVAL_SEED = 20251  # one held-out set for all runs, whatever their seed
_SFT_ORDER = 1  # what a run's seed is for, beside RL's order


class Tokenizer(Protocol):
  """Text to ids and back, as pipelines and graders need it."""

  @property
  def pad_id(self) -> int:
    """The id that pads prompts on the right."""

  @property
  def eos_id(self) -> int:
    """The id that ends a completion and fills the rest of its canvas."""

  @property
  def ends(self) -> frozenset[int]:
    """All ids that end a completion, with `eos_id`."""

  @property
  def mask_id(self) -> int:
    """The id of a masked token."""

  @property
  def vocab_size(self) -> int:
    """One more than the largest id."""

  def encode(self, text: str) -> list[int]:
    """The ids of `text`, without special tokens around them."""

  def prompt(self, prompt: tasks.Text) -> list[int]:
    """The ids of a text or of messages, in the chat template if any."""

  def decode(self, ids: Iterable[int]) -> str:
    """The text of a completion up to its first eos."""

  def decode_all(self, ids: Iterable[int]) -> str:
    """The text of a completion including eos and everything after it."""


def rl_batches(
  source: tasks.Examples, tokenizer: Tokenizer, prompt: tasks.Prompt, *,
  batch_size: int, prompt_length: int, seed: int, truncate: bool = False,
) -> grain.DatasetIterator:
  """An endless iterator over prompts, reshuffled in every epoch.

  Args:
    source: examples. The tasks of a mixture are drawn by its weights, and each
      is shuffled on its own.
    tokenizer: encodes the prompts.
    prompt: turns an example into a question.
    batch_size: b, prompts over all hosts.
    prompt_length: p, tokens.
    seed: of the shuffles, in [0, 2**32).
    truncate: cut the beginning of longer prompts and add `truncated` int32 [b]
      to the batch, 1 where that happened; otherwise they are an error.

  Returns:
    Batches of `position` int32 [b], the examples' places in the source;
    `prompt_ids` int32 [b, p], padded on the right; and `prompt_length` int32
    [b], the number of tokens before the padding.

  Raises:
    strict.ConfigError: the source is empty; or, once a batch is drawn, a prompt
      has more than p tokens or a character that the tokenizer lacks.
  """
  item = rl_item(source, tokenizer, prompt, prompt_length=prompt_length,
                 truncate=truncate)
  return _batches(source, item, batch_size, seed)


def rl_item(
  source: tasks.Examples, tokenizer: Tokenizer, prompt: tasks.Prompt, *,
  prompt_length: int, truncate: bool = False,
) -> Item:
  """The rows of `rl_batches` one by one, for `check`."""
  def item(position: int) -> Arrays:
    with located(source, position):
      return _prompt(
        source, position, tokenizer, prompt, prompt_length, truncate)

  return item


def sft_batches(
  source: tasks.Examples, tokenizer: Tokenizer, prompt: tasks.Prompt, *,
  batch_size: int, prompt_length: int, gen_length: int, seed: int,
  truncate: bool = False,
) -> grain.DatasetIterator:
  """`rl_batches` with `completion` int32 [b, gen_length], the answers.

  The rest of the canvas is eos and is learned, because generation has to fill
  the whole canvas.

  Raises:
    strict.ConfigError: see `rl_batches`; or an answer has more than
      `gen_length` tokens or a character that the tokenizer lacks.
  """
  item = sft_item(source, tokenizer, prompt, prompt_length=prompt_length,
                  gen_length=gen_length, truncate=truncate)
  # Not the order in which RL asks the same examples.
  own = np.random.SeedSequence((seed, _SFT_ORDER)).generate_state(1)
  return _batches(source, item, batch_size, int(own[0]))


def sft_item(
  source: tasks.Examples, tokenizer: Tokenizer, prompt: tasks.Prompt, *,
  prompt_length: int, gen_length: int, truncate: bool = False,
) -> Item:
  """The rows of `sft_batches` one by one, for `check`."""
  def item(position: int) -> Arrays:
    with located(source, position):
      text = prompt.answer(source[position])
      ids = _encoded(tokenizer.encode, text, "answer", text)
      completion, _ = _fit(ids, gen_length, tokenizer.eos_id,
                           f"answer {_short(text)}", "sft.gen_length")
      asked = _prompt(
        source, position, tokenizer, prompt, prompt_length, truncate)
      return {**asked, "completion": completion}

  return item


def samples(source: tasks.Examples) -> list[tasks.Example]:
  """One example of each task that the source has, with all its columns."""
  return [source[part.start] for part in _parts(source)[0] if part]


def check(source: tasks.Examples, item: Callable[[int], object]) -> None:
  """Makes all rows, so that none stops a run by which it is drawn.

  Prints a line now and then if it takes long.

  Args:
    source: the examples.
    item: called with each position; raises `strict.ConfigError` for an example
      that cannot be used.

  Raises:
    strict.ConfigError: the first example that cannot be used, for each setting
      that is in its way, and the number of the others.
  """
  first: dict[str, strict.ConfigError] = {}
  counts: collections.Counter[str] = collections.Counter()
  for position in progress.watched(range(len(source)), "rows checked"):
    try:
      item(position)
    except strict.ConfigError as error:
      first.setdefault(error.field, error)
      counts[error.field] += 1
  problems = strict.Problems()
  for field, found in first.items():
    more = counts[field] - 1
    problems.add(type(found)(field, found.value, found.fix + (
      f". The same holds for {more} more of {len(source)} examples"
      if more else "")))
  problems.finish()


@contextlib.contextmanager
def located(source: tasks.Examples, position: int) -> Iterator[None]:
  """Errors about an example of users' files begin with its file and line."""
  try:
    yield
  except tables.FileError:
    raise
  except strict.ConfigError as error:
    place = mixture.where(source, position)
    if not place:
      raise
    raise tables.FileError(error.field, place, error.fix) from error


def eval_rows(
  source: tasks.Examples, tokenizer: Tokenizer, prompt: tasks.Prompt, *,
  items: int, prompt_length: int, truncate: bool = False,
) -> Arrays:
  """One batch like those of `rl_batches`, of `items` fixed examples.

  They are the first of a fixed permutation, so that a larger set includes each
  smaller one; a mixture gives equally many of each task. A task with fewer
  examples gives all that it has.

  Raises:
    strict.ConfigError: the source is empty, the tasks of a mixture are more
      than `items`, or a prompt is too long.
  """
  parts, _ = _parts(source)
  strict.require(len(source) > 0, "task", source, "has no examples")
  strict.require(items >= len(parts), "eval.size", items,
                 f"must be at least {len(parts)}, one for each task")
  shares = [len(range(k, items, len(parts))) for k in range(len(parts))]
  item = rl_item(source, tokenizer, prompt, prompt_length=prompt_length,
                 truncate=truncate)
  rows = [item(position) for part, share in zip(parts, shares, strict=True)
          for position in _first(part, share)]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def widths(prompt_length: int) -> list[int]:
  """Widths at which prompts are computed where they need not be wider.

  128, 192, 256, 384, 512 and so on, and the last `prompt_length`: few, because
  each needs a program of its own.
  """
  found, width = [], _LEAST_WIDTH
  while width < prompt_length:
    found += [w for w in (width, width * 3 // 2) if w < prompt_length]
    width *= 2
  return [*found, prompt_length]


def width(lengths: np.ndarray, prompt_length: int) -> int:
  """The first of `widths` that holds prompts of these lengths, [b] int."""
  return next(w for w in widths(prompt_length) if w >= np.max(lengths))


def _first(part: range, items: int) -> list[int]:
  # By raw words: NumPy guarantees the generator's stream, not permutation().
  order = np.argsort(np.random.PCG64(_EVAL_SEED).random_raw(len(part)))
  return [part[int(i)] for i in order[:items]]


def _parts(source: tasks.Examples) -> tuple[list[range], tuple[float, ...]]:
  """Positions of each task's examples, and the tasks' weights."""
  if isinstance(source, mixture.MixedExamples):
    return source.parts, source.weights
  return [range(len(source))], (1.0,)


def _batches(source: tasks.Examples, item: Callable[[int], Arrays],
             batch_size: int, seed: int) -> grain.DatasetIterator:
  strict.require(len(source) > 0, "task", source, "has no examples")
  # Repeated before batching, so that no example is dropped at an epoch's end.
  parts, weights = _parts(source)
  shuffled = [
    grain.MapDataset.range(part.start, part.stop)
    .seed((seed + k) % 2**32).shuffle().repeat()
    for k, part in enumerate(parts)]
  rows = shuffled[0] if len(parts) == 1 else grain.MapDataset.mix(
    shuffled, weights)
  # Without threads: examples are cheap, and reading ahead would make the saved
  # position run ahead of the loop.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  # An endless source has no remainder, but Grain would round its length up
  # without `drop_remainder`, which overflows at batch size 1.
  batches = rows.map(item).batch(batch_size, drop_remainder=True)
  return iter(batches.to_iter_dataset(options))


def _prompt(source: tasks.Examples, position: int, tokenizer: Tokenizer,
            prompt: tasks.Prompt, length: int, truncate: bool) -> Arrays:
  asked = prompt.question(source[position])
  text = prompts.as_text(asked)
  whole = _encoded(tokenizer.prompt, asked, "prompt", text)
  # Keep the end: the question, and where a chat's answer starts.
  kept = whole[-length:] if truncate else whole
  ids, size = _fit(kept, length, tokenizer.pad_id,
                   f"prompt {_short(text)}", "task.prompt_length")
  arrays = {"position": np.asarray(position, np.int32), "prompt_ids": ids,
            "prompt_length": np.asarray(size, np.int32)}
  if truncate:
    arrays["truncated"] = np.asarray(len(whole) > length, np.int32)
  return arrays


def _encoded(encode: Callable[[Any], list[int]], value: Any, what: str,
             text: str) -> list[int]:
  try:
    return encode(value)
  except strict.ConfigError:
    raise
  except ValueError as e:
    raise strict.ConfigError(
      "task.prompt", text,
      f"the tokenizer cannot read the {what} {_short(text)}: {e}") from e


def _short(text: str) -> str:
  return repr(text) if len(text) <= 160 else f"{text[:80]!r}...{text[-80:]!r}"


def _fit(ids: list[int], length: int, fill: int, what: str, field: str
         ) -> tuple[np.ndarray, int]:
  """`ids` padded to [length] with `fill`, and their number before."""
  strict.require(len(ids) <= length, field, length,
                 f"the {what} has {len(ids)} tokens, the limit is {length}; "
                 "raise it" + (
                   " in a new --workdir, or set task.long_prompts to "
                   "'truncate' in any" if field == "task.prompt_length" else
                   ""))
  return np.array(ids + [fill] * (length - len(ids)), np.int32), len(ids)
