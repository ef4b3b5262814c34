"""YAML files to dataclasses and back, refusing what they do not know."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar('Config')


class ConfigError(ValueError):
    """A configuration names an unknown key or gives a value of the wrong kind; the message says which."""


def load_config(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file into the dataclass `kind`.

    Args:
        kind: a dataclass; fields may be dataclasses, tuples, dicts by name, numbers and strings.
        path: the file.
        overrides: `a.b=value` strings, applied last; the value is read as YAML.

    Raises:
        ConfigError: unknown key, wrong type, or a value that the dataclass itself refuses.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration '{path}': {error}") from error
    if isinstance(tree, Mapping):
        tree = overridden(tree, overrides)
    return from_mapping(kind, tree, str(path))


def overridden(tree: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Nested mappings with the values of `a.b=value` strings put in; what is no mapping on the way becomes one.

    Raises:
        ConfigError: a string is not of that form, or its value is not YAML.
    """
    for override in overrides:
        key, equals, value = override.partition('=')
        if not equals:
            raise ConfigError(f"'{override}' is not of the form key=value")
        first, _, rest = key.partition('.')
        try:
            changed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of '{override}' is not YAML") from error
        if rest:
            branch = tree.get(first)
            changed = overridden(branch if isinstance(branch, Mapping) else {}, [f'{rest}={value}'])
        tree = {**tree, first: changed}
    return tree


def from_mapping(kind: type[Config], tree: Mapping[str, Any], where: str) -> Config:
    """Build the dataclass `kind` from nested mappings; `where` names the source in errors."""
    if not isinstance(tree, Mapping):
        raise ConfigError(f'{where}: expected a mapping, got {tree!r}')
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(tree) - set(hints))
    if unknown:
        known = ', '.join([*sorted(hints), *(place for key in unknown for place in _places(kind, key))])
        raise ConfigError(f'{where}: unknown key {", ".join(unknown)}; known are {known}')
    values = {key: _convert(hints[key], value, f'{where}: {key}') for key, value in tree.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'{where}: {error}') from error


def _places(kind: type, key: str) -> Iterator[str]:
    """Where a dataclass, or one in it, has a field of this name: `a.b.key`."""
    for name, hint in typing.get_type_hints(kind).items():
        if name == key:
            yield name
        elif dataclasses.is_dataclass(hint):
            yield from (f'{name}.{place}' for place in _places(typing.cast(type, hint), key))


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{where}: expected a list, got {value!r}')
        kinds = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f'{where}: expected {len(kinds)} values, got {value!r}')
        return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f'{where}: expected a mapping, got {value!r}')
        return {key: _convert(arguments[1], item, f'{where}: {key}') for key, item in value.items()}
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):
            value = float(value)  # YAML takes 1e-3 for a string
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f'{where}: expected a finite number, got {value}')
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f'{where}: expected {hint.__name__}, got {value!r}')
    return value
