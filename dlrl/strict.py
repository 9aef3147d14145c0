"""Strict frozen dataclasses from nested dicts, with errors that help."""

import dataclasses
import difflib
import hashlib
import inspect
import json
import typing
from typing import Any


class ConfigError(ValueError):
  """An invalid setting: names the field, its value and a fix.

  Its subclasses report what is not a setting: flags of a program, arguments of
  a function. Callers that only print the message need not tell them apart.
  """

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(f"{self.shown(field)} = {value!r}: {fix}")
    self.field, self.value, self.fix = field, value, fix

  @staticmethod
  def shown(field: str) -> str:
    """The name as users type it, for messages that mention other fields."""
    return f"config.{field}"


class FlagError(ConfigError):
  """An invalid flag of a program, not part of the config: `--field=value`."""

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(field, value, fix)
    self.args = (f"{self.shown(field)}={value}: {fix}",)

  @staticmethod
  def shown(field: str) -> str:
    """`--field`."""
    return f"--{field}"


class ArgumentError(ConfigError):
  """An invalid argument of a function; `field` is `function.argument`."""

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(field, value, fix)
    function, _, argument = field.rpartition(".")
    self.args = (f"{function}({argument}={value!r}): {fix}",)

  @staticmethod
  def shown(field: str) -> str:
    """The argument's own name."""
    return field.rpartition(".")[2]


class Knobs(dict[str, Any]):
  """Settings whose names depend on another setting; not to be changed."""

  def __hash__(self) -> int:  # type: ignore[override]
    return hash(tuple(sorted(self.items())))


def arguments(function: Any, values: Knobs, field: str) -> None:
  """Checks `values` as keyword arguments that have defaults in `function`.

  Raises:
    ConfigError: one is unknown or not of its default's type.
  """
  kinds = {p.name: type(p.default)
           for p in inspect.signature(function).parameters.values()
           if p.default is not p.empty}
  for key, value in values.items():
    if key not in kinds:
      raise ConfigError(f"{field}.{key}", value, _unknown(key, kinds))
    _value(kinds[key], value, f"{field}.{key}")


def require(ok: bool, field: str, value: object, fix: str,
            error: type[ConfigError] = ConfigError) -> None:
  """Raises `error(field, value, fix)` unless `ok`.

  Args:
    ok: the condition.
    field: the setting, `section.name`; the flag, `name`; or the argument,
      `function.name`.
    value: what it is set to.
    fix: what it must be, or what to do next.
    error: `ConfigError` for a setting, `FlagError` or `ArgumentError`.
  """
  if not ok:
    raise error(field, value, fix)


def build(cls: type, values: Any, path: str = "") -> Any:
  """`cls(**values)`, recursively, with every key known, present and typed.

  Args:
    cls: a dataclass of ints, floats, bools, strings, tuples and dataclasses.
    values: nested dicts.
    path: prefix of the field names in messages, ending in a dot.

  Raises:
    ConfigError: names the field, its value and what was expected.
  """
  if not isinstance(values, dict):
    raise ConfigError(path[:-1], values, f"expected a section ({cls.__name__})")
  kinds = typing.get_type_hints(cls)
  for key in values:
    if key not in kinds:
      raise ConfigError(path + key, values[key], _unknown(key, kinds))
  missing = [key for key in kinds if key not in values]
  if missing:
    raise ConfigError(path + missing[0], None, "missing; start from default()")
  return cls(**{key: _value(kind, values[key], path + key)
                for key, kind in kinds.items()})


def find(cls: type, path: str, value: str) -> None:
  """Checks that `path`, `a.b.c`, is a field of the nested dataclasses of `cls`.

  Args:
    cls: the outermost dataclass.
    path: names, separated by dots.
    value: what somebody wants to set it to, for the message.

  Raises:
    ConfigError: it is not; suggests what may have been meant.
  """
  kind: Any = cls
  for key in path.split("."):
    section = dataclasses.is_dataclass(kind)
    kinds = typing.get_type_hints(kind) if section else {}
    if key not in kinds:
      raise ConfigError(path, value, _unknown(key, kinds))
    kind = kinds[key]
    if kind is Knobs:
      return  # which names there are depends on other settings


def _unknown(key: str, kinds: dict[str, Any]) -> str:
  near = difflib.get_close_matches(key, kinds, 1)
  known = ", ".join(kinds) or "none"
  hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
  return f"unknown key; {hint}"


def _value(kind: Any, value: Any, path: str) -> Any:
  if dataclasses.is_dataclass(kind):
    return build(typing.cast(type, kind), value, path + ".")
  if kind is Knobs:
    if not isinstance(value, dict):
      raise ConfigError(path, value, "expected a section")
    return Knobs(value)
  if isinstance(typing.get_origin(kind), type):  # tuple[int, int]
    parts = typing.get_args(kind)
    if parts[1:] == (...,):  # tuple[int, ...]
      parts = parts[:1] * (len(value) if isinstance(value, tuple | list) else 1)
    if not isinstance(value, tuple | list) or len(value) != len(parts):
      raise ConfigError(path, value, f"expected {len(parts)} values")
    return tuple(_value(k, v, path)
                 for k, v in zip(parts, value, strict=True))
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  # bool is a subclass of int, and a flag is never a count.
  if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
    raise ConfigError(path, value, f"expected {kind.__name__}")
  return value


def to_json(cfg: Any) -> dict[str, Any]:
  """`cfg` as plain nested dicts, as written into the workdir."""
  return json.loads(json.dumps(dataclasses.asdict(cfg)))


def fingerprint(*parts: Any) -> str:
  """Twelve hex digits that identify dataclasses or JSON values."""
  plain = [dataclasses.asdict(p)
           if dataclasses.is_dataclass(p) and not isinstance(p, type) else p
           for p in parts]
  text = json.dumps(plain, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def diff(old: dict[str, Any], new: dict[str, Any], prefix="") -> list[str]:
  """One line `config.a.b: old -> new` for every value that differs."""
  lines = []
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      lines += diff(a, b, f"{prefix}{key}.")
    elif a != b:
      lines.append(f"config.{prefix}{key}: {a!r} -> {b!r}")
  return lines
