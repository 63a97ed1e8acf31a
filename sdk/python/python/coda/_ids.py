"""Ids of runs, tasks and sessions: UUIDs, as text outside and 16 bytes inside."""

from __future__ import annotations

import hashlib
import os
import time
from uuid import UUID

from ._keys import CachePart, explicit_key

__all__ = ["id_for"]


def new_id() -> bytes:
    """A fresh id, ordered by time (UUID version 7)."""
    random = bytearray(os.urandom(10))
    random[0] = random[0] & 0x0F | 0x70
    random[2] = random[2] & 0x3F | 0x80
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + bytes(random)


def text_of(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_id(given: str | UUID) -> bytes:
    if isinstance(given, UUID):
        return given.bytes
    try:
        return UUID(given).bytes
    except (ValueError, AttributeError, TypeError):
        raise ValueError(
            f"{given!r} is not an id: expected a UUID; to derive one from your own key, use coda.id_for({given!r})"
        ) from None


def id_for(*parts: CachePart) -> str:
    """The same id for the same parts: starting a run under it twice is starting it once.

    >>> client.start(ship_order, args={"order": 17}, run_id=coda.id_for("ship_order", 17))
    """
    digest = bytearray(hashlib.sha256(explicit_key(parts)).digest()[:16])
    # Version 5, "from a name". Version 8 is taken by ids that the cluster derives.
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return text_of(bytes(digest))
