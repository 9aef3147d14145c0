"""Chat templates of published checkpoints, rendered in a process of their own.

A template is a program and a download. It runs in a child process with an empty
environment and with limits; see `template_worker`. The child is started once
and kept: a rendering then takes a fraction of a millisecond.
"""

import json
import pathlib
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl.sandbox import wire

Message = Mapping[str, str]  # role: system, user or assistant; content

_CPU_S = 2.0  # of one rendering
_WALL_S = 60.0  # only a backstop: a busy machine must not change a prompt
_MEMORY = 512 << 20
_TRIES = 2  # of a rendering whose process was ended by something else
# The packages get a path but not their own __init__, which would import JAX.
_BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[4])
for name in ("dlrl", "dlrl.models", "dlrl.sandbox"):
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [sys.argv[1] + name[4:].replace(".", "/")]
from dlrl.models import template_worker
template_worker.main(float(sys.argv[2]), int(sys.argv[3]))
"""


class ChatTemplate:
  """A compiled template. Threads may share it."""

  def __init__(self, text: str, tokens: Mapping[str, str]) -> None:
    """Compiles a template.

    Args:
      text: the template, in jinja2's language.
      tokens: names and texts of special tokens, which the template may use.

    Raises:
      ValueError: the template does not compile.
    """
    self._first = {"template": text, "tokens": dict(tokens)}
    self._lock = threading.Lock()
    self._process: subprocess.Popen[bytes] | None = None
    self._ask(None)

  def render(self, messages: Sequence[Message], **options: Any) -> str:
    """Renders a conversation.

    Args:
      messages: what has been said.
      **options: further variables of the template, as JSON values.

    Raises:
      ValueError: the template raises an error, or needs too much time, memory
        or text.
    """
    with self._lock:
      return self._ask({"messages": [dict(m) for m in messages], **options})

  def _ask(self, request: dict[str, Any] | None) -> str:
    """Returns the answer; None only starts the process."""
    for _ in range(_TRIES):
      try:
        if self._process is None:
          self._process = _started()
          self._end = weakref.finalize(self, _end, self._process)
          _answer(self._process, self._first)
        return _answer(self._process, request) if request else ""
      except (TimeoutError, EOFError) as e:
        status = self._end()
        self._process = None
        if isinstance(e, TimeoutError) or status == -signal.SIGPROF:
          raise ValueError(
            f"needs more than {_CPU_S:g} s of processor time") from e
    raise ValueError("its process ended; it may need too much memory")


def _started() -> subprocess.Popen[bytes]:
  # By exec, as a process that runs JAX must not be forked. In a session of its
  # own, so that Ctrl-C at the terminal reaches only the parent.
  return subprocess.Popen(
    [sys.executable, "-I", "-c", _BOOT, str(pathlib.Path(__file__).parents[1]),
     str(_CPU_S), str(_MEMORY), json.dumps([p for p in sys.path if p])],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    bufsize=0, env={}, cwd="/", start_new_session=True)


def _answer(process: subprocess.Popen[bytes], request: Any) -> str:
  """Returns the reply to a request.

  Raises:
    ValueError: the template refuses; says why.
    EOFError, TimeoutError: the process has ended; it takes too long.
  """
  assert process.stdin and process.stdout
  try:
    wire.send(process.stdin.fileno(), request)
  except BrokenPipeError as e:
    raise EOFError from e
  done, text = wire.receive(process.stdout.fileno(), _WALL_S)
  if not done:
    raise ValueError(text)
  return str(text)


def _end(process: subprocess.Popen[bytes]) -> int:
  process.kill()
  process.communicate()
  return process.returncode
