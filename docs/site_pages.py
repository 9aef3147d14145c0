"""MkDocs hook: the pages of the site that are made from other files.

The home page is README.md, and the settings page is made from `dlrl.config`, so
that neither has a copy that could go stale.
"""

import dataclasses
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
  pages = {page: (ROOT / name).read_text() for page, name in COPIES.items()}
  pages["settings.md"] = settings()
  pages["examples.md"] = examples()
  for page, text in pages.items():
    files.append(files_lib.File.generated(config, page, content=text))
  results = sorted((ROOT / "benchmarks" / "results").iterdir())
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
           "dlrl. Both programs run on a CPU in seconds.\n")
  paths = sorted((ROOT / "docs" / "examples").glob("*.py"))
  return "\n".join([intro, *(
    f"## {path.name}\n\n```python\n{path.read_text()}```\n"
    for path in paths)])


def settings() -> str:
  """Every setting of `dlrl.config`: name, default, meaning; by section."""
  from dlrl import config

  source = pathlib.Path(config.__file__).read_text()
  parts = [
    "# Settings\n\nEvery setting of a run, generated from `dlrl/config.py`. "
    "Set one in a config file, `cfg.learn.n_mc = 32`, or on the command line, "
    "`--config.learn.n_mc=32`. Values in `configs/` differ from the defaults "
    "below; a run writes the values that it used to `config.json`.\n"]
  parts += _section(source, "", config.Config())
  return "\n".join(parts)


def _section(source: str, prefix: str, values) -> list[str]:
  """A heading, the section's docstring and its table; then its sections."""
  fields = dataclasses.fields(values)
  nested = [f.name for f in fields
            if dataclasses.is_dataclass(getattr(values, f.name))]
  meanings = _meanings(source, type(values).__name__)
  rows = [
    f"| `{prefix}{f.name}` | `{getattr(values, f.name)!r}` "
    f"| {meanings.get(f.name, '')} |"
    for f in fields if f.name not in nested]
  parts = [f"## `{prefix[:-1]}`\n" if prefix else "## Of a run\n",
           _plain(type(values).__doc__) + "\n",
           "| setting | default | meaning |", "| --- | --- | --- |", *rows, ""]
  for name in nested:
    parts += _section(source, f"{prefix}{name}.", getattr(values, name))
  return parts


def _meanings(source: str, name: str) -> dict[str, str]:
  """Maps the fields of class `name` to the comments above and beside them."""
  body = re.search(rf"^class {name}\b.*?(?=^\S|\Z)", source, re.M | re.S)[0]
  found, above, field = {}, [], ""
  for line in body.splitlines():
    if match := re.match(r"  # (.*)", line):
      above.append(match[1])
    elif match := re.match(r"  (\w+): [^#]*(?:# (.*))?", line):
      field = match[1]
      found[field] = " ".join([*above, match[2] or ""]).strip()
      above = []
    elif field and (match := re.match(r"    [^#]*# (.*)", line)):
      found[field] = f"{found[field]} {match[1]}".strip()
  return {field: _cell(text) for field, text in found.items()}


def _plain(doc: str) -> str:
  return re.sub(r"\n +", "\n", doc).strip()


def _cell(text: str) -> str:
  return text.replace("|", "\\|")
