"""`python -m dlrl.chat --model=DIR [--prompt=TEXT] [--html=FILE]`.

Talks with a published checkpoint, or one from `dlrl.export`, and shows its
answers being denoised. With `--html`, a page replays the last answer.
"""

import pathlib
import shutil
import sys
import unicodedata
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from dlrl import config
from dlrl import models
from dlrl.models import hf_tokenizer
from dlrl.run import command
from dlrl.runtime import progress
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.sampling import padding
from dlrl.sampling import remasking
from dlrl.sampling import replay

# Flags that are fields of `config.SamplerConfig`.
SETTINGS = ("gen_length", "block_length", "temperature", "top_p", "cfg_scale",
            "remasking", "threshold", "factor", "cache")
_MASKED = "\u2591"


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


def wrapped(text: str, columns: int) -> list[str]:
  """The lines that a terminal shows; wide characters take two columns."""
  lines = []
  for line in text.split("\n"):
    used, start = 0, 0
    for i, char in enumerate(line := line.expandtabs()):
      width = 1 + (unicodedata.east_asian_width(char) in "WF")
      if used + width > columns:
        lines.append(line[start:i])
        used, start = 0, i
      used += width
    lines.append(line[start:])
  return lines


def visible(lines: list[str], room: int) -> list[str]:
  """So many of the lines, from the first on that leave the first mask in."""
  masked = [i for i, line in enumerate(lines) if _MASKED in line]
  stop = max(room, min(masked, default=len(lines) - 1) + 1)
  return lines[stop - room:stop]


class Screen:
  """Draws a text over the one before; on a terminal only."""

  def __init__(self) -> None:
    self.height = 0
    self.live = sys.stdout.isatty()

  def draw(self, text: str, last: bool = False) -> None:
    """Replaces what was drawn; without a terminal only `last` is written."""
    if not (self.live or last):
      return
    if self.height:
      sys.stdout.write(f"\x1b[{self.height}A\r")
    size = shutil.get_terminal_size()
    lines = text.split("\n") if last else visible(
      wrapped(text, size.columns), size.lines - 1)
    # Line by line: a terminal may keep a screen that is cleared as a whole.
    clear, end = ("\x1b[K", "\x1b[J") if self.live else ("", "")
    sys.stdout.write("".join(f"{line}{clear}\n" for line in lines) + end)
    sys.stdout.flush()
    self.height = len(lines)


def run() -> None:
  """The conversation that the flags ask for.

  Raises:
    strict.ConfigError: the model or the settings cannot work.
    ValueError: tensors are missing; the template refuses a message.
  """
  options = flags.FLAGS
  tokenizer = hf_tokenizer.load(options.model)
  model, params = models.load(options.model, dtype=options.dtype)
  sampler = config.SamplerConfig(
    steps=options.steps or options.gen_length, eos="stop",
    **{name: getattr(options, name) for name in SETTINGS})
  check.sampler(sampler, "chat")
  messages: list[dict[str, str]] = []
  for question in [options.prompt] if options.prompt else _questions():
    messages.append({"role": "user", "content": question})
    prompt = (tokenizer.chat(messages) if tokenizer.template
              else tokenizer.encode(question))
    ids, lengths = padding.pad([prompt])
    screen = Screen()
    for last in denoise.stream(
        model, params, ids, lengths, jax.random.key(options.seed)[None],
        sampler=sampler, eos_id=tokenizer.eos_id):
      answer = np.asarray(last.completion)[0]
      screen.draw(picture(tokenizer, answer))
    text = tokenizer.decode(answer)
    screen.draw(printable(text), last=True)
    messages.append({"role": "assistant", "content": text})
    if options.html:
      _write_page(tokenizer, question, last)


def _write_page(tokenizer, question, decoded: denoise.Decoded) -> None:
  # One by one: a page shows tokens, not characters that several make up.
  tokens = [
    replay.Token(tokenizer.table.decode([i], skip_special_tokens=False), step,
                 sure, end=i in tokenizer.ends)
    for i, step, sure in zip(*(np.asarray(x)[0].tolist() for x in (
      decoded.completion, decoded.trace, decoded.confidence)), strict=True)]
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
  flags.DEFINE_float("top_p", 1.0, "share of the probability to sample from")
  flags.DEFINE_float("cfg_scale", 0.0, "classifier-free guidance; 0 is none")
  flags.DEFINE_enum("remasking", "low_confidence", list(remasking.RULES),
                    "what is committed first")
  flags.DEFINE_float(
    "threshold", 0.0, "commit all tokens of this probability; 0: by steps")
  flags.DEFINE_float("factor", 0.0, "commit by Fast-dLLM's factor; 0: by steps")
  flags.DEFINE_enum(
    "cache", "none", list(denoise.CACHES), "keys and values kept in a block")
  flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "of the parameters")
  flags.DEFINE_integer("seed", 0, "of the sampling")
  command.start(lambda args: run())
