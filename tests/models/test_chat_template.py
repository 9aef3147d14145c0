"""Chat templates are programs of others: what they may do, and how long."""

import os
import pathlib
import signal
import time

import pytest

from dlrl.models import chat_template

YES = [{"role": "user", "content": "yes"}]
PLAIN = ("{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}"
         "{% if add_generation_prompt %}<{{ eos_token }}>{% endif %}")


def template(text, **tokens):
  return chat_template.ChatTemplate(text, tokens)


def test_a_conversation_is_rendered():
  made = template(PLAIN, eos_token="end")
  for text in ("yes", "", "a\nb", "\u2603\U0001f600", "{{ 7 }}", "\0\x1b", "'"):
    said = [*YES, {"role": "assistant", "content": text}]
    assert made.render(said) == f"<user>yes<assistant>{text}"
    assert made.render(said, add_generation_prompt=True).endswith("<end>")


LOOP = "{% for i in range(99999) %}"
HUGE = {
  "power": "{{ 10 ** (10 ** 10) }}",
  "variable power": "{% set n = 10 %}{{ n ** (n ** n) }}",
  "nested ranges": LOOP * 3 + "{% set x = 1 %}" + "{% endfor %}" * 3,
  "text of loops": LOOP * 2 + "aaaaaaaa" + "{% endfor %}" * 2,
  "text of one": "{{ 'a' * 10 ** 9 }}", "list": "{{ [0] * 10 ** 10 }}",
  "padding": "{{ 'a'.ljust(10 ** 10) }}",
  "format": "{{ '%099999999999d' % 1 }}", "center": "{{ 'a' | center(9**12) }}",
  "doubling": ("{% set ns = namespace(x='a') %}" + LOOP
               + "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"),
  "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
  "shift": "{{ (1).__lshift__(10 ** 12) }}",
  "split": "{{ ('a ' * 10 ** 8).split() | length }}",
  "join": "{{ range(99999) | join('a' * 10 ** 6) }}",
}


@pytest.mark.parametrize("text", HUGE.values(), ids=HUGE)
def test_time_memory_and_text_are_limited(text):
  start = time.monotonic()
  with pytest.raises(ValueError) as error:
    # Only for some conversations, or some of them at once.
    made = template("{% if messages | length > 1 %}" + PLAIN + "{% else %}"
                    + text + "{% endif %}")
    made.render(YES)
  assert time.monotonic() - start < 30
  assert len(str(error.value)) < 1200


@pytest.mark.slow
def test_after_one_conversation_too_much_others_are_rendered():
  made = template("{% if messages[0].content == 'no' %}" + HUGE["nested ranges"]
                  + "{% endif %}" + PLAIN)
  for _ in range(2):
    assert made.render(YES) == "<user>yes"
    with pytest.raises(ValueError, match="2 s of processor time"):
      made.render([{"role": "user", "content": "no"}])
  assert made.render(YES) == "<user>yes"


def test_a_process_that_something_else_ended_is_replaced():
  made = template(PLAIN)
  os.kill(made._process.pid, signal.SIGKILL)
  assert made.render(YES) == "<user>yes"


@pytest.mark.parametrize("text", [
  "{{", "{% for %}", "{% include 'a' %}", "{% import '/etc/passwd' as a %}",
  "{{ nothing.at_all }}", "{{ 1 / 0 }}", "{{ messages['a']['b'] }}",
  "{{ messages + 1 }}", "{% extends 'x' %}", "{{ 'a' | nothing }}",
  "{{ [].append.__globals__ }}", "{{ cycler.__init__.__globals__.os }}",
  "{{ '{0.__class__}'.format(1) | attr('__class__')() }}"])
def test_what_a_template_cannot_do_is_one_error(text):
  with pytest.raises(ValueError):
    template(text).render(YES)


def test_a_rendering_sees_no_environment_and_no_files(monkeypatch):
  monkeypatch.setenv("SECRET", "1234")
  made = template(PLAIN)
  process = pathlib.Path(f"/proc/{made._process.pid}")
  assert (process / "environ").read_bytes() == b""
  limits = (process / "limits").read_text()
  for name, value in (("Max open files", 3), ("Max processes", 0),
                      ("Max file size", 0), ("Max address space", 512 << 20)):
    row = next(x for x in limits.splitlines() if x.startswith(name))
    assert row.removeprefix(name).split()[:2] == [str(value)] * 2
  status = dict(line.split(":\t", 1) for line in (
    process / "status").read_text().splitlines())
  assert (status["NoNewPrivs"], status["CapEff"]) == ("1", "0" * 16)


def test_the_process_ends_with_its_template():
  made = template(PLAIN)
  before = len(os.listdir("/proc/self/fd"))
  pid = made._process.pid
  del made
  assert not pathlib.Path(f"/proc/{pid}").exists()
  assert len(os.listdir("/proc/self/fd")) == before - 2


def test_a_batch_of_prompts_takes_little_time():
  made = template(PLAIN)
  made.render(YES)
  start = time.monotonic()
  for i in range(1000):
    made.render([{"role": "user", "content": str(i) * 100}])
  assert time.monotonic() - start < 5  # measured: 0.1
