"""From decoded JSON to annotated types: dataclasses, enums and their like, wherever an annotation names one.

Values whose annotation asks for nothing, and values that already fit, pass through untouched. This is
no validation: Coda makes what the annotation names and leaves the rest to the function.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeAlias, Union, get_args, get_origin

from ._errors import CodecError

__all__: list[str] = []

Convert: TypeAlias = Callable[[Any], Any]

# What other languages send as text.
_FROM_TEXT: dict[Any, Convert] = {
    uuid.UUID: uuid.UUID,
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    decimal.Decimal: decimal.Decimal,
}
_SEQUENCES: dict[Any, Convert] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, as far as they can be resolved."""
    try:
        return typing.get_type_hints(fn, include_extras=False)
    except Exception:
        # A name that exists for type checkers only. What can be resolved without it is not worth guessing.
        return {}


def converter(annotation: Any) -> Convert | None:
    """How to make what the annotation names out of decoded JSON; `None` if there is nothing to do."""
    return _converter(annotation, {})


def _converter(annotation: Any, known: dict[Any, Convert]) -> Convert | None:
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _converter(get_args(annotation)[0], known)
    if isinstance(annotation, typing.NewType):
        return _converter(annotation.__supertype__, known)
    if origin is Union or origin is types.UnionType:
        return _union(get_args(annotation), known)
    if origin is not None:
        return _generic(origin, get_args(annotation), known)
    if annotation in (set, frozenset, tuple):
        # What other languages send as a list.
        return lambda value: annotation(value) if type(value) is list else value
    if not isinstance(annotation, type):
        return None
    if annotation in _FROM_TEXT:
        parse = _FROM_TEXT[annotation]
        return lambda value: parse(value) if type(value) is str else value
    if issubclass(annotation, Enum):
        return lambda value: value if isinstance(value, annotation) else annotation(value)
    if dataclasses.is_dataclass(annotation):
        return _object(annotation, _dataclass_hints(annotation), known, annotation)
    if typing.is_typeddict(annotation):
        return _object(annotation, hints_of(annotation), known, dict)
    if issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        return _named_tuple(annotation, known)
    return None


def _dataclass_hints(kind: type) -> dict[str, Any]:
    hints = hints_of(kind)
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(kind) if field.init}


def _object(kind: Any, hints: dict[str, Any], known: dict[Any, Convert], make: Any) -> Convert | None:
    """A dictionary with named fields. Types may name themselves, so the converter is known before its fields are."""
    if kind in known:
        return known[kind]
    fields: dict[str, Convert | None] = {}
    is_dataclass = make is not dict

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        # A newer writer may send fields that this reader does not know.
        found = {
            name: value[name] if each is None or value[name] is None else each(value[name])
            for name, each in fields.items()
            if name in value
        }
        if not is_dataclass:
            return {**value, **found}
        try:
            return make(**found)
        except TypeError as error:
            raise CodecError(f"cannot make a {kind.__qualname__}: {error}") from None

    known[kind] = convert
    fields.update({name: _converter(hint, known) for name, hint in hints.items()})
    if not is_dataclass and not any(fields.values()):
        return None
    return convert


def _named_tuple(kind: Any, known: dict[Any, Convert]) -> Convert:
    hints = hints_of(kind)
    each = [_converter(hints.get(name, Any), known) for name in kind._fields]

    def convert(value: Any) -> Any:
        if isinstance(value, kind) or not isinstance(value, tuple | list):
            return value
        return kind(*(item if change is None else change(item) for item, change in zip(value, each, strict=False)))

    return convert


def _generic(origin: Any, args: tuple[Any, ...], known: dict[Any, Convert]) -> Convert | None:
    if origin is tuple:
        return _tuple(args, known)
    if origin in _SEQUENCES and len(args) == 1:
        make, each = _SEQUENCES[origin], _converter(args[0], known)
        is_list = make is list
        if each is None:
            return None if is_list else (lambda value: make(value) if type(value) is list else value)
        return lambda value: make(map(each, value)) if isinstance(value, list | set | frozenset | tuple) else value
    if origin in _MAPPINGS and len(args) == 2:
        key, item = (_converter(arg, known) for arg in args)
        if key is None and item is None:
            return None
        return lambda value: (
            {(key(k) if key else k): (item(v) if item else v) for k, v in value.items()}
            if isinstance(value, dict)
            else value
        )
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        # A generic dataclass: its type variables ask for nothing.
        return _converter(origin, known)
    return None


def _tuple(args: tuple[Any, ...], known: dict[Any, Convert]) -> Convert:
    if len(args) == 2 and args[1] is Ellipsis:
        each = _converter(args[0], known)
        if each is None:
            return lambda value: tuple(value) if type(value) is list else value
        return lambda value: tuple(map(each, value)) if isinstance(value, list | tuple) else value
    changes = [_converter(arg, known) for arg in args]

    def convert(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return tuple(item if change is None else change(item) for item, change in zip(value, changes, strict=False))

    return convert


def _union(args: tuple[Any, ...], known: dict[Any, Convert]) -> Convert | None:
    """The first member that the value fits. Dataclasses are told apart by their fields."""
    members = [(arg, change) for arg in args if (change := _converter(arg, known)) is not None]
    plain = tuple(arg for arg in args if isinstance(arg, type))
    if not members:
        return None

    def convert(value: Any) -> Any:
        if value is None or (not isinstance(value, dict | list | str) and isinstance(value, plain)):
            return value
        for member, change in members:
            if not _fits(member, value):
                continue
            try:
                return change(value)
            except (ValueError, CodecError):
                continue
        return value

    return convert


def _fits(member: Any, value: Any) -> bool:
    if isinstance(member, type) and dataclasses.is_dataclass(member):
        if not isinstance(value, dict):
            return False
        fields = [field for field in dataclasses.fields(member) if field.init]
        required = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        return required <= value.keys() <= {field.name for field in fields}
    if member in _FROM_TEXT:
        return type(value) is str
    return True


class Arguments:
    """The parameters of a function: what may be passed, and what is made of each value that arrives."""

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self._name = name
        self._signature = inspect.signature(fn)
        parameters = self._signature.parameters.values()
        hints = hints_of(fn)
        self._converters = {
            each.name: change
            for each in parameters
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            and (change := converter(hints.get(each.name, Any))) is not None
        }
        by_name = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        self._names = frozenset(each.name for each in by_name)
        self._order = [each.name for each in parameters]
        self._required = frozenset(each.name for each in by_name if each.default is each.empty)
        self._takes_any_name = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self._by_position = any(each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL) for each in parameters)

    def bind(self, args: Any) -> Any:
        """Checks that the function can be called with `args`. Returns what is sent: by name where possible."""
        if args is None:
            args = {}
        if isinstance(args, Mapping):
            keys = args.keys()
            fits = self._required <= keys and (self._takes_any_name or keys <= self._names)
            if fits and not self._by_position:
                return args
            self._bind((), dict(args))
            return args
        if not isinstance(args, list | tuple):
            raise TypeError(f"{self._name}: args must be a mapping of names, or a list of values, not {args!r}")
        bound = self._bind(tuple(args), {})
        return list(args) if self._by_position else dict(bound.arguments)

    def _bind(self, positional: tuple[Any, ...], named: dict[Any, Any]) -> inspect.BoundArguments:
        try:
            return self._signature.bind(*positional, **named)
        except TypeError as error:
            raise TypeError(f"{self._name}{self._signature}: {error}") from None

    def received(self, args: Any) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments out of a decoded payload."""
        if isinstance(args, dict):
            if self._converters:
                changed = {name: self._convert(name, args[name]) for name in self._converters if name in args}
                args = {**args, **changed}
            return [], args
        if isinstance(args, list | tuple):
            names = self._order
            return [
                self._convert(names[i], value) if i < len(names) and names[i] in self._converters else value
                for i, value in enumerate(args)
            ], {}
        if args is None:
            return [], {}
        raise CodecError(f"{self._name}: the arguments are neither an object nor a list but {type(args).__qualname__}")

    def _convert(self, name: str, value: Any) -> Any:
        try:
            return self._converters[name](value)
        except (CodecError, ValueError, TypeError, ArithmeticError) as error:
            reason = error.args[0] if isinstance(error, CodecError) else error
            raise CodecError(f"{self._name}: argument `{name}`: {reason}") from None
