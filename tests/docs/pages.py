"""The code blocks of README and docs, and the commands in them."""

import dataclasses
import re
import shlex

import runs

ROOT = runs.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *sorted((ROOT / "docs").rglob("*.md"))]
# A comment directly above a block says why no test runs it.
BLOCK = re.compile(
  r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
  r"^```(?P<language>sh|python|json)\n(?P<text>.*?)^```$", re.M | re.S)

# Patterns and ends of the shell's own statements.
CONTROL = ("case", "42", "43", "44", "*", "break", "esac", "done", "fi")


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block; `reason` is why it is not run, if it is not."""

  page: str
  line: int
  language: str
  text: str
  reason: str | None

  def __str__(self):
    return f"{self.page}:{self.line}"


def blocks(*languages):
  found = []
  for path in PAGES:
    text = path.read_text()
    found += [
      Block(path.relative_to(ROOT).as_posix(),
            1 + text.count("\n", 0, match.start("language")),
            match["language"], match["text"], match["reason"])
      for match in BLOCK.finditer(text) if match["language"] in languages]
  return found


def commands(block):
  """The words of each command, without control flow and assignments."""
  lexer = shlex.shlex(block.text.replace("\\\n", " ").replace("\n", "\n;"),
                      posix=True, punctuation_chars=";()|&")
  lexer.whitespace_split = True
  found, words = [], []
  for word in [*lexer, ";"]:
    if set(word) <= set(";()|&"):
      found.append(words)
      words = []
    elif word in ("until", "while", "do", "if", "then") or (
        not words and re.match(r"\w+=", word)):
      continue
    else:
      words.append(word)
  return [words for words in found if words and words[0] not in CONTROL]
