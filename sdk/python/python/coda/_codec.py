"""Codecs: how arguments and results become bytes. Never pickle: reading a payload runs no code.

JSON is the default. What JSON lacks travels as `{"$coda": type, "v": value}`; a user's dictionary with a
key `"$coda"` is wrapped in one, so that it cannot be taken for one. Dataclasses travel as plain objects
and are made again from the annotation of whoever reads them (`_convert.py`).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import inspect
import io
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, Protocol, runtime_checkable

from ._errors import CodecError, TooLargeError
from ._native import CODEC_NAME_BYTES_MAX, PAYLOAD_BYTES_MAX
from ._wire import Payload

__all__ = ["Codec", "JsonCodec", "register_codec"]

_TAG: Final = "$coda"
_ATOMS: Final = frozenset({str, int, bool, float, type(None)})
_STR: Final = frozenset({str})
# A bound on the fast walk, which has no other protection against a value that contains itself.
_FAST_CONTAINERS_MAX: Final = 200_000

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_dumps_ascii = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode
_decoder = json.JSONDecoder()


def _loads(text: str) -> Any:
    """`JSONDecoder.decode`, at half the cost for what has no white space around it."""
    try:
        value, end = _decoder.raw_decode(text)
    except ValueError:
        # It may begin with white space; otherwise this has the better error.
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)


@runtime_checkable
class Codec(Protocol):
    """Turns values into bytes and back. Register one with `coda.register_codec`, in every process that reads it."""

    @property
    def name(self) -> str:
        """Travels with each payload, so that its reader finds the codec."""
        ...

    def encode(self, value: Any) -> bytes:
        """Bytes that `decode` makes an equal value of. What it raises is raised where the value was passed."""
        ...

    def decode(self, data: bytes) -> Any:
        """The value. Reading must not run code that the bytes bring."""
        ...


class JsonCodec:
    """JSON, and beyond it: tuple, set, frozenset, bytes, UUID, datetime, date, time, timedelta, Decimal, Enum,
    dataclasses, dictionaries with keys that are no strings, and floats that are no numbers."""

    name = "json"

    def encode(self, value: Any) -> bytes:
        """UTF-8. `coda.CodecError` names what JSON cannot carry, and where in the value it is."""
        try:
            text = _dumps(value) if _is_plain(value) else _dumps(_tagged(value, ""))
        except CodecError:
            raise
        except RecursionError:
            raise CodecError("a value that contains itself, or is nested too deeply, cannot be encoded") from None
        except ValueError:
            # NaN or infinity somewhere.
            text = _dumps(_tagged(value, ""))
        try:
            return text.encode()
        except UnicodeEncodeError:
            # A lone surrogate: JSON can carry it, as an escape.
            return _dumps_ascii(_tagged(value, "")).encode()

    def decode(self, data: bytes) -> Any:
        """What was encoded; a dataclass as a dictionary, until an annotation says what it is."""
        try:
            value = _loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise CodecError(f"the payload is not JSON: {error}") from None
        # Other writers may escape the dollar.
        if b'"$coda"' in data or b"\\u0024coda" in data:
            return _untagged(value)
        return value


def _is_plain(value: Any) -> bool:
    """Whether the value is what JSON itself can carry. Most are, and this is several times faster than a copy."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is not dict and kind is not list:
        return False
    containers = [value]
    for each in containers:
        if type(each) is dict:
            if _TAG in each or not _STR.issuperset(map(type, each)):
                return False
            items: Any = each.values()
        else:
            items = each
        if not _ATOMS.issuperset(map(type, items)):
            for item in items:
                kind = type(item)
                if kind in _ATOMS:
                    continue
                if kind is not dict and kind is not list:
                    return False
                containers.append(item)
            if len(containers) > _FAST_CONTAINERS_MAX:
                return False
    return True


def _tagged(value: Any, path: str) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, Enum):
        return {_TAG: "enum", "t": type(value).__qualname__, "v": _tagged(value.value, path)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {_TAG: "float", "v": str(number)}
    if isinstance(value, list):
        return [_tagged(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        if _TAG not in value and all(isinstance(key, str) and not isinstance(key, Enum) for key in value):
            return {str.__str__(key): _tagged(item, f"{path}.{key}") for key, item in value.items()}
        pairs = [[_tagged(key, f"{path} key"), _tagged(item, f"{path}[{key!r}]")] for key, item in value.items()]
        return {_TAG: "dict", "v": pairs}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _tagged(getattr(value, field.name), f"{path}.{field.name}")
            for field in dataclasses.fields(value)
        }
    for kind, name, encode in _ENCODERS:
        if isinstance(value, kind):
            return {_TAG: name, "v": encode(value, path)}
    where = f"`{path.lstrip('.')}`" if path else "it"
    raise CodecError(f"{where} is of type {type(value).__qualname__}, which JSON cannot carry: {_advice(value)}")


def _advice(value: Any) -> str:
    """What to pass in its place."""
    if inspect.isawaitable(value):
        return "await it first"
    if isinstance(value, os.PathLike):
        return "pass str(...) of it"
    if isinstance(value, io.IOBase):
        return "pass what it holds, or its path"
    if isinstance(value, Iterator):
        return "pass a list of its items"
    if isinstance(value, BaseException):
        return "pass str(...) of it"
    if callable(getattr(value, "model_dump", None)):
        return "pass .model_dump() of it, or register a codec (coda.register_codec)"
    if callable(getattr(value, "tolist", None)):
        return "pass .tolist() of it, or register a codec (coda.register_codec)"
    if callable(value):
        return "pass its name"
    return "pass plain data, make its class a dataclass, or register a codec (coda.register_codec)"


def _items(value: Any, path: str) -> list[Any]:
    return [_tagged(item, f"{path}[{i}]") for i, item in enumerate(value)]


def _set_items(value: Any, path: str) -> list[Any]:
    # In a stable order, so that equal sets make equal bytes.
    return sorted((_tagged(item, f"{path} item") for item in value), key=_dumps_ascii)


def _timedelta(value: datetime.timedelta, _: str) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _iso(value: Any, _: str) -> str:
    return str(value.isoformat())


# In order: a datetime is a date.
_ENCODERS: Final[list[tuple[type | tuple[type, ...], str, Callable[[Any, str], Any]]]] = [
    (tuple, "tuple", _items),
    (set, "set", _set_items),
    (frozenset, "frozenset", _set_items),
    ((bytes, bytearray, memoryview), "bytes", lambda value, _: base64.b64encode(value).decode()),
    (uuid.UUID, "uuid", lambda value, _: str(value)),
    (datetime.datetime, "datetime", _iso),
    (datetime.date, "date", _iso),
    (datetime.time, "time", _iso),
    (datetime.timedelta, "timedelta", _timedelta),
    (decimal.Decimal, "decimal", lambda value, _: str(value)),
]

_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": base64.b64decode,
    "uuid": uuid.UUID,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda value: datetime.timedelta(*value),
    "decimal": decimal.Decimal,
    "float": float,
    "dict": dict,
    # Its class is not looked up: the reader's annotation makes the member again.
    "enum": lambda value: value,
}


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {key: _untagged(item) for key, item in value.items()}
    decode = _DECODERS.get(tag) if isinstance(tag, str) else None
    if decode is None or "v" not in value:
        raise CodecError(f"the payload holds {tag!r}, which this version of coda-sdk does not know: upgrade it")
    try:
        return decode(_untagged(value["v"]))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise CodecError(f"the payload holds a malformed {tag}: {error}") from None


JSON: Final = JsonCodec()
_codecs: dict[str, Codec] = {JSON.name: JSON}


def register_codec(codec: Codec) -> None:
    """Makes a codec known to this process, under its name. Its name travels with each payload.

    >>> class MsgpackCodec:
    ...     name = "msgpack"
    ...     def encode(self, value): return msgpack.packb(value)
    ...     def decode(self, data): return msgpack.unpackb(data)
    >>> coda.register_codec(MsgpackCodec())
    >>> @coda.task(codec="msgpack")
    ... def resize(image: bytes) -> bytes: ...
    """
    name = codec.name
    if not isinstance(name, str) or not 0 < len(name.encode()) <= CODEC_NAME_BYTES_MAX:
        raise ValueError(f"a codec's name is a string of 1 to {CODEC_NAME_BYTES_MAX} bytes, not {name!r}")
    if name == JSON.name and codec is not JSON:
        raise ValueError("the name 'json' is taken")
    _codecs[name] = codec


def codec_of(codec: Codec | str | None) -> Codec:
    """The codec that a decorator's argument means."""
    if codec is None:
        return JSON
    if isinstance(codec, str):
        if codec not in _codecs:
            raise ValueError(f"no codec {codec!r} is registered; known are {sorted(_codecs)}")
        return _codecs[codec]
    if _codecs.get(codec.name) is not codec:
        register_codec(codec)
    return codec


def encode_payload(codec: Codec, value: Any, what: str) -> Payload:
    """Encodes, and checks the size before anything is sent."""
    try:
        data = codec.encode(value)
    except CodecError as error:
        raise CodecError(f"{what}: {error.args[0]}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise TooLargeError(
            f"{what}: the payload has {len(data)} bytes, more than the {PAYLOAD_BYTES_MAX} allowed: "
            "store it elsewhere and pass a reference",
            code="CODA2003",
        )
    return codec.name, data


def decode_payload(payload: Payload) -> Any:
    name, data = payload
    codec = _codecs.get(name)
    if codec is None:
        raise CodecError(
            f"the payload was made by the codec {name!r}, which this process does not have: coda.register_codec(...)"
        )
    return codec.decode(data)
