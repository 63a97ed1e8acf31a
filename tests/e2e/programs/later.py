"""The code that is deployed late: its task has been waiting for it."""

from __future__ import annotations

import coda


@coda.task(name="not_yet")
async def not_yet(n: int) -> int:
    return n
