"""Config files by name: those in the package, and what a wrong name meant."""

import difflib
import pathlib
from collections.abc import Collection

# A link in the repository, a copy in the wheel.
FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def shipped() -> list[str]:
  """The config files of dlrl, `bgpo` for `configs/bgpo.py`."""
  return sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def resolve(given: str) -> str:
  """`NAME[:PRESET]` with the path of dlrl's file in place of its name.

  Anything else, such as a path, is returned as it is; so is the name of a file
  that exists.
  """
  name, colon, preset = given.partition(":")
  if name not in shipped() or pathlib.Path(name).is_file():
    return given
  return f"{FOLDER / name}.py{colon}{preset}"


def nearest(given: str) -> list[str]:
  """Names like those of a file that does not exist, the most similar first.

  Args:
    given: what the user typed, without a preset: a path or a name.

  Returns:
    Config files in the same directory as users type them, then dlrl's.
  """
  path = pathlib.Path(given)
  near = difflib.get_close_matches(
    path.name, [other.name for other in path.parent.glob("*.py")], 2)
  ours = ([path.stem] if path.stem in shipped()
          else difflib.get_close_matches(path.stem, shipped(), 2))
  return [*(str(path.with_name(name)) for name in near), *ours]


def unknown(preset: str, names: Collection[str],
            more: Collection[str] = ()) -> ValueError:
  """An error that says which preset may have been meant.

  Args:
    preset: what was asked for.
    names: the presets that are listed.
    more: others that exist, listed only if they are similar.
  """
  near = difflib.get_close_matches(preset, [*names, *more], 3)
  meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
  return ValueError(
    f"unknown preset {preset!r}; {meant}use {', '.join(map(repr, names))}")
