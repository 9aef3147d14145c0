"""Settings as frozen dataclasses: built from dicts, checked, compared.

Errors name what the user typed, its value and a fix. `Problems` collects them,
so that one start reports everything that is wrong with it.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import inspect
import json
import reprlib
import typing
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

# Arguments may be arrays, or lists of thousands of ids.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 300
_SHORT.maxlist = _SHORT.maxtuple = 8
_SHORT.maxlevel = 3


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


class VariableError(ConfigError):
  """An environment variable that cannot work: `FIELD=value`."""

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(field, value, fix)
    self.args = (f"{field}={value}: {fix}",)

  @staticmethod
  def shown(field: str) -> str:
    """The variable's own name."""
    return field


class ArgumentError(ConfigError):
  """An invalid argument of a function; `field` is `function.argument`."""

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(field, value, fix)
    function, _, argument = field.rpartition(".")
    self.args = (f"{function}({argument}={_SHORT.repr(value)}): {fix}",)

  @staticmethod
  def shown(field: str) -> str:
    """The argument's own name."""
    return field.rpartition(".")[2]


class ConfigErrors(ConfigError):
  """Several errors, one a line; `field`, `value`, `fix` are the first one's."""

  def __init__(self, errors: Sequence[ConfigError]) -> None:
    super().__init__(errors[0].field, errors[0].value, errors[0].fix)
    self.errors = tuple(errors)
    self.args = ("\n  ".join([f"{len(errors)} problems:", *map(str, errors)]),)


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


class Problems:
  """Collects errors, at most one per field, to be raised together.

  A check of several settings should ask `sound` first: with one of them already
  reported, its result would only confuse.

  Attributes:
    found: the errors, in the order in which they were added.
  """

  def __init__(self) -> None:
    self.found: list[ConfigError] = []

  def add(self, error: ConfigError) -> None:
    """Adds an error, or the parts of several, unless its field has one."""
    for e in error.errors if isinstance(error, ConfigErrors) else (error,):
      if self.sound(e.field):
        self.found.append(e)

  def require(self, ok: bool, field: str, value: object, fix: str,
              error: type[ConfigError] = ConfigError) -> None:
    """Adds `error(field, value, fix)` unless `ok`."""
    if not ok:
      self.add(error(field, value, fix))

  @contextlib.contextmanager
  def catch(self) -> Iterator[None]:
    """Adds the error that ends the block, if one does."""
    try:
      yield
    except ConfigError as e:
      self.add(e)

  def sound(self, *fields: str) -> bool:
    """Whether no error is about these fields, their sections or parts."""
    return not any(
      f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")
      for a in fields for b in (e.field for e in self.found))

  def finish(self) -> None:
    """Raises what was found: one error as it is, several as `ConfigErrors`."""
    if len(self.found) == 1:
      raise self.found[0]
    if self.found:
      raise ConfigErrors(self.found)


class Knobs(dict[str, Any]):
  """Settings whose names depend on another setting; never modified."""

  def __hash__(self) -> int:  # type: ignore[override]
    return hash(tuple(sorted(self.items())))


# Programs compute in float32, where larger numbers are infinite.
_LARGEST = (2 - 2**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Bounds:
  """The values that a knob may have; None: no such bound."""

  at_least: float | None = None
  at_most: float | None = None
  above: float | None = None
  choices: tuple[str, ...] = ()
  below: float | None = None

  def __call__(self, value: Any) -> bool:
    """Whether `value` is allowed; NaN and infinities never are."""
    return (
      _finite(value)
      and (self.at_least is None or value >= self.at_least)
      and (self.at_most is None or value <= self.at_most)
      and (self.above is None or value > self.above)
      and (self.below is None or value < self.below)
      and (not self.choices or value in self.choices))

  def __str__(self) -> str:
    """States the bound for messages; "" if nothing is required."""
    if self.choices:
      return one_of(self.choices)
    if self.at_least is not None and self.at_most is not None:
      return f"must be in {self.at_least}..{self.at_most}"
    limits = [f"{words} {limit}" for words, limit in (
      ("at least", self.at_least), ("above", self.above),
      ("at most", self.at_most), ("below", self.below)) if limit is not None]
    return f"must be {' and '.join(limits)}" if limits else ""


def _finite(value: Any) -> bool:
  """Whether `value` is, and has in it, no NaN and no infinity of float32."""
  return all(abs(x) <= _LARGEST for x in (
    value if isinstance(value, tuple | list) else (value,))
    if isinstance(x, float))


def one_of(choices: Collection[str]) -> str:
  """`choose from 'a', 'b'`."""
  return f"choose from {', '.join(map(repr, choices))}"


def knob(default: Any, meaning: str, *, unit: str = "",
         at_least: float | None = None, at_most: float | None = None,
         above: float | None = None, below: float | None = None,
         choices: tuple[str, ...] = (), restart: str = "no") -> Any:
  """A dataclass field with its documentation and its bounds as metadata.

  `restart`: whether it may change when a run goes on, a `config.Restart`.
  """
  return dataclasses.field(default=default, metadata={
    "meaning": meaning, "unit": unit, "restart": restart,
    "bounds": Bounds(at_least, at_most, above, choices, below)})


def knobs(obj: Any, prefix: str = ""
          ) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
  """`(dotted name, field, value)` of every setting in nested dataclasses."""
  for field in dataclasses.fields(obj):
    value = getattr(obj, field.name)
    if dataclasses.is_dataclass(value):
      yield from knobs(value, f"{prefix}{field.name}.")
    else:
      yield f"{prefix}{field.name}", field, value


def check_bounds(obj: Any, problems: Problems, name: Callable[[str], str] = str,
                 error: type[ConfigError] = ConfigError) -> None:
  """Adds a problem for each value of `obj` that its knob does not allow.

  Args:
    obj: nested dataclasses, their values of the right types.
    problems: where errors go.
    name: from the dotted name of a field in `obj` to the one in messages.
    error: how a wrong value is reported, see `require`.
  """
  for path, field, value in knobs(obj):
    bounds = field.metadata.get("bounds", Bounds())
    if not bounds(value):
      infinite = isinstance(value, float) and abs(value) > _LARGEST
      problems.add(error(
        name(path), value, (not infinite and str(bounds)) or "must be finite"))


def arguments(function: Any, values: Knobs, field: str,
              problems: Problems) -> None:
  """Checks `values` as keyword arguments that have defaults in `function`.

  Adds a problem for each that is unknown or not of its default's type.
  """
  kinds = {p.name: type(p.default)
           for p in inspect.signature(function).parameters.values()
           if p.default is not p.empty}
  for key, value in values.items():
    name = f"{field}.{key}"
    if key in kinds:
      with problems.catch():
        require(_finite(_value(kinds[key], value, name, problems)), name,
                value, "must be finite")
    else:
      problems.add(ConfigError(name, value, _unknown(key, kinds)))


def build(cls: type, values: Any, path: str = "",
          problems: Problems | None = None) -> Any:
  """`cls(**values)`, recursively, with every key known, present and typed.

  Args:
    cls: a dataclass of ints, floats, bools, strings, tuples and dataclasses;
      each field has a default.
    values: nested dicts.
    path: prefix of the field names in messages, ending in a dot.
    problems: where errors go; the fields that have one get their defaults.
      None: errors are raised.

  Raises:
    ConfigError: all unknown, missing and mistyped fields; without `problems`.
  """
  found = Problems() if problems is None else problems
  built = _section(cls, values, path, found)
  if problems is None:
    found.finish()
  return built


def _section(cls: type, values: Any, path: str, problems: Problems) -> Any:
  if not isinstance(values, dict):
    raise ConfigError(path[:-1], values, f"expected a section ({cls.__name__})")
  kinds = typing.get_type_hints(cls)
  for key in values:
    if key not in kinds:
      problems.add(ConfigError(path + key, values[key], _unknown(key, kinds)))
  known = {}
  for key, kind in kinds.items():
    with problems.catch():
      require(key in values, path + key, None, "missing; start from default()")
      known[key] = _value(kind, values[key], path + key, problems)
  return cls(**known)


def find(cls: type, path: str, value: str) -> Any:
  """The type of the field `path`, `a.b.c`, of the nested dataclasses of `cls`.

  Args:
    cls: the outermost dataclass.
    path: names, separated by dots.
    value: what the user sets it to, for the message.

  Returns:
    The type; `Knobs` for anything in such a section.

  Raises:
    ConfigError: no such field; suggests what may have been meant.
  """
  kind: Any = cls
  for key in path.split("."):
    section = dataclasses.is_dataclass(kind)
    kinds = (
      typing.get_type_hints(typing.cast(type, kind)) if section else {})
    if key not in kinds:
      raise ConfigError(path, value, _unknown(key, kinds))
    kind = kinds[key]
    if kind is Knobs:
      break  # the names in it depend on other settings
  return kind


def _unknown(key: str, kinds: dict[str, Any]) -> str:
  near = difflib.get_close_matches(key, kinds, 1)
  known = ", ".join(kinds) or "none"
  hint = f"did you mean {near[0]!r}?" if near else f"known: {known}"
  return f"unknown key; {hint}"


def _value(kind: Any, value: Any, path: str, problems: Problems) -> Any:
  if dataclasses.is_dataclass(kind):
    return _section(typing.cast(type, kind), value, path + ".", problems)
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
    return tuple(_value(k, v, path, problems)
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
