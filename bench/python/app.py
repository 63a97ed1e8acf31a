"""What the workers execute: the same functions as in the peers' `app.py` and `svc.py`, and in `bench/load`.

`coda-worker app` serves it. A step is a task sent through the queue in `steps_spawned`, as in Celery, and a call in the
workflow's own process whose result is recorded in `steps_inline`, as Restate's `ctx.run`.
"""

from __future__ import annotations

import time
from typing import Any

import coda


@coda.task(name="noop")
async def noop(p: dict[str, Any]) -> dict[str, Any]:
    return p


@coda.task(name="stamp")
async def stamp() -> float:
    return time.time()


async def step(i: int, p: dict[str, Any]) -> dict[str, Any]:
    return {**p, "id": i}


@coda.workflow(name="steps_spawned")
async def steps_spawned(k: int, p: dict[str, Any]) -> int:
    for _ in range(k):
        await coda.context.spawn_task(noop, args={"p": p})
    return k


@coda.workflow(name="steps_inline")
async def steps_inline(k: int, p: dict[str, Any]) -> int:
    for i in range(k):
        await coda.run(step, args={"i": i, "p": p})
    return k


@coda.workflow(name="fan")
async def fan(n: int, p: dict[str, Any]) -> int:
    return len(await coda.gather(*(coda.context.spawn_task(noop, args={"p": p}) for _ in range(n))))


@coda.workflow(name="dag")
async def dag(stages: int, width: int, p: dict[str, Any]) -> int:
    done = 0
    for _ in range(stages):
        done += len(await coda.gather(*(coda.context.spawn_task(noop, args={"p": p}) for _ in range(width))))
    return done
