"""Tests against a real node: `LocalBroker` starts one, and ends all that a test has started.

    def test_an_order_is_shipped(coda_broker):              # the fixture comes with the package
        coda_broker.start_worker(shop)
        assert coda_broker.client().run(shop.ship_order, {"order_id": 17}) == "shipped"

Every test has a node of its own, with nothing in it. For one that several tests share, write the fixture yourself:

    @pytest.fixture(scope="session")
    def coda_broker():
        with coda.testing.LocalBroker() as broker:
            yield broker
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from ._calls import Call
from ._client import Client
from ._client_async import AsyncClient
from ._errors import CodaError
from ._ids import new_id
from ._loops import runner
from ._served import Source
from ._wire import END_SESSION
from ._worker import Worker

__all__ = ["LocalBroker", "LocalBrokerError", "LocalWorker", "WorkerProcess"]

T = TypeVar("T")

#: Nothing takes this long. What does is broken, and says what it said last.
PATIENCE_SECONDS = 30.0
#: What a test leaves running is not worth a longer wait.
DRAIN_SECONDS = 2.0
_POLL_SECONDS = 0.01
# How long what was asked to end may take before it is killed.
_STOP_SECONDS = 10.0
_LOG_LINES_MAX = 30
_READY = re.compile(rb"^coda is ready on (\S+)$.*?^ *export CODA_CA=([^\n]+)$", re.MULTILINE | re.DOTALL)
# A node must not outlive a test run that is killed. Only the kernel can see to that, and only a process can ask for it.
_WITH_PARENT = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class LocalBrokerError(CodaError):
    """The node or a worker of a test could not be started, or has ended by itself."""


class LocalBroker:
    """A real node for tests: `coda dev --ephemeral` on a free port of this machine, gone at the end.

    >>> with coda.testing.LocalBroker() as broker:
    ...     broker.start_worker([charge, ship_order])
    ...     print(broker.client().run(ship_order, {"order_id": 17}))

    `async with` works as well. Workers and clients that came from it are ended with it, also when the test has failed.

    Args:
        binary: The program `coda`. Otherwise what CODA_BIN names, the one on PATH, or the one beside this Python.
        timeout: Seconds that starting it, or a worker of it, may take before `LocalBrokerError`.
    """

    def __init__(self, *, binary: str | os.PathLike[str] | None = None, timeout: float = PATIENCE_SECONDS) -> None:
        self._binary = binary
        self._timeout = timeout
        self._address: str | None = None
        self._ca: Path | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._node: _Process | None = None
        self._workers: list[LocalWorker | WorkerProcess] = []
        self._clients: list[Client | AsyncClient] = []

    # Life

    def start(self) -> LocalBroker:
        """Returns when the node answers. `LocalBrokerError` if there is no node to start, or it does not come up."""
        self._spawn()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends its workers, its clients and itself. Once is enough; twice does no harm."""
        errors: list[Exception] = []
        while self._workers:
            try:
                self._workers.pop().stop()
            except Exception as error:
                errors.append(error)
        while self._clients:
            _close(self._clients.pop())
        if self._node is not None:
            self._node.stop()
            self._node = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._address = self._ca = None
        if errors:
            raise errors[0]

    def __enter__(self) -> LocalBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What a worker has to say must not hide why the test failed.
        with contextlib.suppress(*([Exception] if error is not None else [])):
            self.stop()

    async def __aenter__(self) -> LocalBroker:
        self._spawn()
        try:
            await asyncio.to_thread(self._wait_until_ready)
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _spawn(self) -> None:
        if self._node is not None:
            raise LocalBrokerError("this broker runs already", code="CODA5008")
        binary = _find(self._binary)
        self._folder = tempfile.TemporaryDirectory(prefix="coda-test-")
        folder = Path(self._folder.name)
        command = [binary, "dev", "--ephemeral", "--port", "0"]
        self._node = _Process("coda dev", command, folder / "node", {"TMPDIR": str(folder)}, None)

    def _wait_until_ready(self) -> None:
        assert self._node is not None
        ready = self._node.wait_for(lambda said: _READY.search(said), self._timeout, "become ready", code="CODA5008")
        self._address, self._ca = ready[1].decode(), Path(os.fsdecode(ready[2]))

    # What it gives

    @property
    def address(self) -> str:
        """`host:port`, for `address=` of clients and workers."""
        return self._started(self._address)

    @property
    def ca(self) -> Path:
        """The file with its CA certificate, for `ca=` of clients and workers."""
        return self._started(self._ca)

    @property
    def environment(self) -> dict[str, str]:
        """What makes programs find this node: add it to the environment of a process that you start."""
        return {"CODA_ADDRESS": self.address, "CODA_CA": str(self.ca)}

    @staticmethod
    def _started(value: T | None) -> T:
        if value is None:
            raise LocalBrokerError("this broker does not run: use `with LocalBroker() as broker`", code="CODA5008")
        return value

    def client(self, **options: Any) -> Client:
        """A blocking client. `options` are those of `coda.Client`. Closed with the broker, if not earlier."""
        client = Client(self.address, self.ca, **options)
        self._clients.append(client)
        return client

    def async_client(self, **options: Any) -> AsyncClient:
        """An asyncio client. `options` are those of `coda.AsyncClient`."""
        client = AsyncClient(self.address, self.ca, **options)
        self._clients.append(client)
        return client

    def start_worker(self, source: Source, **options: Any) -> LocalWorker:
        """A worker in a thread of this process, which serves when this returns.

        `source` and `options` are those of `coda.Worker`, but for `drain_timeout`, which is 2 seconds unless told
        otherwise. Breakpoints, coverage and patches reach what it executes.
        """
        options.setdefault("drain_timeout", DRAIN_SECONDS)
        worker = LocalWorker(Worker(source, address=self.address, ca=self.ca, **options), self._timeout)
        self._workers.append(worker)
        return worker

    def start_worker_process(
        self,
        target: str,
        *options: str,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        """`coda-worker TARGET` as a process of its own, which serves when this returns.

        For what a thread cannot show: imports, processes that die. `options` are those of the command line; without
        `-n` among them it is one process without a supervisor, and without `--drain-timeout` it drains for 2 seconds.
        `env` is added to the environment.
        """
        worker = WorkerProcess(self, target, options, cwd, env)
        self._workers.append(worker)
        return worker

    def logs(self) -> dict[str, str]:
        """What its processes have said last. The fixture adds it to the report of a test that fails."""
        processes = [each._process for each in self._workers if isinstance(each, WorkerProcess)]
        if self._node is not None:
            processes.insert(0, self._node)
        return {each.name: text for each in processes if (text := each.said_last())}

    def __repr__(self) -> str:
        return f"<coda.testing.LocalBroker on {self._address}>" if self._address else "<coda.testing.LocalBroker>"


class LocalWorker:
    """A worker in a thread of this process. `LocalBroker.start_worker` makes it; `with` ends it."""

    def __init__(self, worker: Worker, timeout: float) -> None:
        self._worker = worker
        self._serving = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="coda-test-worker", daemon=True)
        self._thread.start()
        try:
            if not self._serving.wait(timeout):
                raise LocalBrokerError(f"the worker does not serve after {timeout:g} s", code="CODA5009")
        except BaseException:
            worker.stop()
            raise
        self._raise_error()

    def _serve(self) -> None:
        async def serve() -> None:
            await self._worker.serve(on_serving=self._serving.set)

        try:
            with runner() as loop:
                loop.run(serve())
        except BaseException as error:
            self._error = error
        finally:
            self._serving.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise LocalBrokerError(f"the worker has failed: {self._error}", code="CODA5009") from self._error

    def stop(self) -> None:
        """Drains it, as SIGTERM would: what it executes may end, up to its `drain_timeout`."""
        self._worker.stop()
        self._thread.join(self._worker.drain_timeout + _STOP_SECONDS)
        if self._thread.is_alive():
            raise LocalBrokerError("the worker does not end: something blocks its event loop", code="CODA5009")
        self._raise_error()

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class WorkerProcess:
    """`coda-worker` as a process of its own. `LocalBroker.start_worker_process` makes it; `with` ends it."""

    def __init__(
        self,
        broker: LocalBroker,
        target: str,
        options: tuple[str, ...],
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str] | None,
    ) -> None:
        self._broker = broker
        self._session = new_id()
        supervised = any(each.startswith(("-n", "--processes")) for each in options)
        # What is given comes last, and counts.
        defaults = ["--drain-timeout", f"{DRAIN_SECONDS:g}", *([] if supervised else ["-n", "0"])]
        command = [sys.executable, "-m", "coda.worker", *defaults, target, *options]
        identity = {} if supervised else {"CODA_SESSION": str(UUID(bytes=self._session))}
        environment = {**broker.environment, **identity, **(env or {})}
        assert broker._folder is not None
        log = Path(broker._folder.name) / f"worker-{UUID(bytes=self._session)}"
        self._process = _Process(f"coda-worker {target}", command, log, environment, cwd)
        try:
            self._process.wait_for(lambda said: b" serving " in said, broker._timeout, "serve", code="CODA5009")
        except BaseException:
            self._process.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has written to its standard output and error."""
        return self._process.said().decode(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a crash or the out-of-memory killer would. The node is told, as a supervisor does, and hands its
        work to others at once. With `-n` it is the supervisor that dies; its processes drain then."""
        self._process.kill()
        client = self._broker.client()
        over = Call(END_SESSION, (self._session,), lambda _: None)
        # In a thread, because a test may run in an event loop, where a blocking client refuses to work.
        with ThreadPoolExecutor(1) as aside:
            aside.submit(client._ask, over).result()

    def stop(self) -> int:
        """SIGTERM: it drains. Returns its exit code, or minus the signal that has ended it."""
        return self._process.stop()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Process:
    """A process with its output in files: nothing has to read it while it runs."""

    def __init__(
        self, name: str, command: list[str], log: Path, env: Mapping[str, str], cwd: str | os.PathLike[str] | None
    ) -> None:
        self.name = name
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            # A group of its own: Ctrl-C is for the test run, which ends this in order.
            self._child = subprocess.Popen(
                [*_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def said(self) -> bytes:
        return self._out.read_bytes() + self._err.read_bytes()

    def said_last(self) -> str:
        return "\n".join(self.said().decode(errors="replace").splitlines()[-_LOG_LINES_MAX:])

    def wait_for(self, probe: Callable[[bytes], T | None], seconds: float, what: str, code: str) -> T:
        """What the probe finds in its output."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self._child.poll()
            found = probe(self.said())
            if found:
                return found
            if ended is not None or time.monotonic() > deadline:
                why = f"has ended with {ended}" if ended is not None else f"did not {what} within {seconds:g} s"
                raise LocalBrokerError(f"`{self.name}` {why}; it said last:\n{self.said_last()}", code=code)
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def stop(self) -> int:
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._child.returncode


def _with_parent() -> list[str]:
    """What goes before a command that is to end with this process. The kernel means the thread that has started it, so
    only the main one, which lives as long as the process, can ask for that."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return []
    return [sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid())]


def _find(given: str | os.PathLike[str] | None) -> str:
    """The program `coda`."""
    named = os.environ.get("CODA_BIN") if given is None else os.fspath(given)
    if named:
        if found := shutil.which(named):
            return found
        by = "CODA_BIN" if given is None else "`binary`"
        raise LocalBrokerError(f"{named!r} is no program that can be run: correct {by}", code="CODA5007")
    beside = Path(sys.executable).parent / "coda"
    found = shutil.which("coda") or shutil.which(beside)
    if found is None:
        raise LocalBrokerError(
            f"the program `coda` is neither on PATH nor beside {sys.executable}: install it, or set CODA_BIN",
            code="CODA5007",
        )
    return found


def _close(client: Client | AsyncClient) -> None:
    if isinstance(client, Client):
        return client.close()
    loop = client._loop
    if loop is not None and not loop.is_closed():
        # It is that loop's to close it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: loop.create_task(client.close()))
    elif (channel := client._core.detach()) is not None:
        channel.close(0)
