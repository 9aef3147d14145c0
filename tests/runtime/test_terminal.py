"""Nothing that is printed commands the terminal or fails to be printed."""

import ast
import io
import os
import pathlib
import subprocess
import sys

import pytest

from dlrl.run import command
from dlrl.runtime import progress
from dlrl.runtime import terminal

ROOT = pathlib.Path(__file__).parents[2]
EVIL = "a\x1b[2J\x1b]0;title\x07b\r\x9b31m\u202e\x00\udcff"
SAFE = "a\ufffd[2J\ufffd]0;title\ufffdb\ufffd\ufffd31m\ufffd\ufffd\ufffd"


def stream(encoding):
  return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def written(to):
  to.flush()
  return to.buffer.getvalue()


def test_control_characters_are_replaced_except_ends_of_lines_and_tabs():
  assert terminal.printable(EVIL + "\n\té\u2603") == SAFE + "\n\té\u2603"


@pytest.mark.parametrize("print_it, prefix", [
  (terminal.show, ""), (progress.say, "s] "),
  (lambda text: command.say_error(text, 2), "dlrl: "),
  (lambda text: terminal.show_traceback(
    ValueError, ValueError(text), None), "ValueError: ")])
def test_everything_that_prints_is_safe(print_it, prefix, capsys):
  print_it(EVIL)
  found = "".join(capsys.readouterr())
  assert found.endswith(f"{prefix}{SAFE}\n")


def test_an_error_that_nobody_handles_is_safe(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(
    "from dlrl.run import command\n"
    "def main(args): raise RuntimeError('tensor \\x1b[2J')\n"
    "command.start('evaluate', main)\n")
  done = subprocess.run(
    [sys.executable, program], capture_output=True, timeout=100, check=False,
    env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert done.returncode == 1
  assert b"RuntimeError: tensor \xef\xbf\xbd[2J" in done.stderr
  # The source line in the traceback is text of ours: a backslash, no escape.
  assert b"\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("encoding, text", [
  ("iso-8859-1", b"\xe9 ? ?\n"), ("ascii", b"? ? ?\n"),
  ("utf-8", "é \u2603 \ufffd\n".encode()), ("cp1252", b"\xe9 ? ?\n")])
def test_what_an_encoding_lacks_is_replaced(encoding, text, monkeypatch):
  out, err = stream(encoding), stream(encoding)
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(sys, "stderr", err)
  terminal.show("é \u2603 \ud800")
  terminal.show("é \u2603 \ud800", error=True)
  monkeypatch.undo()
  assert written(out) == written(err) == text


def prints(path):
  """Lines of a module that print by themselves."""
  tree = ast.parse(path.read_text(encoding="utf-8"))
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      name = ast.unparse(node.func)
      if name in ("sys.stdout.write", "sys.stderr.write",
                  "traceback.print_exc", "traceback.print_exception"
                  ) or name.rpartition(".")[2] == "print":
        yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_nothing_is_printed_by_another_way():
  # The sandbox imports nothing of the package; the screen of the chat moves the
  # cursor, and escapes the text itself.
  found = [line for path in sorted((ROOT / "dlrl").rglob("*.py"))
           if "sandbox" not in path.parts for line in prints(path)]
  assert len(found) == 2, found
  assert all("dlrl/chat.py" in line for line in found), found
