"""Nested dicts of settings, by dotted names."""

from collections.abc import Collection
from collections.abc import Iterator
from typing import Any


def diff(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """One line `config.a.b: old -> new` for every value that differs."""
  return [f"config.{name}: {a!r} -> {b!r}"
          for name, (a, b) in differences(old, new).items()]


def flat(values: dict[str, Any], whole: Collection[str] = (), prefix: str = ""
         ) -> Iterator[tuple[str, Any]]:
  """Entries of nested dicts by dotted names; `whole` and empty ones as dicts.
  """
  for key, value in values.items():
    name = prefix + key
    if isinstance(value, dict) and value and name not in whole:
      yield from flat(value, whole, f"{name}.")
    else:
      yield name, value


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = ""
                ) -> dict[str, tuple[Any, Any]]:
  """`{"a.b": (old, new)}` of every value that differs; None where absent."""
  found: dict[str, tuple[Any, Any]] = {}
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      found |= differences(a, b, f"{prefix}{key}.")
    elif a != b:
      found[f"{prefix}{key}"] = a, b
  return found
