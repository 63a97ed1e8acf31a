"""Runs that only wait give their slot back, and go on where they were."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import coda
import pytest
from coda import _wire as wire
from conftest import World, until
from fake_native import FakeCluster


def test_a_run_that_only_waits_is_parked_and_wakes_when_a_step_ends(cluster: FakeCluster, app: coda.App) -> None:
    gate = asyncio.Event()
    executions: list[int] = []

    @app.task
    async def slow(n: int) -> int:
        await gate.wait()
        return n

    @app.workflow
    async def waits() -> list[int]:
        executions.append(1)
        return await asyncio.gather(*(coda.context.spawn_task(slow, [n]) for n in range(2)))

    async def main() -> list[int]:
        async with World(cluster, app, park_after=0.02).running() as world:
            handle = await world.client.start(waits)
            await until(lambda: cluster.runs()[0].state == "parked")
            assert not world.worker._runs._held
            gate.set()
            return await handle.result(timeout=5)

    assert asyncio.run(main()) == [0, 1]
    assert len(executions) >= 2


@pytest.mark.parametrize("is_awaited", [True, False])
def test_a_run_is_not_parked_while_a_step_without_caching_is_pending(
    cluster: FakeCluster, app: coda.App, is_awaited: bool
) -> None:
    """Its result would be thrown away, and a step that takes longer than the patience would never be got past."""
    executions: list[int] = []

    @app.workflow
    async def looks() -> Any:
        executions.append(1)
        now = coda.context.spawn_task("now", queue="elsewhere", cache_key=coda.NO_CACHE)
        if not is_awaited:
            await coda.context.spawn_task("long", queue="elsewhere", cache_key=["long"])
        return await now

    async def main() -> Any:
        async with World(cluster, app, park_after=0.02).running() as world:
            handle = await world.client.start(looks)
            await until(lambda: len(cluster.tasks()) == (1 if is_awaited else 2))
            await asyncio.sleep(0.2)
            assert not cluster.requests(wire.PARK_RUN)
            for task in cluster.tasks():
                with cluster.lock:
                    cluster._end(task, ("json", b"1"))
            return await handle.result(timeout=5)

    assert asyncio.run(main()) == 1
    assert executions == [1]


def test_a_run_whose_step_without_caching_has_ended_is_parked(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow
    async def looks() -> Any:
        await coda.context.spawn_task("now", queue="elsewhere", cache_key=coda.NO_CACHE)
        return await coda.context.spawn_task("long", queue="elsewhere", cache_key=["long"])

    async def main() -> None:
        async with World(cluster, app, park_after=0.02).running() as world:
            await world.client.start(looks)
            await until(lambda: cluster.tasks())
            with cluster.lock:
                cluster._end(cluster.tasks()[0], ("json", b"1"))
            await until(lambda: cluster.runs()[0].state == "parked")

    asyncio.run(main())


def test_a_parked_run_that_swallows_its_cancellation_is_told_so_at_every_step(
    cluster: FakeCluster, app: coda.App
) -> None:
    errors: list[str] = []

    @app.workflow
    async def stubborn() -> None:
        handle = coda.context.spawn_task("long", queue="elsewhere")
        for _ in range(3):
            try:
                await handle
            except asyncio.CancelledError:
                errors.append("cancelled")
            except coda.LeaseLostError as error:
                errors.append(error.code)

    async def main() -> None:
        async with World(cluster, app, park_after=0.02).running() as world:
            await world.client.start(stubborn)
            await until(lambda: cluster.runs()[0].state == "parked")
            await until(lambda: not world.worker._runs)

    asyncio.run(main())
    assert errors == ["cancelled", "CODA2014", "CODA2014"]
    assert not cluster.requests(wire.COMPLETE_RUN)


TIMEOUT = pytest.param("timeout", marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="no asyncio.timeout"))


@pytest.mark.parametrize("how", ["sleep", TIMEOUT, "wait_for", "thread"])
def test_a_run_that_waits_for_something_else_too_is_not_parked(cluster: FakeCluster, app: coda.App, how: str) -> None:
    @app.task
    async def never() -> None:
        await asyncio.sleep(60)

    @app.workflow
    async def busy() -> str:
        handle = coda.context.spawn_task(never)
        if how == "sleep":
            await asyncio.sleep(0.2)
        elif how == "thread":
            await asyncio.to_thread(__import__("time").sleep, 0.2)
        else:
            with pytest.raises(asyncio.TimeoutError):
                await (in_time(handle) if how == "timeout" else asyncio.wait_for(handle, 0.2))
        return "done"

    async def in_time(handle: coda.Handle[None]) -> None:
        async with asyncio.timeout(0.2):
            await handle

    async def main() -> str:
        async with World(cluster, app, park_after=0.02, drain_timeout=0.0).running() as world:
            return await world.client.run(busy, timeout=5)

    assert asyncio.run(main()) == "done"
    assert not cluster.requests(wire.PARK_RUN)
