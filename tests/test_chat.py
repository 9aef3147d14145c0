"""The chat command, and the page that replays an answer."""

import html.parser
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runs

from dlrl import chat
from dlrl import config
from dlrl import models
from dlrl import sampling
from dlrl.models import hf_tokenizer
from dlrl.models import transformer
from dlrl.sampling import replay

ROOT = runs.ROOT
SIZES = {"gen_length": 8, "block_length": 4, "steps": 4}


def test_what_commands_a_terminal_is_not_written():
  assert chat.printable("a\x1b[2Jb\nc\td\u202e\x07é") == (
    "a\ufffd[2Jb\nc\td\ufffd\ufffdé")


def test_lines_are_as_long_as_the_terminal_is_wide():
  assert chat.wrapped("abcdefg\n\nab", 3) == ["abc", "def", "g", "", "ab"]
  assert chat.wrapped("a\u4e2d\u4e2d\u4e2d", 4) == [
    "a\u4e2d", "\u4e2d\u4e2d"]
  assert chat.wrapped("a\tb", 80) == ["a       b"]


def test_a_text_is_drawn_over_the_one_before(monkeypatch, capsys):
  monkeypatch.setenv("COLUMNS", "4")
  monkeypatch.setenv("LINES", "3")
  screen = chat.Screen()
  screen.draw("not on a terminal")
  assert capsys.readouterr().out == ""
  screen.live = True
  screen.draw("abcdef")
  screen.draw("a\nb\nc")
  screen.draw("a\nb\nc", last=True)
  assert capsys.readouterr().out == (
    "abcd\x1b[K\nef\x1b[K\n\x1b[J"
    "\x1b[2A\rb\x1b[K\nc\x1b[K\n\x1b[J"
    "\x1b[2A\ra\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J")


@pytest.mark.parametrize("lines, room, want", [
  ("abc", 3, "abc"), ("abc", 2, "bc"), ("abc", 5, "abc"),
  ("\u2591\u2591\u2591", 2, "\u2591\u2591"), ("abc\u2591\u2591", 2, "c\u2591"),
  ("\u2591bc\u2591", 2, "\u2591b")])
def test_the_first_mask_is_visible(lines, room, want):
  assert "".join(chat.visible(list(lines), room)) == want


def test_without_a_terminal_there_are_no_commands_for_one(capsys):
  chat.Screen().draw("a\nb", last=True)
  assert capsys.readouterr().out == "a\nb\n"


def test_a_terminal_without_the_shade_gets_a_question_mark(monkeypatch):
  out = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
  monkeypatch.setattr(sys, "stdout", out)
  chat.Screen().draw("é\u2591\u4e2d", last=True)
  monkeypatch.undo()
  out.flush()
  assert out.buffer.getvalue() == b"\xe9??\n"


@pytest.mark.slow
def test_questions_of_another_encoding_are_answered(published):
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={published}",
     "--dtype=float32", "--gen_length=8", "--block_length=4"],
    input=b"1+2\xff\n", cwd=ROOT, env=os.environ | {
      "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    capture_output=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(
    published, tmp_path):
  root = tmp_path / "model"
  shutil.copytree(published, root)
  path = root / "tokenizer_config.json"
  options = json.loads(path.read_text())
  options["added_tokens_decoder"] |= {
    str(i): {"content": f"<{i}>"} for i in range(42, 49)}
  path.write_text(json.dumps(options))
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={root}", "--prompt=<48>",
     "--dtype=float32", "--gen_length=8", "--block_length=4"],
    cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith(f"dlrl: --model={root}: its tokenizer has ids "
                                "up to 48, and its model only 48 rows")


def test_the_picture_has_masks_and_ends_at_the_end(published):
  tokenizer = hf_tokenizer.load(published)
  mask, eos = tokenizer.mask_id, tokenizer.eos_id
  ids = [*tokenizer.encode("12"), mask, *tokenizer.encode("3"), mask]
  assert chat.picture(tokenizer, np.array(ids)) == "12\u25913\u2591"
  assert chat.picture(tokenizer, np.array([*ids[:2], eos, mask])) == "12"


class Page(html.parser.HTMLParser):
  """Parses a page into its tags in order and the text of its scripts."""

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
  tokens = [replay.Token(evil, 0, 0.5),
            replay.Token("x", 1, 1.0, end=True)]
  page = replay.page(evil, tokens, evil)
  plain = Page(replay.page("a", [replay.Token("b", 0, 1.0)], "c"))
  found = Page(page)
  assert found.tags == plain.tags
  data = json.loads(found.scripts[0])
  assert data == {"title": evil, "prompt": evil,
                  "tokens": [[evil, 0, 0.5, 0], ["x", 1, 1.0, 1]]}
  assert found.scripts[1] == plain.scripts[1]


@pytest.mark.slow
def test_the_command_answers_and_writes_the_page(published, tmp_path):
  page = tmp_path / "page.html"
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={published}",
     "--dtype=float32", "--gen_length=8", "--block_length=4", "--cache=dual",
     "--threshold=0.9", f"--html={page}"], input="1+2\n\n3\n", cwd=ROOT,
    text=True, capture_output=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr
  data = json.loads(Page(page.read_text()).scripts[0])
  assert data["prompt"] == "3"
  assert len(data["tokens"]) == 8


@pytest.mark.parametrize("flag, match", [
  ("--model=/nowhere", "dlrl: --model=/nowhere: there is no such directory"),
  ("--html=/tmp", "dlrl: --html=/tmp: cannot be written"),
  ("--html=/etc/passwd/x", "dlrl: --html=/etc/passwd/x: its directory does"),
  ("--steps=7", "dlrl: --steps=7: must be a multiple of the 4 blocks and at "
   "most --gen_length = 128")])
def test_what_cannot_work_is_one_line(published, flag, match):
  flags = [f"--model={published}", flag][flag.startswith("--model"):]
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", "--prompt=1", *flags], cwd=ROOT,
    capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert match in done.stderr.splitlines()[-1]


@pytest.fixture
def with_blocks(published, tmp_path):
  root = tmp_path / "sdar"
  shutil.copytree(published, root)
  path = root / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {
    "model_type": "sdar", "block_size": 4}))
  # Any of these ends a row.
  (root / "generation_config.json").write_text(json.dumps(
    {"eos_token_id": list(range(3, 15))}))
  return root


@pytest.mark.slow
def test_a_model_with_blocks_answers_up_to_the_block_with_an_end(
    with_blocks, tmp_path):
  page = tmp_path / "page.html"
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={with_blocks}",
     "--dtype=float32", "--gen_length=64", "--prompt=1+2", "--temperature=1",
     "--threshold=0.9", "--top_k=20", f"--html={page}"], cwd=ROOT, text=True,
    capture_output=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr
  tokens = json.loads(Page(page.read_text()).scripts[0])["tokens"]
  steps = [token[1] for token in tokens]
  ends = [i for i, token in enumerate(tokens) if token[3]]
  prompt = len(hf_tokenizer.load(with_blocks).prompt("1+2"))
  # The row ended with the block of its first end, and nothing follows.
  assert prompt + len(tokens) == -(-(prompt + ends[0] + 1) // 4) * 4
  assert len(tokens) < 64
  assert sorted(set(steps)) == list(range(max(steps) + 1))


@pytest.mark.slow
def test_edits_are_those_of_generate(with_blocks, tmp_path):
  page = tmp_path / "page.html"
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={with_blocks}",
     "--dtype=float32", "--gen_length=8", "--prompt=1+2", "--temperature=1",
     "--threshold=0.5", "--edit_threshold=0.01", "--max_post_edit=3",
     f"--html={page}"], cwd=ROOT, text=True, capture_output=True, timeout=120,
    check=False)
  assert done.returncode == 0, done.stderr
  tokens = json.loads(Page(page.read_text()).scripts[0])["tokens"]
  tokenizer = hf_tokenizer.load(with_blocks)
  model, params = models.load(with_blocks, dtype="float32")
  options = {"gen_length": 8, "threshold": 0.5, "temperature": 1.0,
             "eos_id": [tokenizer.eos_id, *sorted(tokenizer.ends)]}
  asked = [tokenizer.prompt("1+2")]
  want, plain = (sampling.generate(
    model, params, asked, **options, **more)[0, :len(tokens)].tolist()
    for more in ({"edit_threshold": 0.01, "max_post_edit": 3}, {}))
  assert [token[0] for token in tokens] == [tokenizer.table.decode(
    [i], skip_special_tokens=False) for i in want]
  assert want != plain  # some were edited


@pytest.mark.parametrize("flag, match", [
  ("--edit_threshold=2", "--edit_threshold=2.0: must be in 0..1"),
  ("--block_length=8", "--block_length=8: must be 4, the block length of the "
   "model"), ("--cache=dual", "--cache=dual: must be 'none'")])
def test_what_blocks_do_not_support_is_one_line(with_blocks, flag, match):
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.chat", f"--model={with_blocks}", "--prompt=1",
     flag], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert done.stderr.splitlines()[-1].startswith(f"dlrl: {match}")


@pytest.mark.parametrize("kv_heads, width, sizes", [
  (8, 16, (1, 1, 8)), (1, 16, (1, 8, 1)), (2, 16, (1, 4, 2)),
  (1, 12, (1, 1, 1))])  # 12 is no multiple of 8
def test_a_model_is_split_over_all_devices_where_its_sizes_divide(
    kv_heads, width, sizes):
  model = transformer.build(config.ModelConfig(
    vocab_size=48, width=width, layers=1, heads=8, kv_heads=kv_heads,
    head_dim=8, mlp_width=16), 41)
  found = chat.local_mesh(model).shape
  assert (found["data"], found["fsdp"], found["tensor"]) == sizes
  assert found["expert"] == 1


@pytest.mark.slow
def test_four_devices_give_the_answer_of_one(published):
  answers = []
  for count in (1, 4):
    done = subprocess.run(
      [sys.executable, "-m", "dlrl.chat", f"--model={published}",
       "--dtype=float32", "--gen_length=4", "--block_length=4",
       "--prompt=1+2"], cwd=ROOT, capture_output=True, text=True, timeout=120,
      check=True, env=os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"})
    answers.append(done.stdout.splitlines()[-1])
  assert answers[0] == answers[1] != ""
