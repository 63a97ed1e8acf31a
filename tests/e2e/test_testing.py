"""`coda.testing` with a real node: what its users' tests stand on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import coda
import pytest
from coda.testing import LocalBroker, LocalBrokerError

from .harness import PATIENCE_S, REPOSITORY, children_of, program, wait_for

app = coda.App("testing")
app_gate = threading.Event()


@app.task(name="double", max_retries=1, backoff=coda.Backoff(initial=0))
def double(n: int) -> int:
    if n == 13 and coda.current_task().attempt == 1:
        raise ValueError("unlucky")
    return 2 * n


@app.task(name="gated")
def gated() -> int:
    app_gate.wait(PATIENCE_S)
    return coda.current_task().attempt


@app.workflow(name="add_up")
async def add_up(numbers: list[int]) -> int:
    return sum(await coda.gather(*(coda.context.spawn_task(double, [n], cache_key=[n]) for n in numbers)))


@pytest.fixture(autouse=True)
def binary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODA_BIN", program("coda"))


def test_a_flow_runs_in_this_process(coda_broker: LocalBroker) -> None:
    coda_broker.start_worker(app)
    client = coda_broker.client(app=app)
    assert client.run("add_up", {"numbers": [1, 2, 13]}, timeout=PATIENCE_S) == 32
    assert client.queue("default").workers == 1


def test_each_test_has_a_node_of_its_own(coda_broker: LocalBroker) -> None:
    assert coda_broker.client().queues() == []


def test_everything_is_gone_afterwards() -> None:
    before = set(children_of(os.getpid()))
    with LocalBroker() as broker:
        assert broker._folder is not None
        folder = Path(broker._folder.name)
        with broker.start_worker(app) as worker:
            assert broker.client(app=app).run("add_up", {"numbers": [1]}, timeout=PATIENCE_S) == 2
            thread = worker._thread
        assert not thread.is_alive()
        assert set(children_of(os.getpid())) - before
    assert set(children_of(os.getpid())) == before
    assert not folder.exists()


def test_async_tests_work_too() -> None:
    async def main() -> None:
        async with LocalBroker() as broker:
            broker.start_worker(app)
            async with broker.async_client(app=app) as client:
                assert await asyncio.wait_for(client.run("add_up", {"numbers": [2, 3]}), PATIENCE_S) == 10
            # One that nobody closes is closed with the broker.
            assert await broker.async_client().queues() != []

    asyncio.run(main())


def test_a_hanging_task_holds_up_nobody_for_long(coda_broker: LocalBroker) -> None:
    app_gate.clear()
    worker = coda_broker.start_worker(app, drain_timeout=0.2)
    task = coda_broker.client().submit("gated")
    wait_for("the task to run", lambda: task.describe().state == "running")
    started = time.monotonic()
    worker.stop()
    assert time.monotonic() - started < 3
    assert task.describe().state == "ready"
    app_gate.set()
    coda_broker.start_worker(app)
    assert task.result(PATIENCE_S) == 2


def test_a_worker_process_can_be_killed_and_its_work_moves_on(coda_broker: LocalBroker, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, coda\n"
        "@coda.task(name='slow')\n"
        "def slow() -> int:\n"
        "    if coda.current_task().attempt == 1:\n"
        "        time.sleep(600)\n"
        "    return coda.current_task().attempt\n"
    )
    first = coda_broker.start_worker_process("slow", cwd=tmp_path)
    task = coda_broker.client().submit("slow")
    wait_for("the task to run", lambda: task.describe().state == "running")
    killed = time.monotonic()
    first.kill()
    with coda_broker.start_worker_process("slow", "-n", "2", cwd=tmp_path) as second:
        assert task.result(PATIENCE_S) == 2
        assert time.monotonic() - killed < 5
        assert "serving" in second.log
    assert second.stop() == 0


def test_a_worker_that_cannot_work_says_why(coda_broker: LocalBroker, tmp_path: Path) -> None:
    with pytest.raises(LocalBrokerError, match=r"there is no module 'nothing'") as error:
        coda_broker.start_worker_process("nothing", cwd=tmp_path)
    assert error.value.code == "CODA5009"
    assert coda_broker._node is not None
    coda_broker._node.kill()
    with pytest.raises(LocalBrokerError, match="the worker has failed: no Coda node answered"):
        coda_broker.start_worker(app, connect_timeout=0.2)


def test_the_example_of_the_documentation_is_tested() -> None:
    assert "coda_broker" in (REPOSITORY / "sdk/python/README.md").read_text()
