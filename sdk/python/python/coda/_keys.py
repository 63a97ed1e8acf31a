"""Cache keys: what makes two spawns of one task in one run the same work.

The bytes are those of `crates/protocol/src/cache_key.rs`: each part is a tag, then a length or a
fixed width, so different lists of parts never share bytes. Types that Rust does not know travel as a
list that starts with `"$coda"` and the type's name; a user's list that starts like this is wrapped, so
that it cannot be taken for one.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from enum import Enum
from struct import Struct
from typing import Any, Final, TypeAlias

from ._errors import TooLargeError
from ._native import CACHE_KEY_BYTES_MAX

__all__ = ["NO_CACHE", "CachePart", "NoCache"]


class NoCache(Enum):
    """The type of `coda.NO_CACHE`."""

    NO_CACHE = "NO_CACHE"

    def __repr__(self) -> str:
        return "coda.NO_CACHE"


#: As a `cache_key`: never reuse a result, run the step again on every replay.
NO_CACHE: Final = NoCache.NO_CACHE

CachePart: TypeAlias = (
    bool
    | int
    | float
    | str
    | bytes
    | uuid.UUID
    | datetime.datetime
    | datetime.date
    | Enum
    | Sequence["CachePart"]
    | None
)

_AUTO: Final = b"\x00"
_EXPLICIT: Final = b"\x01"
_FRESH: Final = b"\x02"
_TAG: Final = "$coda"
_I64: Final = 1 << 63

_int = Struct(">Bq").pack
_float = Struct(">Bd").pack
_sized = Struct(">BI").pack
_u32 = Struct(">I").pack
_fresh = Struct(">QI").pack


def auto_key(n: int) -> bytes:
    """The key of the n-th spawn of its name that names no key itself."""
    return _AUTO + _u32(n)


def fresh_key(lease: int, n: int) -> bytes:
    """A key that no other execution of the run will use again."""
    return _FRESH + _fresh(lease, n)


def is_fresh(key: bytes) -> bool:
    return key.startswith(_FRESH)


def explicit_key(parts: Sequence[CachePart]) -> bytes:
    """The key that the user's parts make."""
    if isinstance(parts, str | bytes | bytearray) or not isinstance(parts, list | tuple):
        raise TypeError(f"cache_key must be a list or tuple of parts, such as [order_id], not {parts!r}")
    out = [_EXPLICIT]
    for part in parts:
        _encode(part, out)
    key = b"".join(out)
    if len(key) > CACHE_KEY_BYTES_MAX:
        raise TooLargeError(
            f"the cache key has {len(key)} bytes, more than the {CACHE_KEY_BYTES_MAX} allowed: use a digest of it",
            code="CODA2005",
        )
    return key


def _encode(part: Any, out: list[bytes]) -> None:
    kind = type(part)
    if kind is str:
        text = part.encode("utf-8", "surrogatepass")
        out += (_sized(4, len(text)), text)
    elif kind is int and -_I64 <= part < _I64:
        out.append(_int(2, part))
    elif part is None:
        out.append(b"\x00")
    elif kind is bool:
        out.append(b"\x01\x01" if part else b"\x01\x00")
    elif kind is float:
        out.append(_float(3, part))
    elif kind is bytes:
        out += (_sized(5, len(part)), part)
    elif kind is list or kind is tuple:
        is_marked = len(part) > 0 and part[0] == _TAG
        _list((_TAG, "list", *part) if is_marked else part, out)
    else:
        _list((_TAG, *_tagged(part)), out)


def _list(parts: Sequence[Any], out: list[bytes]) -> None:
    out.append(_sized(6, len(parts)))
    for part in parts:
        _encode(part, out)


def _tagged(part: object) -> tuple[object, ...]:
    if isinstance(part, Enum):
        kind = type(part)
        return "enum", f"{kind.__module__}.{kind.__qualname__}", part.name
    if isinstance(part, uuid.UUID):
        return "uuid", part.hex
    if isinstance(part, datetime.datetime):
        return "datetime", part.isoformat()
    if isinstance(part, datetime.date):
        return "date", part.isoformat()
    if type(part) is int:
        return "int", str(part)
    raise TypeError(
        f"a cache key cannot hold {part!r} of type {type(part).__qualname__}: use None, bool, int, float, str, bytes, "
        "UUID, datetime, date, an Enum member, or lists and tuples of them"
    )
