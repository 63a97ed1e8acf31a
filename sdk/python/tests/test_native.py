"""The native module alone, without a node: what it refuses, and that it never stands in the way."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import coda
import pytest
from coda import _wire as wire
from coda._ids import new_id
from coda._native import Port

# A certificate of nobody. Valid as a root, and that is all that is asked of it here.
CA = Path(__file__).parent / "nobody.pem"
# Nothing listens on the discard port.
NOWHERE = "127.0.0.1:9"


def port(timeout: float = 0.2, served: Any = None, address: str = NOWHERE) -> Port:
    return Port(address, str(CA), new_id(), "test", timeout, served)


def events(port: Port, count: int, seconds: float = 5.0) -> list[Any]:
    got: list[Any] = []
    deadline = time.monotonic() + seconds
    while len(got) < count and time.monotonic() < deadline:
        if select.select([port.fileno()], [], [], 0.1)[0]:
            got += port.poll(100)
    return got


def test_a_node_that_does_not_answer_is_reported_and_refuses_what_waited() -> None:
    link = port()
    link.post_batch([(wire.LIST_QUEUES, 7), (wire.AWAIT_RUN, 8, new_id())])
    told = events(link, 3)
    assert [(each[0], each[1]) for each in told] == [(wire.REFUSED, 7), (wire.REFUSED, 8), (wire.OVER, "CODA4007")]
    link.post_batch([(wire.LIST_QUEUES, 9)])
    assert events(link, 1)[0][:3] == (wire.REFUSED, 9, "CODA4007")
    assert link.poll(10) == []
    assert not select.select([link.fileno()], [], [], 0)[0]


@pytest.mark.parametrize(
    ("address", "ca", "code"),
    [("a:b", CA, "CODA4002"), (NOWHERE, "/no/such/file", "CODA4003"), (NOWHERE, __file__, "CODA4005")],
)
def test_mistakes_in_the_options_are_told_at_once(address: str, ca: Any, code: str) -> None:
    link = Port(address, str(ca), new_id(), "test", 1.0)
    assert events(link, 1)[0][:2] == (wire.OVER, code)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"cert": "me.pem"}, "CODA4227"),
        ({"key": "me.key"}, "CODA4227"),
        ({"cert": "/no/such/file", "key": "/no/such/file"}, "CODA4003"),
        ({"cert": __file__, "key": __file__}, "CODA4227"),
        ({"cert": str(CA), "key": __file__}, "CODA4227"),
    ],
)
def test_mistakes_in_the_certificate_are_told_at_once(files: dict[str, str], code: str) -> None:
    link = Port(NOWHERE, str(CA), new_id(), "test", 1.0, **files)
    assert events(link, 1)[0][:2] == (wire.OVER, code)


@pytest.mark.parametrize(
    "request_",
    [
        (),
        (99, 1),
        (wire.AWAIT_RUN, 1, b"short"),
        (wire.AWAIT_RUN, 1),
        (wire.DESCRIBE_QUEUE, 1, 5),
        (wire.RELEASE, 1, 2, bytes(16), 1),
        (wire.RECORD_STEP, 1, bytes(16), 1, "n", b"\x09", ("json", b"1")),
        (wire.RECORD_STEP, 1, bytes(16), 1, "n", b"\x01", ("json", "text")),
        (wire.SPAWN, 1, bytes(16), 1, [(2, "n", b"\x01", "q", ("json", b""), 1, (0, 0, 100, 0, 0), 0)]),
    ],
)
def test_malformed_requests_are_python_errors(request_: Any) -> None:
    link = port()
    with pytest.raises((ValueError, TypeError, IndexError)):
        link.post_batch([request_])


def test_every_request_has_a_form_that_is_taken() -> None:
    id, payload, policy = bytes(16), ("json", b"{}"), (0, 1, 100, 1, 0)
    step = (wire.STEP_TASK, "t", b"\x00\x00\x00\x00\x01", "q", payload, 4, policy, 0)
    requests: list[Any] = [
        (wire.START_RUN, 1, id, "w", "q", payload, 4, policy, 0),
        (wire.SUBMIT_TASK, 2, id, "t", "q", payload, 4, policy, 0),
        (wire.AWAIT_RUN, 3, id),
        (wire.AWAIT_TASK, 4, id),
        (wire.SPAWN, 5, id, 1, [step]),
        (wire.RECORD_STEP, 6, id, 1, "t", b"\x01", payload),
        (wire.COMPLETE_TASK, 7, id, 1, payload),
        (wire.COMPLETE_RUN, 8, id, 1, ("ValueError", "m", "tb", True)),
        (wire.RELEASE, 9, wire.WORK_RUN, id, 1),
        (wire.PARK_RUN, 10, id, 1, 0),
        (wire.END_SESSION, 11, id),
        (wire.LIST_QUEUES, 12),
        (wire.LIST_QUEUES, 19, 1, 0, "q", 1, "n"),
        (wire.LIST_QUEUES, 20, 2, 2, "q", 0, ""),
        (wire.LIST_QUEUES, 21, 2, 3, "", 0, ""),
        (wire.DESCRIBE_QUEUE, 13, "q"),
        (wire.PAUSE_QUEUE, 14, "q"),
        (wire.UNPAUSE_QUEUE, 15, "q"),
        (wire.DESCRIBE_RUN, 16, id),
        (wire.DESCRIBE_TASK, 17, id),
        (wire.DESCRIBE_NODE, 18),
    ]
    assert {request[0] for request in requests} == set(range(18))
    link = port()
    link.post_batch(requests)
    assert {each[1] for each in events(link, 22) if each[0] == wire.REFUSED} == set(range(1, 22))


def test_a_worker_with_too_much_to_serve_is_told_so() -> None:
    link = port(served=[("q", [f"t{n}" for n in range(2_000)], [], 1, 1)])
    assert events(link, 1)[0][:2] == (wire.OVER, "CODA4013")


def test_closing_is_quick_and_final() -> None:
    link = port(timeout=30)
    started = time.monotonic()
    link.close(1.0)
    link.close(1.0)
    assert time.monotonic() - started < 1
    link.post_batch([(wire.LIST_QUEUES, 1)])
    assert (wire.REFUSED, 1, "CODA4010") in [each[:3] for each in events(link, 2)]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_may_not_use_the_parents_port_but_may_open_its_own() -> None:
    link = port()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            link.poll(1)
        except RuntimeError as error:
            del link
            own = port()
            code = 7 if error.args == ("forked",) and events(own, 1)[0][1] == "CODA4007" else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert events(link, 1)[0][1] == "CODA4007"


CLIENT = f"import coda; client = coda.Client({NOWHERE!r}, {str(CA)!r}, connect_timeout=60); "
WORKER = f"""
import coda
@coda.task
def t(): ...
try:
    coda.Worker([t], address={NOWHERE!r}, ca={str(CA)!r}, connect_timeout=0.1).run()
except coda.ConnectError:
    pass
"""


@pytest.mark.parametrize(
    "code",
    [CLIENT, CLIENT + "client._attach()", CLIENT + "client._attach(); client.close()", WORKER],
    ids=["unused", "open", "closed", "worker"],
)
def test_the_interpreter_exits_at_once(code: str) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 10


def test_both_clients_report_a_missing_node() -> None:
    client = coda.Client(NOWHERE, CA, connect_timeout=0.1)
    with pytest.raises(coda.ConnectError, match="no Coda node answered"), client:
        pass

    async def main() -> None:
        async with coda.AsyncClient(NOWHERE, CA, connect_timeout=0.1):
            pass

    with pytest.raises(coda.ConnectError, match="no Coda node answered"):
        asyncio.run(main())
