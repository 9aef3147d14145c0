"""The child process that renders a chat template, which is a download.

`chat_template` starts it. The first message holds the template; each further
one a conversation. Replies are `[true, text]` or `[false, reason]`. jinja2's
sandbox keeps templates from Python's objects, but not from endless loops, large
numbers and long texts. So the kernel ends the process when one rendering takes
too much processor time, and denies it memory, files, sockets and processes.
"""

import contextlib
import pprint  # noqa: F401  (jinja2 imports it, and `debug`, when needed)
import resource
import signal
from typing import Any

import jinja2
import jinja2.debug
import jinja2.sandbox

from dlrl.sandbox import seccomp
from dlrl.sandbox import syscalls
from dlrl.sandbox import wire

MAX_CHARACTERS = 1_000_000  # of a rendered conversation


def _refuse(message: str) -> None:
  raise jinja2.TemplateError(message)


def compiled(text: str, tokens: dict[str, str]) -> jinja2.Template:
  """Compiles a template as `transformers` does, or whitespace would differ."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True,
    extensions=["jinja2.ext.loopcontrols"])
  environment.globals["raise_exception"] = _refuse
  return environment.from_string(text, globals=tokens)


def rendered(template: jinja2.Template, values: dict[str, Any]) -> str:
  """Renders a conversation; raises ValueError if the text is very long."""
  text = ""
  for part in template.generate(values):
    text += part
    if len(text) > MAX_CHARACTERS:
      raise ValueError(f"more than {MAX_CHARACTERS} characters")
  return text


def limit(memory: int) -> None:
  """Gives up memory beyond `memory` bytes, files, sockets and processes."""
  for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                      (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 3),
                      (resource.RLIMIT_NPROC, 0)):
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    resource.setrlimit(kind, (value, value))
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  syscalls.check(syscalls.drop_capabilities(), "capabilities")
  syscalls.check(
    syscalls.prctl(syscalls.SET_NO_NEW_PRIVS, 1), "no new privileges")
  if seccomp.supported():
    seccomp.install(files=False)


def main(seconds: float, memory: int) -> None:
  """Answers requests until the input ends.

  Args:
    seconds: processor time of one rendering.
    memory: bytes of address space.
  """
  with contextlib.suppress(jinja2.TemplateError):  # all of jinja2 in memory
    compiled("{{ raise_exception('a') }}", {}).render()
  limit(memory)
  template = None
  with contextlib.suppress(EOFError):
    while True:
      request = wire.receive(0)
      signal.setitimer(signal.ITIMER_PROF, seconds)
      try:
        if template is None:
          template = compiled(request["template"], request["tokens"])
          reply = [True, ""]
        else:
          reply = [True, rendered(template, request)]
      except Exception as e:  # a template can raise anything
        reply = [False, f"{type(e).__name__}: {e}"[:1000]]
      signal.setitimer(signal.ITIMER_PROF, 0)
      wire.send(1, reply)
