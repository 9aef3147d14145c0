"""Writes the texts of `dlrl --help` and `dlrl COMMAND --help`, 80 columns wide.
"""

import ast
import importlib.util
import pathlib
import textwrap
from collections.abc import Iterator
from collections.abc import Sequence

from absl import flags

from dlrl import commands
from dlrl.config import listing

ASKED = ("--help", "-help", "-h", "--helpshort", "--helpfull")


def asked(arguments: Sequence[str]) -> bool:
  """Whether the arguments of a command ask for its help."""
  return not set(ASKED).isdisjoint(arguments)


def overview() -> str:
  """The commands, with a sentence about each."""
  lines = ["dlrl: reinforcement learning of diffusion language models.", ""]
  for command in commands.PROGRAMS:
    usage, _, rest = _about(command).partition("\n\n")
    paragraph = " ".join(rest.partition("\n\n")[0].split())
    sentence = paragraph.partition(". ")[0].rstrip(".:")
    lines.append(_entry(usage.rstrip("."), f"{sentence}."))
  return "\n".join([*lines, "", *textwrap.wrap(
    "dlrl COMMAND --help lists the flags of a command. That of train, "
    "evaluate, config and fit lists every setting, too.", 80)])


def text(command: str) -> str:
  """Describes a command, its flags, and the settings if it takes a config."""
  values = flags.FlagValues()
  commands.define(command, values)
  lines = [_about(command), "", "Flags:", *_flags(values)]
  if "config" in values:
    lines += ["", "Settings, each changed by --config.NAME=VALUE:",
              *map(_setting, listing.settings({}))]
  return "\n".join(lines)


def _about(command: str) -> str:
  """The docstring of the program, which is not imported."""
  spec = importlib.util.find_spec(commands.PROGRAMS[command])
  assert spec is not None
  assert spec.origin is not None
  tree = ast.parse(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
  return (ast.get_docstring(tree) or "").replace("`", "")


def _flags(values: flags.FlagValues) -> Iterator[str]:
  for name in values:
    flag = values[name]
    default = ("" if flag.default in (None, "")
               else f"; default {flag.default}")
    yield _entry(f"--{name} ({flag.flag_type()}{default})", flag.help)


def _setting(setting: listing.Setting) -> str:
  unit = f" {setting.unit}" if setting.unit else ""
  return _entry(
    f"{setting.name} ({setting.type}; default {setting.default!r}{unit})",
    "; ".join(filter(None, (setting.meaning, setting.allowed))))


def _entry(title: str, body: str) -> str:
  return textwrap.indent("\n".join(
    [title, *textwrap.wrap(body, 74, initial_indent="    ",
                           subsequent_indent="    ")]), "  ")
