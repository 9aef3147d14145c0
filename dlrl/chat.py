"""`dlrl chat --model=MODEL [--prompt=TEXT] [--html=FILE]`.

Answers questions with a published checkpoint, or one from `dlrl.export`, and
shows each answer while it is denoised. With `--html`, writes a page that
replays the last answer. MODEL is a directory, or ORG/NAME[@REVISION] on the
Hugging Face Hub. It is split over all devices of this host.
"""

import contextlib
import functools
import io
import math
import pathlib
import shutil
import sys
import unicodedata
from collections.abc import Iterator

import jax
import numpy as np
from absl import flags

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import models
from dlrl import strict
from dlrl.models import attention
from dlrl.models import families
from dlrl.models import hf_tokenizer
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.run import command
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.runtime.terminal import printable
from dlrl.sampling import check
from dlrl.sampling import denoise
from dlrl.sampling import padding
from dlrl.sampling import replay
from dlrl.sampling.steps import DecodeState
from dlrl.storage import output_paths

# Flags that are passed on as fields of `config.SamplerConfig`.
SETTINGS = ("gen_length", "temperature", "top_k", "top_p", "cfg_scale",
            "remasking", "threshold", "edit_threshold", "max_post_edit",
            "factor", "cache")
_MASKED = "\u2591"  # a light shade


def picture(tokenizer: hf_tokenizer.HfTokenizer, ids: np.ndarray) -> str:
  """Shows an unfinished answer up to its end, with masks as shades."""
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
  """Breaks text into lines as a terminal does.

  Wide (East Asian) characters take two columns.
  """
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
  """Returns at most `room` lines, chosen so that the first mask is visible."""
  masked = [i for i, line in enumerate(lines) if _MASKED in line]
  stop = max(room, min(masked, default=len(lines) - 1) + 1)
  return lines[stop - room:stop]


class Screen:
  """Draws texts over each other on a terminal.

  Attributes:
    height: lines drawn last.
    live: whether the output is a terminal.
  """

  def __init__(self) -> None:
    self.height = 0
    self.live = sys.stdout.isatty()

  def draw(self, text: str, last: bool = False) -> None:
    """Draws a text over the previous one.

    Args:
      text: what to draw; if too long, the lines with the first mask.
      last: whether this is the final text. It is written in full, and is the
        only one that is written if the output is not a terminal.
    """
    if not (self.live or last):
      return
    if self.height:
      sys.stdout.write(f"\x1b[{self.height}A\r")
    size = shutil.get_terminal_size()
    lines = text.split("\n") if last else visible(
      wrapped(text, size.columns), size.lines - 1)
    # Cleared line by line: some terminals save a screen that is cleared as a
    # whole in their scrollback.
    clear, end = ("\x1b[K", "\x1b[J") if self.live else ("", "")
    sys.stdout.write(terminal.encodable(
      "".join(f"{line}{clear}\n" for line in lines) + end, sys.stdout))
    sys.stdout.flush()
    self.height = len(lines)


def run() -> None:
  """Holds the conversation that the flags ask for.

  Raises:
    strict.FlagError: a flag is invalid.
    FileNotFoundError: a file of the checkpoint is missing.
    ValueError: a file is damaged, or the template refuses a message.
  """
  options = flags.FLAGS
  page = output_paths.file("html", options.html) if options.html else None
  error = functools.partial(strict.FlagError, "model")
  family = families.named(options.family, "family", strict.FlagError)
  tokenizer = hf_tokenizer.load(options.model, family=family, error=error)
  cfg, hf = families.read_config(options.model, family=family, error=error)
  blocks = cfg.block_length
  block_length = options.block_length
  sampler = config.SamplerConfig(
    steps=options.steps or options.gen_length, eos="stop",
    block_length=(blocks or 32) if block_length is None else block_length,
    **{name: getattr(options, name) for name in SETTINGS})
  check.sampler(sampler, "", strict.FlagError, blocks)
  mesh = local_mesh(transformer.build(cfg, hf["mask_token_id"]))
  model, params = models.load(
    options.model, dtype=options.dtype, mesh=mesh, family=family, error=error)
  strict.require(
    model.cfg.vocab_size >= tokenizer.vocab_size, "model", options.model,
    f"its tokenizer has ids up to {tokenizer.vocab_size - 1}, and its model "
    f"only {model.cfg.vocab_size} rows; download it again", strict.FlagError)
  with jax.set_mesh(mesh):
    _converse(model, params, tokenizer, sampler, page)


def local_mesh(model: transformer.Model) -> jax.sharding.Mesh:
  """A mesh over this host's devices; over one if the model cannot be split.

  Heads are split over as many devices as divide their number, and matrices over
  the rest.
  """
  devices = jax.local_devices()
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  most = math.gcd(len(devices), model.cfg.kv_heads)
  for tensor in (n for n in range(most, 0, -1) if most % n == 0):
    with contextlib.suppress(strict.ConfigError):  # a size does not divide
      mesh = mesh_lib.make(
        config.MeshConfig(1, len(devices) // tensor, tensor), devices)
      attention.check(model.cfg, mesh)
      mesh_lib.param_shardings(mesh, layers.SHARDING, shapes)
      return mesh
  return mesh_lib.make(config.MeshConfig(1, 1, 1), devices[:1])


def _converse(
  model: transformer.Model, params: transformer.Params,
  tokenizer: hf_tokenizer.HfTokenizer, sampler: config.SamplerConfig,
  page: pathlib.Path | None,
) -> None:
  options = flags.FLAGS
  key = jax.random.split(keys_lib.of(
    jax.random.key(options.seed), keys_lib.Seed.GENERATION), 1)
  messages: list[dict[str, str]] = []
  for question in [options.prompt] if options.prompt else _questions():
    # Python reads bytes that the terminal's encoding lacks as lone surrogates.
    question = question.encode(errors="replace").decode()
    messages.append({"role": "user", "content": question})
    prompt = (tokenizer.chat(messages) if tokenizer.template
              else tokenizer.encode(question))
    ids, lengths = padding.pad([prompt])
    screen = Screen()
    for state in denoise.stream(
        model, params, ids, lengths, key,
        sampler=sampler, eos_id=tokenizer.eos_id, ends=tuple(tokenizer.ends)):
      answer = np.asarray(state.completion)[0]
      screen.draw(picture(tokenizer, answer))
    text = tokenizer.decode(answer)
    screen.draw(printable(text), last=True)
    messages.append({"role": "assistant", "content": text})
    if page:
      _write_page(page, tokenizer, question, state)


def _write_page(
  path: pathlib.Path, tokenizer: hf_tokenizer.HfTokenizer, question: str,
  decoded: DecodeState,
) -> None:
  # Decoded one by one, because the page shows when each token was committed. A
  # character made of several tokens is shown as replacement characters.
  tokens = [
    replay.Token(tokenizer.table.decode([i], skip_special_tokens=False), step,
                 sure, end=i in tokenizer.ends)
    for i, step, sure in zip(*(np.asarray(x)[0].tolist() for x in (
      decoded.completion, decoded.trace, decoded.confidence)), strict=True)
    if step >= 0]  # or it only fills up what was not decoded
  with output_paths.reporting("html", path):
    path.write_text(
      replay.page(question, tokens, str(flags.FLAGS.model)), encoding="utf-8",
      errors="replace")
  progress.say(f"wrote {path}")


def _questions() -> Iterator[str]:
  if isinstance(sys.stdin, io.TextIOWrapper):
    sys.stdin.reconfigure(errors="replace")  # a typing error ends nothing
  while True:
    try:
      question = input("> ").strip()
    except EOFError:
      return
    if question:
      yield question


if __name__ == "__main__":
  terminal.use_stderr()  # stdout has the answers
  progress.show_compilations()
  command.start("chat", lambda args: run())
