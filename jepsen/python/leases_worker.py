"""The workload `leases` in Python: a task in a thread, which goes on when its lease is lost, and writes to a sink.

In Python the number of the attempt is the token.
"""

from __future__ import annotations

import time

import coda

from jepsen_notes import Notes

QUEUE = "leases"
BODY_MS_MAX = 1_200
SPREAD = 0x9E37_79B9

_notes = Notes(QUEUE)


@coda.task(name=QUEUE, queue=QUEUE)
def leases(number: int) -> dict[str, int]:
    current = coda.current_task()

    def write(when: str) -> None:
        _notes.note("sink", current.id, {"attempt": current.attempt, "when": when, "by": "python"})

    _notes.note("lease", current.id, {"attempt": current.attempt, "left": current.retries_left, "by": "python"})
    write("begin")
    time.sleep((number + current.attempt) * SPREAD % BODY_MS_MAX / 1_000)
    write("end")
    return {"attempt": current.attempt}
