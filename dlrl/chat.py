"""`python -m dlrl.chat --model=DIR [--prompt=TEXT] [--html=FILE]`.

Talks with a published checkpoint, or one from `dlrl.export`, and shows its
answers being denoised. With `--html`, a page replays the last answer.
"""

import functools
import pathlib
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from absl import logging

from dlrl import config
from dlrl import models
from dlrl.models import hf_tokenizer
from dlrl.models import transformer
from dlrl.runtime import progress
from dlrl.runtime import strict
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.sampling import prompts
from dlrl.sampling import replay

_MASKED = "\u2591"
_step = functools.partial(
  jax.jit, static_argnames=("model", "sampler", "eos_id"))(denoise.decode)


def answers(
  model: transformer.Model, params: Any, prompt: list[int],
  sampler: config.Sampler, eos_id: int, seed: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """(ids, steps, confidence), [t] each, after every denoising step.

  Args:
    model: from `dlrl.models.load`.
    params: of the model.
    prompt: ids.
    sampler: as of `denoise.decode`, without a cache.
    eos_id: where an answer ends.
    seed: of the sampling.
  """
  ids, lengths = prompts.pad([prompt])
  canvas = jnp.full((1, sampler.gen_length), model.mask_id, jnp.int32)
  steps = np.full(sampler.gen_length, -1)
  confidence = np.zeros(sampler.gen_length)
  key, now = jax.random.key(seed), 0
  while bool(jnp.any(canvas == model.mask_id)):
    out = _step(
      model, params, ids, lengths, jax.random.fold_in(key, now)[None],
      sampler=sampler, canvas=canvas, eos_id=eos_id, limit=1)
    new = np.asarray(out.trace)[0] >= 0
    steps[new], now = now, now + 1
    confidence[new] = np.asarray(out.confidence)[0][new]
    canvas = out.completion
    yield np.asarray(canvas)[0], steps.copy(), confidence.copy()


def printable(text: str) -> str:
  """The text without what could command a terminal."""
  return "".join(
    c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd"
    for c in text)


def picture(tokenizer: hf_tokenizer.HfTokenizer, ids: np.ndarray) -> str:
  """An answer in the making: masks as shades, nothing after its end."""
  runs: list[list[int]] = [[]]
  for token in map(int, ids):
    if token in tokenizer.ends:
      break
    if token == tokenizer.mask_id:
      runs.append([])
    else:
      runs[-1].append(token)
  return printable(_MASKED.join(map(tokenizer.decode, runs)))


class Screen:
  """Draws a text over the one before; on a terminal only."""

  def __init__(self) -> None:
    self.height = 0
    self.live = sys.stdout.isatty()

  def draw(self, text: str, last: bool = False) -> None:
    """Replaces what was drawn; without a terminal only `last` is written."""
    if self.live and self.height:
      sys.stdout.write(f"\x1b[{self.height}A\r\x1b[J")
    if self.live or last:
      sys.stdout.write(text + "\n")
      sys.stdout.flush()
    width = shutil.get_terminal_size().columns
    self.height = sum(
      max(1, -(-len(line) // width)) for line in text.split("\n"))


def run() -> None:
  """The conversation that the flags ask for.

  Raises:
    strict.ConfigError: the model or the settings cannot work.
    ValueError: tensors are missing; the template refuses a message.
  """
  options = flags.FLAGS
  tokenizer = hf_tokenizer.load(options.model)
  model, params = models.load(options.model, dtype=options.dtype)
  sampler = config.Sampler(
    gen_length=options.gen_length, block_length=options.block_length,
    steps=options.steps or options.gen_length, temperature=options.temperature,
    threshold=options.threshold, eos="stop")
  check.sampler(sampler, "chat")
  messages: list[dict[str, str]] = []
  for question in [options.prompt] if options.prompt else _questions():
    messages.append({"role": "user", "content": question})
    prompt = (tokenizer.chat(messages) if tokenizer.template
              else tokenizer.encode(question))
    screen, last = Screen(), None
    for last in answers(
        model, params, prompt, sampler, tokenizer.eos_id, options.seed):
      screen.draw(picture(tokenizer, last[0]))
    assert last is not None  # a canvas has a token
    text = tokenizer.decode(last[0])
    screen.draw(printable(text), last=True)
    messages.append({"role": "assistant", "content": text})
    if options.html:
      _write_page(tokenizer, question, *last)


def _write_page(tokenizer, question, ids, steps, confidence) -> None:
  # One by one: a page shows tokens, not characters that several make up.
  tokens = [
    replay.Token(tokenizer.table.decode([int(i)], skip_special_tokens=False),
                 int(step), float(sure))
    for i, step, sure in zip(ids, steps, confidence, strict=True)]
  path = pathlib.Path(str(flags.FLAGS.html)).expanduser()
  path.write_text(replay.page(question, tokens, str(flags.FLAGS.model)))
  progress.say(f"wrote {path}")


def _questions() -> Iterator[str]:
  while True:
    try:
      question = input("> ").strip()
    except EOFError:
      return
    if question:
      yield question


def main(argv: list[str]) -> None:
  """Talks, and turns what users cause into one clear line."""
  del argv
  logging.set_verbosity(logging.WARNING)
  try:
    run()
  except (strict.ConfigError, ValueError, FileNotFoundError) as e:
    print(f"dlrl: {e}", file=sys.stderr, flush=True)
    sys.exit(2)
  except KeyboardInterrupt:
    sys.exit(130)


if __name__ == "__main__":
  # Here, because other programs have flags of these names, too.
  flags.DEFINE_string("model", None, "directory", required=True)
  flags.DEFINE_string(
    "prompt", None, "one question; without it, questions are read line by line")
  flags.DEFINE_string("html", None, "page that replays the last answer")
  flags.DEFINE_integer("gen_length", 128, "tokens of an answer")
  flags.DEFINE_integer("steps", None, "denoising steps; one per token")
  flags.DEFINE_integer("block_length", 32, "tokens")
  flags.DEFINE_float("temperature", 0.0, "0 is greedy")
  flags.DEFINE_float(
    "threshold", 0.0, "commit all tokens of this probability; 0: by steps")
  flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "of the parameters")
  flags.DEFINE_integer("seed", 0, "of the sampling")
  app.run(main)
