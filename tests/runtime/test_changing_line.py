"""Progress on a terminal and in a file, as programs show it."""

import io
import itertools
import os
import re
import subprocess
import sys

import jax
import pytest
import runs
import terminals

from dlrl.runtime import progress
from dlrl.runtime import terminal

# Says lines, counts, makes steps, compiles and fails.
PROGRAM = """
import sys, time
import jax
from dlrl.runtime import terminal
from dlrl.runtime import progress

progress._SHORT = 0.0
if "stderr" in sys.argv:
  terminal.use_stderr()
if "muted" in sys.argv:
  terminal.mute()
progress.show_compilations()
progress.say("a sentence of many words, " * 9 + "and an end")

def twice(x):
  for _ in range(300):
    x = jax.numpy.sin(x) * 2
  return x

program = jax.jit(twice)
program(1.0)
with progress.Progress(400, "rl", done=100) as line:
  for step in range(101, 107):
    time.sleep(0.3)
    line.tick()
    line.show(step, stays=step == 104, reward=0.5, solved=0.25, elbo=-1.5,
              grad=2.0, **{"held-out": "12.5%"})
    program(1.0)  # is compiled already
    if step == 102:
      print("printed by a reward")
      sys.stderr.write("a warning of a library\\n")
for _ in progress.watched(range(3), "tensors read"):
  time.sleep(0.3)
print("the result")
for item in progress.watched(range(5), "tensors written"):
  time.sleep(0.4)
  raise SystemExit("an error")
"""


def child(*args):
  return [sys.executable, "-c", PROGRAM, *args]


def environment(**more):
  kept = {k: v for k, v in os.environ.items()
          if k not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR",
                       "JAX_COMPILATION_CACHE_DIR")}
  return kept | {"PYTHONPATH": str(runs.ROOT), "TERM": "xterm"} | more


def on_terminal(columns, *args, **more):
  return terminals.run(child(*args), columns, env=environment(**more))


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "more"), [
  (80, {}), (60, {"NO_COLOR": "1"}),
  pytest.param(200, {}, marks=pytest.mark.slow)], ids=[80, 60, 200])
def test_a_terminal_has_lines_and_one_that_changes(columns, more):
  seen, data, code = on_terminal(columns, **more)
  assert code == 1
  assert seen.widest <= columns
  said = " ".join(" ".join(seen.text).split())
  assert said.count("a sentence of many words") == 9
  # What stays, in its order, and nothing of the line that changes.
  assert seen.text[-1] == "" and seen.text[-2] == "an error"
  assert all(seen.text[:-1])  # no empty line is left
  assert seen.text.index("printed by a reward") < seen.text.index(
    "a warning of a library") < seen.text.index("the result")
  assert said.count("rl 104/400 reward 0.50") == said.count("rl ") == 1
  assert "tensors" not in said and "compiling" not in said
  steps = [line for line in seen.changed if line.startswith("rl  10")]
  assert len({*steps}) >= 4
  assert all("━" in line for line in steps)
  assert "ETA 1:" in steps[-1] and "reward 0.50" in steps[-1]
  assert ("grad 2.00" in steps[-1]) == (columns >= 80)
  assert ("held-out 12.5%" in steps[-1]) == (columns >= 200)
  assert any(line.startswith("rl  100/400") for line in seen.changed)
  compiling = [line for line in seen.changed if "compiling" in line]
  assert compiling and {line.rpartition(" ")[0] for line in compiling} == {
    "compiling twice"}
  assert seen.changed.index(compiling[-1]) < seen.changed.index(steps[-1])
  counted = [line for line in seen.changed if line.startswith("tensors read")]
  assert any("ETA 0:0" in line for line in counted)
  # Nor is the cursor hidden: `terminals` refuses all other commands.
  colors = {*re.findall(rb"\x1b\[([\d;]*)m", data)} - {b"0"}
  assert bool(colors) == (not more)


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["pipes", "a dumb terminal"])
def test_elsewhere_there_are_plain_lines(streams):
  if streams == "pipes":
    done = subprocess.run(
      child("stderr"), env=environment(FORCE_COLOR="1", TTY_COMPATIBLE="1"),
      stdin=subprocess.DEVNULL, capture_output=True)
    data = done.stderr
    assert done.stdout == b"printed by a reward\nthe result\n"
  else:
    seen, data, _ = on_terminal(120, TERM="dumb")
    assert not seen.was
    data = data.replace(b"\r\n", b"\n")
  assert b"\r" not in data and b"\x1b" not in data
  lines = data.decode().splitlines()
  assert max(map(len, lines)) <= 80
  text = "\n".join(lines)
  one = " ".join(text.split())
  for step in range(101, 107):
    assert one.count(f"rl {step}/400 reward 0.50 solved 0.25 elbo -1.50") == 1
  # Fields are whole.
  assert all(line.strip().startswith(("0.3", "held-out"))
             for line in lines if "s/step" in line), text
  assert one.index("] compiling twice") < one.index(
    "compiling twice took") < one.index("rl 101/400")
  assert one.count("compiling") == 2
  # What ends within seconds needs no line.
  assert "tensors" not in text


@pytest.mark.slow
def test_another_process_of_the_job_shows_nothing():
  seen, _, _ = on_terminal(80, "muted")
  assert not seen.was
  assert [line for line in seen.text if line] == [
    "printed by a reward", "a warning of a library", "the result", "an error"]


def test_a_line_shows_what_there_is_room_for_and_ends_before_the_last_column():
  view = terminal.View("rl  37/100", 0.37, ["ETA 2:56", "reward 0.71", "x" * 9])
  for room, fields in (
      (80, 3), (54, 3), (53, 2), (43, 2), (42, 1), (30, 1), (29, 0)):
    out = io.StringIO()
    terminal._Console(file=out, width=room).print(terminal._row(view, room - 1))
    line = out.getvalue().rstrip("\n")
    assert len(line) < room
    assert line.startswith("rl  37/100 ━━")
    assert sum(field in line for field in view.fields) == fields, room


def test_the_name_is_whole_wherever_it_fits():
  for name in ("rl  37/100", "evaluation on validation: batches  0/1"):
    for share, fields in itertools.product(
        (None, 0.0, 0.5), ([], ["ETA 1:00"])):
      view = terminal.View(name, share, fields)
      for room in range(len(name) + 12, 99):
        out = io.StringIO()
        terminal._Console(file=out, width=room).print(
          terminal._row(view, room - 1))
        line, = out.getvalue().rstrip("\n").split("\n")
        assert line.startswith(name) and len(line) < room, (room, line)


def test_the_time_left_comes_before_the_values_and_the_pace_after():
  line = progress.Progress(100, "rl", clock=iter([0, 9, 12]).__next__)
  line.tick()
  line.tick()
  line.show(37, says=False, reward=0.71)
  assert line._look() == (
    "rl   37/100", 0.37, ["ETA 3:09", "reward 0.71", "3.00 s/step"])


def test_a_program_is_named_as_its_function():
  for function, name in (
      ("fine_tuning", "fine-tuning"), ("_rollout", "rollout")):
    def program(x):
      return x + 1
    program.__name__ = function
    lowered = jax.jit(program).lower(1.0).as_text()
    module = lowered.partition("@jit_")[2].partition(" ")[0]
    assert progress._program(f"jit({module})") == name


def test_work_that_ends_soon_is_not_mentioned(capsys, monkeypatch):
  monkeypatch.setattr(progress, "_SHORT", 30.0)
  with progress.doing("reading"):
    pass
  assert not capsys.readouterr().out
  assert not terminal._under_way
