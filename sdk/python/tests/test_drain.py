"""How a worker stops: whatever it holds in the end has been completed, or is handed back in so many words."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import coda
import pytest
from coda import _wire as wire
from coda import _worker
from conftest import World, until
from fake_native import FakeCluster, FakePort


def drain(cluster: FakeCluster, app: coda.App, task: Any, signals: int = 1, **options: Any) -> float:
    """Stops the worker while it executes the task. Returns how long that took."""

    async def main() -> float:
        world = World(cluster, app, **options)
        async with world.running():
            await world.client.submit(task)
            await until(lambda: len(world.worker._tasks))
            started = time.monotonic()
            for _ in range(signals - 1):
                world.worker.stop()
                await asyncio.sleep(0.05)
        assert_nothing_was_lost(world.port)
        return time.monotonic() - started

    return asyncio.run(main())


def assert_nothing_was_lost(port: FakePort) -> None:
    assert port.closed
    assert not port.lost, "a lease was neither completed nor released before the goodbye"


def test_a_drain_lets_tasks_end(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def short() -> str:
        await asyncio.sleep(0.1)
        return "done"

    drain(cluster, app, short)
    assert cluster.tasks()[0].outcome == ("json", b'"done"')
    assert not cluster.requests(wire.RELEASE)


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("signals", [1, 2])
def test_work_that_does_not_end_in_time_is_handed_back(
    cluster: FakeCluster, app: coda.App, kind: str, signals: int
) -> None:
    release = threading.Event()

    @app.task
    async def endless() -> None:
        await asyncio.sleep(60)

    @app.task
    def blocked() -> None:
        release.wait(60)

    timeout = 0.2 if signals == 1 else 30
    seconds = drain(cluster, app, endless if kind == "async" else blocked, drain_timeout=timeout, signals=signals)
    release.set()
    assert seconds < 2
    assert cluster.tasks()[0].state == "ready"
    assert len(cluster.requests(wire.RELEASE)) == 1
    assert not cluster.requests(wire.COMPLETE_TASK)


@pytest.mark.parametrize("signals", [1, 2])
def test_many_of_all_kinds_are_handed_back_one_by_one(cluster: FakeCluster, app: coda.App, signals: int) -> None:
    release = threading.Event()

    @app.task(queue="loop")
    async def endless() -> None:
        await asyncio.sleep(60)

    @app.task(queue="threads")
    def blocked() -> None:
        release.wait(60)

    @app.workflow
    async def sleeps() -> None:
        await asyncio.sleep(60)

    @app.workflow
    async def waits() -> None:
        await coda.context.spawn_task("nobody's", queue="elsewhere")

    async def main() -> None:
        world = World(cluster, app, drain_timeout=0.2 if signals == 1 else 30)
        async with world.running():
            for _ in range(20):
                await asyncio.gather(world.client.submit(endless), world.client.start(sleeps))
            for _ in range(10):
                await asyncio.gather(world.client.submit(blocked), world.client.start(waits))
            await until(lambda: len(cluster.held_by(world.port)) == 60)
            if signals == 2:
                world.worker.stop()
        assert_nothing_was_lost(world.port)

    asyncio.run(main())
    release.set()
    assert len(cluster.requests(wire.RELEASE)) == 60


def test_code_that_cleans_up_is_waited_for_before_its_lease_is_released(cluster: FakeCluster, app: coda.App) -> None:
    cleaned: list[bool] = []

    @app.task
    async def tidy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.append(not cluster.requests(wire.RELEASE))

    drain(cluster, app, tidy, drain_timeout=0.1)
    assert cleaned == [True]


@contextlib.asynccontextmanager
async def stubborn_code(stop: asyncio.Event) -> AsyncIterator[None]:
    while not stop.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()
    yield


@pytest.mark.parametrize("kind", ["task", "workflow"])
@pytest.mark.parametrize("signals", [2, 3])
def test_code_that_swallows_its_cancellation_loses_its_lease_all_the_same(
    cluster: FakeCluster, app: coda.App, kind: str, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "_LAST_WORDS_SECONDS", 0.3 if signals == 2 else 60)

    async def main() -> float:
        stop = asyncio.Event()

        async def stubborn() -> None:
            async with stubborn_code(stop):
                pass

        work = app.task(stubborn) if kind == "task" else app.workflow(stubborn)
        world = World(cluster, app, drain_timeout=30)
        started = time.monotonic()
        async with world.running():
            await (world.client.submit(work) if kind == "task" else world.client.start(work))
            await until(lambda: len(cluster.held_by(world.port)) == 1)
            for _ in range(signals - 1):
                world.worker.stop()
                await asyncio.sleep(0.05)
        assert_nothing_was_lost(world.port)
        stop.set()
        return time.monotonic() - started

    assert asyncio.run(main()) < 5
    assert len(cluster.requests(wire.RELEASE)) == 1
    assert next(iter(cluster.work.values())).state == "ready"


def test_work_that_arrives_during_the_drain_is_handed_back(cluster: FakeCluster, app: coda.App) -> None:
    gate = threading.Event()

    @app.task
    async def short() -> None:
        await asyncio.to_thread(gate.wait)

    async def main() -> None:
        world = World(cluster, app)
        async with world.running():
            await world.client.submit(short)
            await until(lambda: len(world.worker._tasks))
            world.worker.stop()
            await until(lambda: world.port.drained)
            # It had left the node before that heard of the drain.
            world.port.drained = False
            await world.client.submit(short)
            world.port.drained = True
            gate.set()
            await until(lambda: cluster.tasks()[0].outcome)
        assert_nothing_was_lost(world.port)

    asyncio.run(main())
    assert sorted(each.state for each in cluster.tasks()) == ["ended", "ready"]


def test_a_drain_hands_back_runs_that_only_wait_at_once(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow
    async def waits() -> None:
        await coda.context.spawn_task("remote-name", queue="nobody")

    async def main() -> float:
        async with World(cluster, app, drain_timeout=30).running() as world:
            await world.client.start(waits)
            await until(lambda: cluster.tasks())
            started = time.monotonic()
        assert_nothing_was_lost(world.port)
        return time.monotonic() - started

    assert asyncio.run(main()) < 2
    assert cluster.runs()[0].state == "ready"


def test_a_drain_lets_a_run_have_the_result_of_a_step_without_caching(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow
    async def looks() -> Any:
        return await coda.context.spawn_task("now", queue="elsewhere", cache_key=coda.NO_CACHE)

    async def main() -> None:
        async with World(cluster, app, drain_timeout=30).running() as world:
            await world.client.start(looks)
            await until(lambda: cluster.tasks())
            world.worker.stop()
            await until(lambda: world.port.drained)
            await asyncio.sleep(0.1)
            assert not cluster.requests(wire.RELEASE)
            with cluster.lock:
                cluster._end(cluster.tasks()[0], ("json", b"1"))
            await until(lambda: cluster.runs()[0].outcome)
        assert_nothing_was_lost(world.port)

    asyncio.run(main())
    assert cluster.runs()[0].outcome == ("json", b"1")


def test_cancelling_serve_hands_everything_back(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def endless() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        worker = coda.Worker(app)
        port = cluster.port([line.wire() for line in worker.lines])
        serving = asyncio.create_task(worker.serve(port))
        client = coda.AsyncClient(_open=cluster.port)
        await client.submit(endless)
        await until(lambda: len(worker._tasks))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert_nothing_was_lost(port)
        await client.close()

    asyncio.run(main())
    assert cluster.tasks()[0].state == "ready"


def test_cancelling_serve_while_it_hands_back_is_not_forgotten(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def tidy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    async def main() -> None:
        worker = coda.Worker(app)
        port = cluster.port([line.wire() for line in worker.lines])
        serving = asyncio.create_task(worker.serve(port))
        client = coda.AsyncClient(_open=cluster.port)
        await client.submit(tidy)
        await until(lambda: len(worker._tasks))
        worker.stop()
        worker.stop()
        await until(lambda: worker._tasks._stopping)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert_nothing_was_lost(port)
        await client.close()

    asyncio.run(main())
    assert cluster.tasks()[0].state == "ready"


def test_a_task_that_still_waits_for_a_thread_does_not_run_after_it_was_handed_back(
    cluster: FakeCluster, app: coda.App
) -> None:
    release = threading.Event()
    executed: list[int] = []

    @app.task
    def blocked(n: int) -> None:
        executed.append(n)
        release.wait(60)

    async def main() -> None:
        world = World(cluster, app, threads=1, drain_timeout=0.1)
        async with world.running():
            await world.client.submit(blocked, [1])
            await until(lambda: executed)
            # Lost, so its slot is free, but its thread is not.
            cluster.lose(cluster.tasks()[0])
            cluster.hand_out()
            await until(lambda: len(world.worker._tasks) == 1 and cluster.tasks()[0].attempts == 2)
        assert_nothing_was_lost(world.port)
        release.set()
        await until(lambda: not any(thread.name.startswith("coda-task") for thread in threading.enumerate()))

    asyncio.run(main())
    assert executed == [1]


def test_workers_share_a_loop_and_one_of_them_may_stop_first(app: coda.App) -> None:
    @app.workflow
    async def sleeps() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        async with World(FakeCluster(), app, drain_timeout=0.1).running() as second:
            async with World(FakeCluster(), app).running():
                pass
            await second.client.start(sleeps)
            await until(lambda: len(second.worker._runs))
            # It is still known that this run sleeps.
            assert not next(iter(second.worker._runs._held.values())).only_waits()
            assert loop.call_later != call_later
        assert loop.call_later == call_later

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task does not know that it was cancelled from outside")
def test_the_end_of_the_loop_is_no_failure_of_what_runs_in_it(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def endless() -> None:
        await asyncio.sleep(60)

    @app.workflow
    async def sleeps() -> None:
        await asyncio.sleep(60)

    ports: list[FakePort] = []

    async def main() -> None:
        worker = coda.Worker(app)
        ports.append(cluster.port([line.wire() for line in worker.lines]))
        serving = asyncio.create_task(worker.serve(ports[0]))
        client = coda.AsyncClient(_open=cluster.port)
        await asyncio.gather(client.submit(endless), client.start(sleeps))
        await until(lambda: len(cluster.held_by(ports[0])) == 2)
        await client.close()
        # And now asyncio.run cancels all that is left, in no order.
        assert not serving.done()

    asyncio.run(main())
    assert_nothing_was_lost(ports[0])
    assert [each.state for each in cluster.work.values()] == ["ready", "ready"]
    assert not cluster.requests(wire.COMPLETE_TASK)
    assert not cluster.requests(wire.COMPLETE_RUN)


def test_a_worker_serves_once_and_stops_from_any_thread(cluster: FakeCluster, app: coda.App) -> None:
    app.task(name="t")(lambda: None)

    async def main() -> None:
        worker = coda.Worker(app)
        serving = asyncio.create_task(worker.serve(cluster.port()))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(worker.stop)
        await asyncio.wait_for(serving, 5)
        worker.stop()
        with pytest.raises(RuntimeError, match="make another one"):
            await worker.serve()
        with pytest.raises(coda.EventLoopError, match=r"await worker\.serve\(\)"):
            coda.Worker(app).run()

    asyncio.run(main())
