"""Completions in a table, whatever they contain."""

import ast
import json
import math
import sys
import types
import unicodedata

import hypothesis
import pytest
import tensorboard_events
import terminals
from hypothesis import strategies as st

from dlrl.storage import metrics
from dlrl.storage import samples
from dlrl.storage import wandb_log

HOSTILE = [
  "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x00\x08\x7f", "\t\t", "\udcff\ud800",
  "a\nb\r\nc\rd\x85e\u2028f\u2029g\x0b\x0c", "\u00ad\u200b\ufeff",
  "\u202eright to left\u202c\u2066\u2069", "\u65e5\u672c\u8a9e" * 40,
  "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 30, "\u2764\ufe0f" * 60,
  "e" + "\u0301" * 5000, "\u0301leading",
  "    code\n# title\n<script>alert(1)</script>|a|b|"]
EVERYWHERE = st.text(st.one_of(st.characters(), st.sampled_from(
  "\x1b\n\r\t\u202e\u0301\u65e5\U0001f468\u200d\ufe0f\u0e33\u1160")))


def columns(text):
  return sum(map(terminals.columns_of, text))


def seen(lines):
  """What a terminal shows of them; it fails for a command."""
  terminal = terminals.Terminal()
  terminal.feed("".join(f"{line}\r\n" for line in lines).encode())
  return terminal


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("width", [20, 60, 80])
def test_hostile_text_stays_in_its_cell(text, width):
  group = [samples.Sample(text, text, 0.5), samples.Sample(text, text, -1.0)]
  lines = list(samples.table(group, width))
  terminal = seen(lines)
  assert terminal.widest <= width
  assert not terminal.was
  starts = [line[:10] for line in terminal.text]
  assert [start.strip() for start in starts] == [
    "reward", "prompt", "0.5", "-1", ""]
  assert all(len(line) < 6 * width for line in lines)  # also of accents


@hypothesis.given(EVERYWHERE, st.integers(20, 90))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_text_is_one_line_that_fits(text, width):
  _, prompt, first = samples.table([samples.Sample(text, text, 1.0)], width)
  for line in (prompt, first):
    assert columns(line) <= width
    assert not {c for c in line if unicodedata.category(c)[0] == "C"
                or unicodedata.category(c) in ("Zl", "Zp")}
  # All of it, escaped, or its end.
  whole = list(samples.table([samples.Sample(text, text, 1.0)]))[2][10:]
  shown = first[10:]
  assert shown == whole or (
    shown.startswith("...") and whole.endswith(shown[3:]))
  # Where nothing of the text looks like an escape, it can be read back.
  if not {*text} & {*"\\\"'"}:
    assert ast.literal_eval(f"'{whole}'") == text


def test_prompts_stand_once_above_their_completions():
  found = list(samples.table([
    samples.Sample("p", "a", 1.0), samples.Sample("p", "b", math.nan),
    samples.Sample("q", "c", 123456.0)], 30))
  assert found == [
    "  reward  completion", "  prompt  p", "       1  a", " unknown  b",
    "  prompt  q", "1.235e+05  c"]


def text_events(root):
  """The texts that TensorBoard has, by tag and step."""
  found = {}
  for event in tensorboard_events.read(root):
    for value in event.summary.value:
      if value.metadata.plugin_data.plugin_name == "text":
        (found[value.tag, event.step],) = value.tensor.string_val
  return {key: value.decode() for key, value in found.items()}


def test_tensorboard_has_the_same_table_as_code(tmp_path):
  group = [samples.Sample("p", text, 0.25) for text in HOSTILE]
  with metrics.MetricsWriter(tmp_path) as writer:
    writer.samples(3, group)
  (tag, step), text = text_events(tmp_path).popitem()
  assert (tag, step) == ("samples/text_summary", 3)
  lines = text.splitlines()
  assert len(lines) == 2 + len(group)
  # In Markdown, lines after four spaces are code.
  assert all(line.startswith("    ") for line in lines)
  assert [line[4:] for line in lines] == list(samples.table(group))


def test_files_have_the_texts_as_they_are(tmp_path):
  group = [samples.Sample("p\n", text, 0.25) for text in HOSTILE]
  with metrics.MetricsWriter(tmp_path) as writer:
    writer.samples(3, group)
  found = [json.loads(line) for line in (
    tmp_path / "samples.jsonl").read_text().split("\n")[:-1]]
  assert found == [{"step": 3, "prompt": "p\n", "completion": text,
                    "reward": 0.25} for text in HOSTILE]


def test_weights_and_biases_has_a_table_of_escaped_texts(tmp_path, monkeypatch):
  logged = []
  run = types.SimpleNamespace(
    log=lambda row, step: logged.append((step, row)), finish=lambda: None)
  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(
    init=lambda **kwargs: run, Table=lambda columns, data: (columns, data)))
  with wandb_log.wandb("mine", tmp_path, {}) as tracker:
    tracker.samples(7, [samples.Sample("p\n", "\x1b[2J\udcff", math.nan)])
  assert logged == [(7, {"samples": (
    ["prompt", "completion", "reward"],
    [["p\\n", "\\x1b[2J\\udcff", None]])})]
