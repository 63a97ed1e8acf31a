"""Both clients: the same questions, one awaited and one blocking."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import threading
import time
from typing import Any

import coda
import pytest
from coda import _wire as wire
from coda._descriptions import QueuePages
from conftest import World, until
from fake_native import FakeCluster


@pytest.fixture
def answered(cluster: FakeCluster) -> FakeCluster:
    """A cluster in which every piece of work ends at once, without a worker."""
    accept = cluster._accept

    def ended(kind: int, id: bytes, name: str, *rest: Any) -> bool:
        existed = accept(kind, id, name, *rest)
        if not existed and name != "never":
            failure = ("ValueError", "no", "far away", False)
            cluster._end(cluster.work[id], failure if name == "fails" else ("json", b'"ok"'))
        return existed

    cluster._accept = ended  # type: ignore[method-assign]
    return cluster


def test_a_blocking_client_starts_and_waits(answered: FakeCluster) -> None:
    with coda.Client(_open=answered.port) as client:
        assert client.run("w", {"a": 1}) == "ok"
        run = client.start("w", run_id=coda.id_for("x"), delay=datetime.timedelta(seconds=2))
        assert (run.id, run.result(), run.result()) == (coda.id_for("x"), "ok", "ok")
        assert client.submit("t", [1]).result(timeout=5) == "ok"
        assert client.handle(run.id).result() == "ok"
        with pytest.raises(coda.RunFailed) as failure:
            client.run("fails")
        assert failure.value.matches(ValueError)
        with pytest.raises(coda.NotFoundError) as missing:
            client.handle(coda.id_for("nobody")).result()
        assert missing.value.code == "CODA2011"
        client.pause("default")
        client.pause("other")
        assert [(queue.name, queue.paused) for queue in client.queues()] == [("default", True), ("other", True)]
        client.unpause("default")
        queue = client.queue("default")
        assert (queue.name, queue.paused, str(queue.lanes[0].waits)) == ("default", False, "no worker")
        assert (queue.lanes_total, queue.counted_all) == (1, True)
        assert queue.lanes[0].oldest == datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)
    with pytest.raises(coda.ClosedError):
        client.queues()
    start = answered.requests(wire.START_RUN)[1]
    assert start[3:] == ("w", "default", ("json", b"{}"), 4, (0, 1000, 200, 60000, 20), 2000)


def test_what_two_pages_say_about_one_queue_adds_up() -> None:
    def part(queue: str, ready: int, workers: int) -> dict[str, Any]:
        counts = {"ready": ready, "leased": 1, "delayed": 0, "workers": workers}
        return {"queue": queue, "paused": False, **counts}

    pages = QueuePages()
    assert pages.add(([part("b", 10, 2)], (0, "b", 1, "n"))) == (0, "b", 1, "n")
    assert pages.add(([part("b", 5, 2), part("a", 1, 0)], None)) is None
    assert [(queue.name, queue.ready, queue.workers) for queue in pages.queues()] == [("a", 1, 0), ("b", 15, 2)]


def test_an_async_client_does_the_same(answered: FakeCluster) -> None:
    async def main() -> None:
        async with coda.AsyncClient(_open=answered.port) as client:
            assert await client.run("w", {"a": 1}) == "ok"
            run = await client.start("w")
            assert await run.result() == await run.result(timeout=1) == "ok"
            assert await (await client.submit("t")).result() == "ok"
            with pytest.raises(coda.TaskFailed):
                await (await client.submit("fails")).result()
            assert (await client.queue("default")).lanes[0].waits == coda.Wait("no_worker")
        with pytest.raises(coda.ClosedError):
            await client.queues()

    asyncio.run(main())


def test_requests_of_one_iteration_travel_in_one_batch(answered: FakeCluster) -> None:
    async def main() -> None:
        async with coda.AsyncClient(_open=answered.port) as client:
            assert await asyncio.gather(*(client.run("w") for _ in range(100))) == ["ok"] * 100

    asyncio.run(main())
    assert answered.batches[:2] == [100, 100]


def test_a_timeout_leaves_the_work_alone_and_it_can_be_waited_for_again(answered: FakeCluster) -> None:
    async def main() -> None:
        async with coda.AsyncClient(_open=answered.port) as client:
            run = await client.start("never")
            for _ in range(3):
                with pytest.raises(coda.ResultTimeout):
                    await run.result(timeout=0.01)
            waiting = [asyncio.ensure_future(run.result()) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.sleep(0)
            answered._end(answered.runs()[0], ("json", b"1"))
            assert await waiting[1] == 1
            with pytest.raises(TimeoutError):
                await client.run("never", timeout=0.01)

    asyncio.run(main())
    assert len(answered.requests(wire.AWAIT_RUN)) == 2
    with coda.Client(_open=answered.port) as client, pytest.raises(coda.ResultTimeout, match="it goes on"):
        client.run("never", timeout=0.01)


def test_threads_share_a_blocking_client(answered: FakeCluster) -> None:
    results: list[Any] = []
    with coda.Client(_open=answered.port) as client:
        slow = client.start("never")

        def work() -> None:
            results.extend(client.run("w") for _ in range(20))

        waiting = threading.Thread(target=lambda: results.append(slow.result()))
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in (waiting, *threads):
            thread.start()
        for thread in threads:
            thread.join(10)
        assert results == ["ok"] * 160
        answered._end(answered.runs()[0], ("json", b'"late"'))
        waiting.join(5)
    assert results[-1] == "late"


def test_closing_wakes_those_who_wait(answered: FakeCluster) -> None:
    client = coda.Client(_open=answered.port)
    run = client.start("never")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            run.result()
        except coda.ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    client.close()
    thread.join(5)
    assert len(errors) == 1


def test_ctrl_c_leaves_a_blocking_wait_at_once(answered: FakeCluster) -> None:
    with coda.Client(_open=answered.port) as client:
        run = client.start("never")
        timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run.result()
        assert time.monotonic() - started < 2
        assert client.run("w") == "ok"


def test_a_link_that_cannot_be_opened_fails_the_with_statement() -> None:
    class Dead(FakeCluster):
        def port(self, served: Any = None) -> Any:
            port = super().port(served)
            port._events.clear()
            port._events.append((wire.OVER, "CODA4001", "no Coda node is configured"))
            return port

    async def main() -> None:
        with pytest.raises(coda.ConnectError, match="CODA4001"):
            async with coda.AsyncClient(_open=Dead().port):
                pass

    asyncio.run(main())
    with pytest.raises(coda.ConnectError, match="no Coda node is configured"), coda.Client(_open=Dead().port):
        pass


def test_a_client_belongs_to_one_loop_at_a_time(answered: FakeCluster) -> None:
    client = coda.AsyncClient(_open=answered.port)

    async def use() -> None:
        assert await client.run("w") == "ok"

    async def use_in_another_thread() -> None:
        failures: list[BaseException] = []

        def other() -> None:
            try:
                asyncio.run(use())
            except RuntimeError as error:
                failures.append(error)

        await use()
        await asyncio.to_thread(other)
        assert "another event loop" in str(failures[0])

    asyncio.run(use())
    # The first loop is closed by now.
    asyncio.run(use_in_another_thread())
    asyncio.run(use())
    asyncio.run(client.close())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own(answered: FakeCluster) -> None:
    client = coda.Client(_open=answered.port)
    client.run("w")
    pid = os.fork()
    if pid == 0:
        try:
            client.run("w")
        except coda.ForkedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    client.close()


def test_mistakes_are_told_before_anything_is_sent(answered: FakeCluster, app: coda.App) -> None:
    task = app.task(name="t")(lambda: None)
    with coda.Client(_open=answered.port) as client:
        with pytest.raises(TypeError, match="use submit"):
            client.start(task)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="decorate it"):
            client.submit(len)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="not an id"):
            client.start("w", run_id="order-1")
        with pytest.raises(TypeError, match="t\\(\\)"):
            client.submit(task, {"a": 1})
    assert not answered.journal


def test_results_are_made_what_the_workflow_says(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow
    async def makes() -> set[int]:
        return {1, 2}

    async def main() -> Any:
        async with World(cluster, app).running() as world:
            handle = await world.client.start(makes)
            await until(lambda: cluster.runs()[0].outcome)
            return await handle.result(), repr(handle)

    result, text = asyncio.run(main())
    assert result == {1, 2}
    assert text.startswith("<coda.AsyncRunHandle of ")
