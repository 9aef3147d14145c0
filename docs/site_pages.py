"""MkDocs hook: the pages of the site that are made from other files.

The home page is README.md, and the settings page is made from `dlrl.config`, so
that neither has a copy that could go stale.
"""

import itertools
import operator
import pathlib
import re

from mkdocs.structure import files as files_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]

COPIES = {  # page of the site: file of the repository
  "index.md": "README.md",
  "contributing.md": "CONTRIBUTING.md",
  "changelog.md": "CHANGELOG.md",
}
FILES = ("LICENSE", "CITATION.cff")  # linked to, and shown as they are


def on_files(files, config):
  """Adds the generated pages and the figures of `benchmarks/results`."""
  pages = {page: (ROOT / name).read_text(encoding="utf-8")
           for page, name in COPIES.items()}
  pages["settings.md"] = settings()
  pages["examples.md"] = examples()
  for page, text in pages.items():
    files.append(files_lib.File.generated(config, page, content=text))
  results = sorted(path for path in (ROOT / "benchmarks" / "results").iterdir()
                   if path.is_file())
  for path in [*results, *(ROOT / name for name in FILES)]:
    files.append(files_lib.File.generated(
      config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, page, **_):
  """Makes links between files of the repository links between pages."""
  if page.file.src_uri in COPIES:
    markdown = re.sub(r"(\]\()docs/", r"\1", markdown)
  else:
    markdown = re.sub(r"(\]\()\.\./benchmarks/", r"\1benchmarks/", markdown)
  for page_name, name in COPIES.items():
    markdown = re.sub(
      rf"(\]\()(\.\./)?{re.escape(name)}", rf"\1{page_name}", markdown)
  return markdown


def examples() -> str:
  """The programs of docs/examples, with their docstrings as introductions."""
  intro = ("# Examples\n\ndlrl's losses in code that shares nothing else with "
           "dlrl. The programs run on a CPU in seconds.\n")
  paths = sorted((ROOT / "docs" / "examples").glob("*.py"))
  return "\n".join([intro, *(
    f"## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"
    for path in paths)])


def settings() -> str:
  """Every setting, by section: name, type, default, unit, meaning, bounds."""
  from dlrl import config
  from dlrl import validate

  parts = [
    "# Settings\n\nEvery setting of a run, generated from `dlrl/config/`. "
    "Set one in a config file, `cfg.learn.n_mc = 32`, or on the command line, "
    "`--config.learn.n_mc=32`. Values in `configs/` differ from the defaults "
    "below; a run writes the values that it used to `config.json`. The last "
    "column says which may have another value when a run "
    "[goes on](operations.md#going-on).\n"]
  by_section = itertools.groupby(
    validate.settings(), lambda setting: setting.name.rpartition(".")[0])
  for section, found in by_section:
    values = (operator.attrgetter(section)(config.Config()) if section
              else config.Config())
    parts += [f"## `{section}`\n" if section else "## Run\n",
              _plain(type(values).__doc__) + "\n",
              "| setting | type | default | meaning | may change |",
              "| --- | --- | --- | --- | --- |", *map(_row, found), ""]
  return "\n".join(parts)


def _row(setting) -> str:
  notes = [f"unit: {setting.unit}" if setting.unit else "",
           setting.allowed.replace("'", "`")]
  meaning = "; ".join([setting.meaning, *filter(None, notes)])
  cells = (f"`{setting.name}`", f"`{setting.type}`", f"`{setting.default!r}`",
           meaning, setting.restart)
  return f"| {' | '.join(map(_cell, cells))} |"


def _plain(doc: str) -> str:
  return re.sub(r"\n +", "\n", doc).strip()


def _cell(text: str) -> str:
  return text.replace("|", "\\|")
