"""Talking to a model, and the page that replays an answer."""

import functools
import html.parser
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import chat
from dlrl import config
from dlrl import models
from dlrl import sampling
from dlrl.models import hf_tokenizer
from dlrl.sampling import replay

ROOT = pathlib.Path(__file__).parents[1]
SIZES = {"gen_length": 8, "block_length": 4, "steps": 4}


@functools.cache
def loaded(published):
  return (*models.load(published, dtype="float32"),
          hf_tokenizer.load(published))


def test_step_by_step_is_what_generate_does_at_once(published):
  model, params, tokenizer = loaded(published)
  prompt = tokenizer.prompt("1+2")
  seen = list(chat.answers(
    model, params, prompt, config.Sampler(**SIZES), tokenizer.eos_id))
  assert len(seen) == 4
  left = [int((ids == model.mask_id).sum()) for ids, _, _ in seen]
  assert left == [6, 4, 2, 0]
  ids, steps, confidence = seen[-1]
  np.testing.assert_array_equal(
    sampling.generate(model, params, [prompt], **SIZES)[0], ids)
  assert sorted(steps) == [0, 0, 1, 1, 2, 2, 3, 3]
  assert ((confidence > 0) & (confidence <= 1)).all()
  for (before, _, _), (after, _, _) in itertools.pairwise(seen):
    old = before != model.mask_id
    np.testing.assert_array_equal(before[old], after[old])


def test_sampling_goes_on_with_other_noise(published):
  model, params, tokenizer = loaded(published)
  flat = dict(params, embed={"embedding": jnp.zeros_like(
    params["embed"]["embedding"])})  # all tokens equally likely
  sampler = config.Sampler(
    gen_length=8, block_length=8, steps=8, temperature=1.0)
  *_, (ids, _, _) = chat.answers(
    model, flat, tokenizer.prompt("1"), sampler, tokenizer.eos_id)
  assert len(set(ids.tolist())) > 3


def test_what_commands_a_terminal_is_not_written():
  assert chat.printable("a\x1b[2Jb\nc\td\u202e\x07é") == (
    "a\ufffd[2Jb\nc\td\ufffd\ufffdé")


def test_the_picture_has_masks_and_ends_at_the_end(published):
  *_, tokenizer = loaded(published)
  mask, eos = tokenizer.mask_id, tokenizer.eos_id
  ids = [*tokenizer.encode("12"), mask, *tokenizer.encode("3"), mask]
  assert chat.picture(tokenizer, np.array(ids)) == "12\u25913\u2591"
  assert chat.picture(tokenizer, np.array([*ids[:2], eos, mask])) == "12"


class Page(html.parser.HTMLParser):
  """Tags in order, and the text of the scripts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.scripts = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    if tag == "script":
      self.scripts.append("")

  def handle_data(self, data):
    if self.scripts and self.tags[-1] == "script":
      self.scripts[-1] += data


@pytest.mark.parametrize("evil", [
  "</script><script>alert(1)</script>", "<!-- <script>", "<img onerror=x>",
  "\u2028", "\"};alert(1)//", "DATA"])
def test_tokens_are_data_and_never_markup(evil):
  tokens = [replay.Token(evil, 0, 0.5), replay.Token("x", 1, 1.0)]
  page = replay.page(evil, tokens, evil)
  plain = Page(replay.page("a", [replay.Token("b", 0, 1.0)], "c"))
  found = Page(page)
  assert found.tags == plain.tags
  data = json.loads(found.scripts[0])
  assert data == {"title": evil, "prompt": evil,
                  "tokens": [[evil, 0, 0.5], ["x", 1, 1.0]]}
  assert found.scripts[1] == plain.scripts[1]


def test_the_command_answers_and_writes_the_page(
    published, tmp_path, compiled_programs):
  page = tmp_path / "page.html"
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={published}",
     "--dtype=float32", "--gen_length=8", "--block_length=4",
     f"--html={page}"], input="1+2\n\n3\n", cwd=ROOT, text=True,
    capture_output=True, timeout=120, check=False, env=os.environ | {
      "JAX_COMPILATION_CACHE_DIR": str(compiled_programs)})
  assert done.returncode == 0, done.stderr
  data = json.loads(Page(page.read_text()).scripts[0])
  assert data["prompt"] == "3"
  assert len(data["tokens"]) == 8


@pytest.mark.parametrize("flag, match", [
  ("--model=/nowhere", "pretrained"), ("--steps=7", "chat.steps")])
def test_what_cannot_work_is_one_line(published, flag, match):
  flags = [f"--model={published}", flag][flag.startswith("--model"):]
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", "--prompt=1", *flags], cwd=ROOT,
    capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert match in done.stderr.splitlines()[-1]
