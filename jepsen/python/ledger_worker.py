"""The workload `ledger` in Python: the same workflow, the same steps and the same keys as in Rust.

A run may begin in one language and end in the other.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import coda

from jepsen_notes import Notes

QUEUE = "ledger"
SIDE_BY_SIDE = 3
MODULUS = 1_000_003
BODY_MS_MAX = 20
SOON = coda.Backoff(initial=0.02, factor=2.0, max=0.5, jitter=0.5)

_notes = Notes(QUEUE)
_executions = itertools.count()


def value(run: int, step: str) -> int:
    return (run * 31 + sum(step.encode()) * 7) % MODULUS


assert (value(0, "first"), value(7, "side-1"), value(40_000, "last")) == (3_864, 3_822, 243_049)


def note(what: str, **fields: Any) -> None:
    _notes.write({"what": what, **fields})


async def body(run: int, step: str) -> dict[str, Any]:
    by = f"python-{os.getpid()}-{next(_executions)}"
    note("begin", run=run, step=step, by=by)
    made = value(run, step)
    await asyncio.sleep(made % BODY_MS_MAX / 1_000)
    return {"value": made, "by": by}


@coda.task(name="ledger-step", queue=QUEUE, max_retries=1_000, backoff=SOON)
async def ledger_step(run: int, step: str) -> dict[str, Any]:
    return await body(run, step)


@coda.workflow(name="ledger", queue=QUEUE, max_retries=1_000, backoff=SOON)
async def ledger(run: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def read(step: str, made: dict[str, Any]) -> None:
        note("read", run=run, step=step, **made)
        seen[step] = made

    async def inline(step: str) -> None:
        read(step, await coda.run(body, name=step, args={"run": run, "step": step}, cache_key=[step]))

    await inline("first")
    names = [f"side-{n}" for n in range(SIDE_BY_SIDE)]
    spawned = [
        coda.context.spawn_task(ledger_step, args={"run": run, "step": name}, cache_key=[name]) for name in names
    ]
    for name, made in zip(names, await asyncio.gather(*spawned), strict=True):
        read(name, made)
    await inline("last")
    return seen
