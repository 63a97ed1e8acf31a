"""The workload `tasks` in Python: the same task as in Rust, which says which attempt it was."""

from __future__ import annotations

import asyncio

import coda

from jepsen_notes import Notes

QUEUE = "tasks"
BODY_MS_MAX = 20

_notes = Notes(QUEUE)


@coda.task(name=QUEUE, queue=QUEUE)
async def tasks(number: int) -> dict[str, int]:
    current = coda.current_task()
    _notes.note("lease", current.id, {"attempt": current.attempt, "left": current.retries_left, "by": "python"})
    await asyncio.sleep(number % BODY_MS_MAX / 1_000)
    return {"attempt": current.attempt}
