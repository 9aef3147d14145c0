"""A run as somebody sees it who watches it, on a terminal and in a file."""

import contextlib
import dataclasses
import os
import pty
import re
import sys
import termios
import threading

import jax
import numpy as np
import pytest
import runs
import terminals

from dlrl import tasks
from dlrl.run import grading
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.storage import metrics

GROUPS, SIZE = 4, 4
# By step: the rewards of all groups, of each group, and of no group are equal.
REWARDS = [
  np.ones((GROUPS, SIZE)), np.arange(GROUPS)[:, None] / 4 * np.ones(SIZE),
  np.arange(GROUPS * SIZE).reshape(GROUPS, SIZE) / 16,
  # Of one group alone they are not.
  np.eye(GROUPS)[2][:, None] * np.eye(SIZE)[1]]
TEXTS = {  # what a model may write: how it is shown
  "\x1b[2J\x1b]0;title\x07": r"\x1b[2J\x1b]0;title\x07",
  "a\n b\r\n": r"a\n b\r\n",
  "\u202eabc\u202c": r"\u202eabc\u202c", "日本語": "日本語",
  "\U0001f468\u200d\U0001f469": "\U0001f468" r"\u200d" "\U0001f469",
  "long " * 99 + "end": "long end", "": "", "1342|x|": "1342|x|"}


@pytest.fixture
def cfg(sudoku_dir, monkeypatch):
  """Settings of a run whose rewards and completions are those above."""
  steps = iter(REWARDS)
  texts = iter([*TEXTS] * 99)
  real = grading.read

  def read(setup, asked, ids, speed):
    done = real(setup, asked, ids, speed)
    if len(done.texts) != GROUPS * SIZE:  # of an evaluation
      return done
    return dataclasses.replace(done, texts=[next(texts) for _ in done.texts])

  monkeypatch.setattr(grading, "read", read)
  monkeypatch.setitem(tasks.TASKS, "sudoku", dataclasses.replace(
    tasks.TASKS["sudoku"], rewards={
      "units": lambda prompts, completions, **columns: (
        next(steps).ravel().tolist())}))
  return runs.tiny(
    sudoku_dir, steps=len(REWARDS), sft__steps=2, sft__log_every=1,
    sft__checkpoint_every=99, checkpoint_every=99, sample_every=2,
    eval__every=1, eval__size=8, eval__batch_size=8)


@pytest.fixture
def compilations(monkeypatch):
  """Compilations are shown, however short."""
  class Now(threading.Timer):
    def start(self):
      self.function()

  listeners = []
  for kind in ("scalar", "event_duration_secs"):
    name = f"register_{kind}_listener"
    real = getattr(jax.monitoring, name)
    monkeypatch.setattr(jax.monitoring, name, lambda listener, real=real: (
      listeners.append(listener), real(listener)))
  monkeypatch.setattr(progress.threading, "Timer", Now)
  progress.show_compilations()
  yield
  begins, ends = listeners
  jax.monitoring.unregister_scalar_listener(begins)
  jax.monitoring.unregister_event_duration_listener(ends)


@contextlib.contextmanager
def screen(columns, monkeypatch):
  """A `Terminal` that stdout goes to meanwhile."""
  ours, theirs = pty.openpty()
  seen, data = terminals.Terminal(), []

  def read():
    with contextlib.suppress(OSError):  # all has been read
      while part := os.read(ours, 4096):
        data.append(part)

  reader = threading.Thread(target=read)
  reader.start()
  with monkeypatch.context() as patch:
    patch.setenv("COLUMNS", str(columns))
    patch.setenv("TERM", "xterm")
    out = os.fdopen(theirs, "w", encoding="utf-8")
    patch.setattr(sys, "stdout", out)
    try:
      yield seen
    finally:
      termios.tcdrain(theirs)
      out.close()
      reader.join()
      os.close(ours)
  seen.feed(b"".join(data))


def tables(lines):
  """The rows of each table, by step."""
  found, step = {}, None
  for line in lines:
    if "] completions of step" in line:
      found[step := int(line.rpartition(" ")[2])] = []
    elif line.startswith("["):
      step = None
    elif step is not None and line.strip():
      found[step].append((line[:8].strip(), line[10:]))
  return found


def check_tables(lines, workdir, room):
  stored = metrics.samples(workdir)
  assert [row["step"] for row in stored] == [2] * 4 + [4] * 4
  assert [row["reward"] for row in stored] == (
    [0.0] * 4 + REWARDS[3][0].tolist())
  found = tables(lines)
  assert found.keys() == {2, 4}
  for step, (title, (asked, prompt), *rows) in found.items():
    assert title == ("reward", "completion")
    mine = [row for row in stored if row["step"] == step]
    assert (asked, prompt) == ("prompt", mine[0]["prompt"])
    assert len({row["prompt"] for row in mine}) == 1
    assert len(rows) == len(mine)
    for (reward, text), row in zip(rows, mine, strict=True):
      assert float(reward) == row["reward"]
      shown = TEXTS[row["completion"]]
      assert text == shown or (
        text == "..." + ("long " * 99 + "end")[3 - room:])


def check_steps(lines):
  """Every step has its line, and says that it taught nothing if so."""
  text = " ".join(" ".join(lines).split())
  steps = re.split(r"\brl (\d)/4 ", text)[1:]
  said = {int(n): rest for n, rest in zip(
    steps[::2], steps[1::2], strict=True)}
  assert said.keys() == {1, 2, 3, 4}
  for step, rewards in enumerate(REWARDS, 1):
    advantages = rewards - rewards.mean(1, keepdims=True)
    assert ("no gradient: equal rewards" in said[step]) == (
      not np.any(advantages)), said[step]
    assert f"reward {rewards.mean():.2f}" in said[step]
    assert "held-out" in said[step]


@pytest.mark.slow
def test_on_a_terminal(cfg, compilations, tmp_path, monkeypatch):
  with screen(80, monkeypatch) as seen:
    runs.run_here(cfg, tmp_path / "run")
  assert not terminal._under_way
  assert seen.widest <= 80
  lines = seen.text
  check_tables(lines, tmp_path / "run", 70)
  check_steps(lines)
  # The changing line has gone, and it was one at a time.
  assert not any("━" in line for line in lines)
  assert not any("compiling" in line for line in lines)
  order = [next(i for i, line in enumerate(seen.changed) if
                line.startswith(start)) for start in (
    "sft  0/2 ━", "compiling fine-tuning 0:0", "compiling evaluation 0:0",
    "rl  0/4 ━", "compiling rollout 0:0", "compiling update 0:0")]
  assert order == sorted(order)
  # One batch of each split before the first step and after the last.
  for split in ("validation", "test"):
    assert any(line.startswith(f"evaluation on {split}: batches  0/1 ━")
               for line in seen.changed)


@pytest.mark.slow
def test_in_a_file(cfg, compilations, tmp_path, capsys):
  runs.run_here(cfg, tmp_path / "run")
  out = capsys.readouterr().out
  assert not {c for c in out if ord(c) < 32} - {"\n"}
  lines = out.splitlines()
  assert max(sum(map(terminals.columns_of, line)) for line in lines) <= 80
  check_tables(lines, tmp_path / "run", 70)
  check_steps(lines)
  starts = [line.partition("] ")[2] for line in lines]
  first = next(i for i, line in enumerate(starts) if line.startswith("rl  1/4"))
  for program in ("fine-tuning", "evaluation", "rollout", "update"):
    begun = starts.index(f"compiling {program}")
    assert begun < first
    assert starts[begun + 1].startswith(f"compiling {program} took ")
    assert starts.count(f"compiling {program}") == 1
