"""The worker: how tasks are executed, what is reported of them, and how it stops."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import threading
from typing import Any

import coda
import process_tasks
import pytest
from coda import _wire as wire
from coda._served import Slots, app_of, lines_of
from conftest import World, until
from fake_native import FakeCluster


def submit(cluster: FakeCluster, app: coda.App, *calls: tuple[Any, Any], **options: Any) -> list[Any]:
    """Submits tasks and returns their results, or what they raised."""

    async def main() -> list[Any]:
        async with World(cluster, app, **options).running() as world:
            handles = [await world.client.submit(task, args) for task, args in calls]
            results = (handle.result(timeout=20) for handle in handles)
            return await asyncio.gather(*results, return_exceptions=True)

    return asyncio.run(main())


def test_sync_tasks_run_in_threads_and_async_ones_on_the_loop(cluster: FakeCluster, app: coda.App) -> None:
    main = threading.get_ident()

    @app.task
    def sync() -> bool:
        return threading.get_ident() != main

    @app.task
    async def on_loop() -> bool:
        return threading.get_ident() == main

    assert submit(cluster, app, (sync, None), (on_loop, None)) == [True, True]


def test_a_blocking_task_does_not_stall_the_loop(cluster: FakeCluster, app: coda.App) -> None:
    release = threading.Event()

    @app.task
    def blocks() -> bool:
        return release.wait(10)

    @app.task
    async def unblocks() -> None:
        release.set()

    assert submit(cluster, app, (blocks, None), (unblocks, None)) == [True, None]


def test_current_task_knows_the_attempt_everywhere(cluster: FakeCluster, app: coda.App) -> None:
    @app.task(name="sync", max_retries=2, queue="q")
    def sync() -> list[Any]:
        current = coda.current_task()
        if current.attempt < 2:
            raise ValueError
        return [
            current.name,
            current.queue,
            current.attempt,
            current.retries_left,
            current.run_id,
            len(current.id or ""),
        ]

    @app.task(name="loop", max_retries=2)
    async def on_loop() -> int:
        await asyncio.sleep(0)
        return coda.current_task().retries_left

    assert submit(cluster, app, (sync, None), (on_loop, None)) == [["sync", "q", 2, 1, None, 36], 2]


def test_the_worker_decides_what_is_retried(cluster: FakeCluster, app: coda.App) -> None:
    calls: list[str] = []

    @app.task(retry_on=(OSError,), max_retries=2)
    async def picky(error: str) -> None:
        calls.append(error)
        raise {"os": OSError, "value": ValueError}[error](error)

    first, second = submit(cluster, app, (picky, ["os"]), (picky, ["value"]))
    assert isinstance(first, coda.TaskFailed)
    assert second.matches(ValueError)
    assert sorted(calls) == ["os", "os", "os", "value"]


ODD = [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration(), GeneratorExit()]


@pytest.mark.parametrize("error", ODD)
def test_odd_exceptions_are_failures_like_others(
    cluster: FakeCluster, app: coda.App, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a worker that handles the signal itself.
    monkeypatch.setattr(signal, "getsignal", lambda _: None)

    @app.task
    def sync() -> None:
        raise error

    @app.task
    async def on_loop() -> None:
        raise error

    assert all(isinstance(each, coda.TaskFailed) for each in submit(cluster, app, (sync, None), (on_loop, None)))


def test_ctrl_c_in_a_task_ends_the_loop_and_hands_the_task_back(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def interrupted() -> None:
        if coda.current_task().attempt == 1:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    async def main() -> None:
        # Nobody handles the signal here.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        async with World(cluster, app).running() as world:
            await world.client.submit(interrupted)
            await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert cluster.tasks()[0].state == "ready"
    assert not cluster.requests(wire.COMPLETE_TASK)


def test_a_task_in_a_thread_is_completed_without_waking_the_loop(cluster: FakeCluster, app: coda.App) -> None:
    main_thread = threading.get_ident()
    completed_by: list[int] = []
    original = cluster._on_6

    def completes(*args: Any) -> Any:
        completed_by.append(threading.get_ident())
        return original(*args)

    cluster._on_6 = completes  # type: ignore[method-assign]

    @app.task
    def sync(n: int) -> int:
        return n

    calls = [(sync, [n]) for n in range(100)]
    assert submit(cluster, app, *calls) == list(range(100))
    assert main_thread not in completed_by


def test_a_result_that_cannot_be_encoded_fails_the_task(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    def odd() -> object:
        return object()

    @app.task
    async def large() -> str:
        return "x" * (5 << 20)

    for result in submit(cluster, app, (odd, None), (large, None)):
        assert isinstance(result, coda.TaskFailed)
    assert not cluster.refuse


def test_a_result_that_the_rules_refuse_fails_the_task(cluster: FakeCluster, app: coda.App) -> None:
    from fake_native import Refusal

    original = cluster._on_6

    def refuse_results(port: Any, token: int, id: bytes, lease: int, outcome: Any) -> Any:
        if len(outcome) == 2:
            return Refusal("CODA2003", "too large")
        return original(port, token, id, lease, outcome)

    cluster._on_6 = refuse_results  # type: ignore[method-assign]

    @app.task
    async def fine() -> None: ...

    (result,) = submit(cluster, app, (fine, None))
    assert result.kind == "coda.TooLargeError"


def test_wrong_arguments_fail_the_task_and_not_the_worker(cluster: FakeCluster, app: coda.App) -> None:
    @app.task(name="strict")
    async def strict(a: int) -> int:
        return a

    results = submit(cluster, app, ("strict", {"b": 1}), ("strict", {"a": 1}))
    assert results[0].matches(TypeError)
    assert results[1] == 1


def test_processes_execute_tasks_found_by_their_import_path(cluster: FakeCluster) -> None:
    app = process_tasks.app
    calls = [(app.tasks[name], args) for name, args in (("process_tasks.where", [7]), ("process_tasks.fails", None))]
    where, fails = submit(cluster, app, *calls, processes=1)
    assert where[0] != os.getpid()
    assert where[1:] == (7, 1)
    assert fails.matches(OSError)
    assert "process_tasks.py" in fails.remote_traceback


def test_a_process_that_dies_fails_its_task_and_the_next_one_runs(cluster: FakeCluster) -> None:
    app = process_tasks.app

    async def main() -> tuple[Any, Any]:
        async with World(cluster, app, processes=1).running() as world:
            died = await world.client.submit(app.tasks["process_tasks.dies"])
            with pytest.raises(coda.TaskFailed) as failure:
                await died.result(timeout=20)
            after = await world.client.submit(app.tasks["process_tasks.where"], [1])
            return failure.value.kind, (await after.result(timeout=20))[1]

    assert asyncio.run(main()) == ("coda.ProcessDied", 1)


def test_threads_see_a_copy_of_the_context(cluster: FakeCluster, app: coda.App) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    @app.task
    def changes() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    assert submit(cluster, app, (changes, None), (changes, None), threads=1) == [1, 1]
    assert variable.get() == 0


def test_completions_of_one_loop_iteration_leave_in_one_batch(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def nothing() -> None: ...

    async def main() -> int:
        async with World(cluster, app).running() as world:
            await asyncio.gather(*(world.client.submit(nothing) for _ in range(50)))
            await until(lambda: all(work.outcome is not None for work in cluster.tasks()))
            return max(cluster.batches)

    assert asyncio.run(main()) == 50


def test_a_lost_task_is_cancelled_and_its_result_is_not_sent(cluster: FakeCluster, app: coda.App) -> None:
    cancelled: list[bool] = []
    attempts: list[int] = []

    @app.task
    async def slow() -> str:
        attempts.append(1)
        if len(attempts) == 2:
            return "second"
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return "first"

    async def main() -> str:
        async with World(cluster, app).running() as world:
            handle = await world.client.submit(slow)
            await until(lambda: attempts)
            cluster.lose(cluster.tasks()[0])
            result: str = await handle.result(timeout=5)
            await until(lambda: world.port.abandoned)
            assert world.port.abandoned == [(wire.WORK_TASK, cluster.tasks()[0].id, 1)]
            return result

    assert asyncio.run(main()) == "second"
    assert cancelled == [True]


def test_a_lost_task_in_a_thread_is_forgotten(cluster: FakeCluster, app: coda.App) -> None:
    release, attempts = threading.Event(), []

    @app.task
    def slow() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            release.wait(10)
        return len(attempts)

    async def main() -> Any:
        async with World(cluster, app).running() as world:
            handle = await world.client.submit(slow)
            await until(lambda: attempts)
            cluster.lose(cluster.tasks()[0])
            result = await handle.result(timeout=5)
            release.set()
            await asyncio.sleep(0.05)
            return result

    assert asyncio.run(main()) == 2
    assert len(cluster.requests(wire.COMPLETE_TASK)) == 1


def test_the_end_of_the_link_ends_the_worker(cluster: FakeCluster, app: coda.App) -> None:
    app.task(name="t")(lambda: None)

    async def main() -> None:
        worker = coda.Worker(app)
        port = cluster.port([line.wire() for line in worker.lines])
        port.tell((wire.OVER, "CODA4008", "not trusted"))
        with pytest.raises(coda.ConnectError, match="not trusted"):
            await worker.serve(port)
        assert port.closed

    asyncio.run(main())


def test_one_line_says_what_is_served(cluster: FakeCluster, app: coda.App, caplog: pytest.LogCaptureFixture) -> None:
    app.task(name="charge", queue="billing")(lambda: None)

    @app.workflow(name="ship")
    async def ship() -> None: ...

    with caplog.at_level(logging.INFO):
        submit(cluster, app, (app.tasks["charge"], None))
    (line,) = [record.getMessage() for record in caplog.records if "serving" in record.getMessage()]
    assert line == (
        "serving queues billing (16 tasks, 256 runs at once), default (16 tasks, 256 runs at once); "
        "tasks charge; workflows ship [node 1, fake]"
    )


def test_slots_follow_how_a_queues_tasks_run(app: coda.App) -> None:
    async def fn() -> None: ...

    app.task(name="a", queue="fast")(fn)
    app.task(name="b", queue="mixed")(fn)
    app.task(name="c", queue="mixed")(lambda: None)
    app.workflow(name="w", queue="flows")(fn)
    slots = Slots(concurrency=64, threads=8, processes=2, runs=100)
    assert {line.queue: (line.task_slots, line.run_slots) for line in lines_of(app, None, slots)} == {
        "fast": (64, 100),
        "mixed": (8, 100),
        "flows": (8, 100),
    }
    (line,) = lines_of(app, ["other"], slots)
    assert line.wire() == ("other", ["a", "b", "c"], ["w"], 8, 100)
    with pytest.raises(ValueError, match="concurrency must be"):
        Slots(concurrency=0)


def test_a_worker_needs_something_to_serve() -> None:
    with pytest.raises(ValueError, match="nothing to serve"):
        coda.Worker([])


def test_a_module_means_its_apps_and_the_plain_decorators() -> None:
    assert set(process_tasks.app.tasks) <= set(app_of(process_tasks).tasks)
