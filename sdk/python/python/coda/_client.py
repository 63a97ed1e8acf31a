"""The blocking client. Any number of threads may share one: whoever waits first reads for all of them."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload
from uuid import UUID

from . import _calls as calls
from ._app import App
from ._calls import Call, Work
from ._channel import Then
from ._core import CONNECT_SECONDS, GOODBYE_SECONDS, Core, Started, no_result, open_port
from ._definitions import Task, Workflow
from ._descriptions import (
    NodeDescription,
    QueueDescription,
    QueuePages,
    QueueSummary,
    RunDescription,
    TaskDescription,
)
from ._errors import CodaError, EventLoopError, ForkedError
from ._options import Args, RunOptions, StartOptions, SubmitOptions, Unpack, spelled_out
from ._wire import PortLike

__all__ = ["Client", "RunHandle", "TaskHandle"]

T = TypeVar("T")

# A signal may reach another thread than the one that waits; this bounds how late Ctrl-C is noticed then.
_SLICE_SECONDS = 0.5


class Client:
    """Starts runs, submits tasks, and waits for their results.

    >>> with coda.Client() as client:
    ...     run = client.start(process_event, args={"project_id": 1, "event_data": event})
    ...     print(run.id, run.result(timeout=60))

    Without arguments the cluster is found through CODA_ADDRESS and CODA_CA, or through the nearest
    `.coda/client.json`, which `coda dev` writes. Threads may share a client; a forked child opens its own. It connects
    when it is first used, reconnects by itself, and asks again what was not answered. Where an event loop runs, use
    `coda.AsyncClient`: every method but `close` raises `coda.EventLoopError` there, rather than block the loop.

    Args:
        address: `host:port` of one or more nodes, separated by commas.
        ca: The file with the cluster's CA certificate, in PEM.
        cert: The file with this program's own certificate, in PEM, for clusters that ask for one. Without it and `key`,
            CODA_CERT and CODA_KEY.
        key: The file with that certificate's key, in PEM.
        app: Whose tasks and workflows are meant by a name alone. Those of the plain decorators, unless told otherwise.
        connect_timeout: Seconds to wait for a first node before `coda.ConnectError`.
    """

    def __init__(
        self,
        address: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        *,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        app: App | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        _open: Callable[[], PortLike] | None = None,
    ) -> None:
        self._core = Core(app, _open or (lambda: open_port(address, ca, cert, key, connect_timeout)))
        #: Guards all below and the core, and is told when an answer may have come.
        self._news = threading.Condition()
        self._is_reading = False
        self._poll: select.poll | None = None

    def __enter__(self) -> Client:
        """Waits for the connection, so that a mistake in it shows here."""
        self._check_usable()
        try:
            self._do(self._core.when_connected)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Says goodbye. What is still awaited fails with `coda.ClosedError`; runs and tasks go on."""
        if self._core.is_forked:
            return
        with self._news:
            channel = self._core.detach()
            if channel is not None:
                channel.close(GOODBYE_SECONDS)
            self._news.notify_all()

    @overload
    def start(
        self, workflow: Workflow[..., T], args: Args | None = None, **options: Unpack[StartOptions]
    ) -> RunHandle[T]: ...
    @overload
    def start(self, workflow: str, args: Args | None = None, **options: Unpack[StartOptions]) -> RunHandle[Any]: ...
    @spelled_out(StartOptions)
    def start(
        self, workflow: Workflow[..., Any] | str, args: Args | None = None, **options: Unpack[StartOptions]
    ) -> RunHandle[Any]:
        """Starts a run. When this returns, the cluster has it for good.

        Args:
            workflow: A function decorated with `@coda.workflow`, or a name. One that the client's `app` knows means its
                definition. Of others nothing is known here: they go to the queue "default" and are not retried, unless
                `queue` and `max_retries` say otherwise.
            args: Names and values, or a list of values. `TypeError` if the function cannot be called with them,
                `coda.CodecError` if one of them cannot be carried.
            run_id: A UUID, for instance of `coda.id_for(...)`. A run that exists is not started again;
                `coda.ConflictError` if the id names other work.
            queue: Another queue than the decorator's.
            priority: 0 to 9, higher first.
            max_retries: Attempts of the workflow function beyond the first.
            delay: Not before so many seconds from now, or a `timedelta`.
        """
        call, work = calls.start_run(self._core.app, workflow, args, options)
        self._ask(call)
        return RunHandle(self, work)

    @overload
    def run(self, workflow: Workflow[..., T], args: Args | None = None, **options: Unpack[RunOptions]) -> T: ...
    @overload
    def run(self, workflow: str, args: Args | None = None, **options: Unpack[RunOptions]) -> Any: ...
    @spelled_out(RunOptions)
    def run(self, workflow: Workflow[..., Any] | str, args: Args | None = None, **options: Unpack[RunOptions]) -> Any:
        """Starts a run as `start` does, and returns its result.

        Raises `coda.RunFailed` if it fails, and `coda.ResultTimeout` after `timeout` seconds; the run goes on then.
        """
        timeout = options.pop("timeout", None)
        call, work = calls.start_run(self._core.app, workflow, args, options)
        return work.read(self._do(lambda then: self._core.run(call, work, then), timeout, work))

    @overload
    def submit(
        self, task: Task[..., Any, T], args: Args | None = None, **options: Unpack[SubmitOptions]
    ) -> TaskHandle[T]: ...
    @overload
    def submit(self, task: str, args: Args | None = None, **options: Unpack[SubmitOptions]) -> TaskHandle[Any]: ...
    @spelled_out(SubmitOptions)
    def submit(
        self, task: Task[..., Any, Any] | str, args: Args | None = None, **options: Unpack[SubmitOptions]
    ) -> TaskHandle[Any]:
        """Puts a task of its own into its queue. When this returns, the cluster has it for good.

        `task_id` makes it idempotent, as `run_id` does for runs; everything else is as in `start`.
        """
        call, work = calls.submit_task(self._core.app, task, args, options)
        self._ask(call)
        return TaskHandle(self, work)

    @overload
    def handle(self, run_id: str | UUID, workflow: Workflow[..., T]) -> RunHandle[T]: ...
    @overload
    def handle(self, run_id: str | UUID, workflow: None = None) -> RunHandle[Any]: ...
    def handle(self, run_id: str | UUID, workflow: Workflow[..., Any] | None = None) -> RunHandle[Any]:
        """A handle of a run that was started elsewhere. With `workflow` its result is made what that returns."""
        return RunHandle(self, calls.run_of(run_id, workflow))

    @overload
    def task_handle(self, task_id: str | UUID, task: Task[..., Any, T]) -> TaskHandle[T]: ...
    @overload
    def task_handle(self, task_id: str | UUID, task: None = None) -> TaskHandle[Any]: ...
    def task_handle(self, task_id: str | UUID, task: Task[..., Any, Any] | None = None) -> TaskHandle[Any]:
        """A handle of a task that was submitted elsewhere. With `task` its result is made what that returns."""
        return TaskHandle(self, calls.task_of(task_id, task))

    def queues(self) -> list[QueueSummary]:
        """All queues that hold work, are paused, or have workers, by name."""
        pages = QueuePages()
        cursor: tuple[Any, ...] | None = ()
        while cursor is not None:
            cursor = pages.add(self._ask(calls.queues(cursor)))
        return pages.queues()

    def queue(self, name: str) -> QueueDescription:
        """A queue and, for everything in it that waits, the reason."""
        return self._ask(calls.queue(name))

    def pause(self, queue: str) -> None:
        """No new work is handed out from this queue. What is being executed goes on."""
        self._ask(calls.pause(queue))

    def unpause(self, queue: str) -> None:
        """Ends a `pause`."""
        self._ask(calls.unpause(queue))

    def node(self) -> NodeDescription:
        """The node that this client is connected to."""
        return self._ask(calls.node())

    # Inside

    def _ask(self, call: Call[T]) -> T:
        return call.read(self._do(lambda then: self._core.ask(call, then)))

    def _result(self, work: Work[T], timeout: float | None) -> T:
        return work.read(self._do(lambda then: self._core.waits.add(work, then), timeout, work))

    def _do(self, begin: Callable[[Then], None], timeout: float | None = None, work: Work[Any] | None = None) -> Any:
        """Begins what calls `then` one day, and waits for that day."""
        self._check_usable()
        slot = _Slot()
        then = slot.then
        with self._news:
            self._attach()
            begin(then)
        try:
            if not self._wait(slot, timeout) and work is not None:
                raise no_result(work, timeout)
        finally:
            if not slot.done and work is not None:
                with self._news:
                    self._core.waits.remove(work, then)
        if slot.error is not None:
            raise slot.error
        return slot.reply

    def _check_usable(self) -> None:
        # Before the lock: in a forked child, a thread that does not exist there may hold it.
        if self._core.is_forked:
            raise ForkedError
        if asyncio._get_running_loop() is not None:
            raise EventLoopError(
                "coda.Client blocks, and an event loop is running here: use coda.AsyncClient, "
                "or call it in a thread with asyncio.to_thread(...)"
            )

    def _attach(self) -> None:
        channel = self._core.attach()
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(channel.port.fileno(), select.POLLIN)

    def _wait(self, slot: _Slot, timeout: float | None) -> bool:
        """Waits for the slot to be filled, and reads for everybody while nobody else does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._news:
                while not slot.done:
                    left = _SLICE_SECONDS if deadline is None else min(deadline - time.monotonic(), _SLICE_SECONDS)
                    if left <= 0:
                        return False
                    if not self._is_reading:
                        self._is_reading = True
                        break
                    self._news.wait(left)
                else:
                    return True
            try:
                assert self._poll is not None
                self._poll.poll(left * 1_000)
            finally:
                with self._news:
                    self._is_reading = False
                    if self._core.channel is not None and not self._core.is_closed:
                        self._core.channel.drain()
                    self._news.notify_all()


class _Slot:
    """Where one caller's answer goes."""

    __slots__ = ("done", "error", "reply")

    def __init__(self) -> None:
        self.done = False
        self.reply: Any = None
        self.error: CodaError | None = None

    def then(self, reply: Any, error: CodaError | None) -> None:
        self.reply, self.error, self.done = reply, error, True


class RunHandle(Started[Client, T]):
    """A run that was started."""

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result.

        Raises `coda.RunFailed` if the run fails, and `coda.ResultTimeout` after `timeout` seconds: the run goes on, and
        can be waited for again. `coda.NotFoundError` if there is no such run, or it ended too long ago.
        """
        return self._client._result(self._work, timeout)

    def describe(self) -> RunDescription:
        """Its state, its steps and, if it waits, why."""
        return self._client._ask(calls.describe_run(self._work))


class TaskHandle(Started[Client, T]):
    """A task that was submitted."""

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result.

        Raises `coda.TaskFailed` if the task fails, and otherwise as `RunHandle.result` does.
        """
        return self._client._result(self._work, timeout)

    def describe(self) -> TaskDescription:
        """Its state, its last failure and, if it waits, why."""
        return self._client._ask(calls.describe_task(self._work))
