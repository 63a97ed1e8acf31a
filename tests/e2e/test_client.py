"""The clients: interruptions, restarts of the node, timeouts, ids, and errors with codes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import uuid

import coda
import pytest

from .harness import Node, Process, Project, free_port
from .programs import jobs

TIMEOUT_S = 60.0


def raise_flag(project: Project, name: str) -> None:
    (project.folder / f"flag-{name}").touch()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ctrl_c_interrupts_a_wait(project: Project, node: Node, kind: str) -> None:
    command = [sys.executable, "-m", "e2e.programs.client_waits", kind]
    waiting = Process(project, "client", command).spawn()
    waiting.wait_until_it_says("waiting")
    asked = time.monotonic()
    assert waiting.stop(signal.SIGINT) == 130, waiting.tail()
    assert time.monotonic() - asked < 5
    assert "interrupted" in waiting.said()


# Restarts of the node


def test_a_node_that_restarts_during_starts_is_invisible(project: Project, node: Node) -> None:
    project.workers("jobs")
    stop = threading.Event()
    started: list[tuple[int, coda.RunHandle[int]]] = []
    with node.client() as client:

        def keep_starting() -> None:
            while not stop.is_set():
                n = len(started)
                started.append((n, client.start(jobs.echoes, {"value": n})))

        thread = threading.Thread(target=keep_starting)
        thread.start()
        try:
            for _ in range(3):
                seen = len(started)
                while len(started) < seen + 20:
                    assert thread.is_alive()
                    time.sleep(0.005)
                node.restart()
        finally:
            stop.set()
            thread.join()
        for n, handle in started:
            assert handle.result(TIMEOUT_S) == n
    # No start was repeated: each value was echoed for one run.
    assert sorted({note["value"] for note in project.noted("echo")}) == list(range(len(started)))


def test_a_node_that_restarts_during_a_wait_is_invisible(project: Project, node: Node) -> None:
    project.workers("jobs")
    with node.client() as client:
        run = client.start(jobs.waits_for_flag, {"name": "go"})
        project.wait_for_notes("started")
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(run.result(TIMEOUT_S)))
        thread.start()
        node.restart()
        node.restart()
        assert thread.is_alive() and results == []
        raise_flag(project, "go")
        thread.join()
    # The worker kept its lease over both restarts.
    assert results == [1]


def test_an_async_client_lives_through_a_restart(project: Project, node: Node) -> None:
    project.workers("jobs")

    async def story() -> list[int]:
        async with node.async_client() as client:
            first = [client.run(jobs.echoes, {"value": n}, timeout=TIMEOUT_S) for n in range(50)]
            together = asyncio.gather(*first)
            await asyncio.sleep(0)
            await asyncio.to_thread(node.restart)
            return await together + [await client.run(jobs.echoes, {"value": 50}, timeout=TIMEOUT_S)]

    assert asyncio.run(story()) == list(range(51))


# Waiting and ids


def test_a_timeout_gives_up_the_wait_and_not_the_work(project: Project, node: Node) -> None:
    project.workers("jobs")
    with node.client() as client:
        run = client.start(jobs.waits_for_flag, {"name": "go"})
        with pytest.raises(coda.ResultTimeout) as timeout:
            run.result(timeout=0.1)
        assert isinstance(timeout.value, TimeoutError) and timeout.value.code == "CODA5004"
        assert run.id in str(timeout.value)
        raise_flag(project, "go")
        assert run.result(TIMEOUT_S) == 1
        # From another client, by its id, and more than once.
        with node.client() as other:
            assert [other.handle(run.id).result(TIMEOUT_S) for _ in range(2)] == [1, 1]


def test_ids_of_ones_own_make_starts_idempotent(project: Project, node: Node) -> None:
    project.workers("jobs")
    with node.client() as client:
        id = coda.id_for("order", 17)
        assert [client.start(jobs.echoes, {"value": 1}, run_id=id).id for _ in range(5)] == [id] * 5
        assert client.start(jobs.echoes, {"value": 1}, run_id=uuid.UUID(id)).result(TIMEOUT_S) == 1
        assert coda.id_for("order", 18) != id != coda.id_for("order", "17")
        with pytest.raises(ValueError, match=r"coda\.id_for"):
            client.start(jobs.echoes, {"value": 1}, run_id="order-17")
        task = client.submit(jobs.echo, {"value": 2}, task_id=id)
        assert [task.result(TIMEOUT_S), client.submit(jobs.echo, {"value": 2}, task_id=id).result(TIMEOUT_S)] == [2, 2]
    assert sorted(note["value"] for note in project.noted("echo")) == [1, 2]


def test_threads_share_a_client(project: Project, node: Node) -> None:
    project.workers("jobs")
    wrong: list[object] = []
    with node.client() as client:

        def use(first: int) -> None:
            for n in range(first, first + 25):
                value = client.run(jobs.echoes, {"value": n}, timeout=TIMEOUT_S)
                if value != n:
                    wrong.append((n, value))

        threads = [threading.Thread(target=use, args=(first * 25,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(project.noted("echo")) == 200


def test_values_arrive_as_they_were(project: Project, node: Node) -> None:
    project.workers("jobs")
    values = [
        None,
        True,
        1.5,
        -(2**53),
        "ü€𝄞\u0000",
        [],
        {},
        {"a": [1, {"b": None}]},
        "x" * 300_000,
        list(range(5_000)),
    ]
    with node.client() as client:
        assert [client.run(jobs.echoes, {"value": value}, timeout=TIMEOUT_S) for value in values] == values


# Errors


def test_errors_have_codes(project: Project, node: Node) -> None:
    with node.client() as client:
        nothing = str(uuid.uuid4())
        with pytest.raises(coda.NotFoundError) as error:
            client.handle(nothing).describe()
        assert error.value.code == "CODA2011" and "[CODA2011]" in str(error.value)
        with pytest.raises(coda.NotFoundError) as error:
            client.task_handle(nothing).result(TIMEOUT_S)
        assert error.value.code == "CODA2012"
        id = coda.id_for("taken")
        client.start(jobs.echoes, {"value": 1}, run_id=id)
        with pytest.raises(coda.ConflictError) as error:
            client.start(jobs.waits_for_flag, {"name": "x"}, run_id=id)
        assert error.value.code == "CODA2013"
        with pytest.raises(coda.TooLargeError) as error:
            client.submit("echo", {"value": "x" * (5 << 20)})
        assert error.value.code == "CODA2003"
        # Refusals harm nobody.
        assert client.submit("echo", {"value": 1}).describe().state == "ready"


def test_a_result_that_is_too_large_fails_its_task(project: Project, node: Node) -> None:
    project.workers("jobs")
    with node.client() as client, pytest.raises(coda.TaskFailed) as failed:
        client.submit("huge").result(TIMEOUT_S)
    assert "CODA2003" in failed.value.message or "TooLarge" in failed.value.kind
    with node.client() as client, pytest.raises(coda.TaskFailed) as failed:
        client.submit("unserializable").result(TIMEOUT_S)
    assert "CodecError" in failed.value.kind


def test_no_node_no_trust_and_no_client_any_more(project: Project, node: Node) -> None:
    with (
        pytest.raises(coda.ConnectError) as error,
        coda.Client(f"127.0.0.1:{free_port()}", node.ca, connect_timeout=0.3),
    ):
        pass
    assert error.value.code.startswith("CODA4")
    other = project.node(name="other", data_dir=project.folder / "other")
    with pytest.raises(coda.ConnectError) as error, coda.Client(node.address, other.ca, connect_timeout=2):
        pass
    assert error.value.code.startswith("CODA4")
    client = node.client()
    handle = client.submit("echo", {"value": 1})
    client.close()
    with pytest.raises(coda.ClosedError) as error:
        handle.result(TIMEOUT_S)
    assert error.value.code == "CODA4010"


def test_closing_ends_the_waits_of_other_threads(project: Project, node: Node) -> None:
    client = node.client()
    handle = client.submit("nobody_runs_this")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            handle.result()
        except coda.CodaError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    client.close()
    thread.join(10)
    assert not thread.is_alive() and [type(error) for error in errors] == [coda.ClosedError]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_open_its_own_client(project: Project, node: Node) -> None:
    with node.client() as client:
        client.submit("echo", {"value": 1})
        child = os.fork()
        if child == 0:
            try:
                client.submit("echo", {"value": 2})
            except coda.ForkedError as error:
                os._exit(7 if error.code == "CODA5002" else 8)
            finally:
                os._exit(9)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert client.submit("echo", {"value": 3}).describe().state == "ready"
