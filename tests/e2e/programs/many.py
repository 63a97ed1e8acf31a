"""A great many small tasks."""

from __future__ import annotations

import asyncio

import coda


@coda.task(name="small")
async def small(n: int) -> int:
    return n * 2


@coda.workflow(name="fan_out")
async def fan_out(count: int) -> int:
    handles = [coda.context.spawn_task(small, args={"n": n}, cache_key=[n]) for n in range(count)]
    return sum(await asyncio.gather(*handles))
