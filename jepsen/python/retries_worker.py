"""The workload `retries` in Python: a task that fails as often as it was told to, whoever executed it before."""

from __future__ import annotations

import coda

from jepsen_notes import Notes

QUEUE = "retries"

_notes = Notes(QUEUE)


class PlannedError(Exception):
    pass


# How often is said by whoever submits; that it may be retried at all is said here.
@coda.task(name=QUEUE, queue=QUEUE, max_retries=1)
def retries(fails: int, max_retries: int) -> dict[str, int]:
    current = coda.current_task()
    failed = max_retries - current.retries_left
    lease = {"attempt": current.attempt, "left": current.retries_left, "by": "python"}
    _notes.note("lease", current.id, lease)
    # What becomes of the report is between the SDK and the cluster.
    _notes.begin("complete", current.id, {**lease, "failed": failed < fails})
    if failed < fails:
        raise PlannedError(f"failure {failed} of {fails}")
    return {"attempt": current.attempt}
