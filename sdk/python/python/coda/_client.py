"""The blocking client. Any number of threads may share one: whoever waits first reads for all of them."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from . import _calls as calls
from ._calls import Call, Waits, Work
from ._channel import Channel, Then, translated
from ._context import Args, Options
from ._definitions import Task, Workflow
from ._descriptions import (
    NodeDescription,
    QueueDescription,
    QueuePages,
    QueueSummary,
    RunDescription,
    TaskDescription,
)
from ._errors import ClosedError, CodaError, ForkedError, ResultTimeout
from ._wire import CONNECTED, OVER, Event, PortLike

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
    `.coda/client.json`, which `coda dev` writes. `cert` and `key` are this program's own certificate, for clusters that
    ask for one; without them CODA_CERT and CODA_KEY. Threads may share a client; a forked child opens its own.
    """

    def __init__(
        self,
        address: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        *,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        connect_timeout: float = 10.0,
        _open: Callable[[], PortLike] | None = None,
    ) -> None:
        self._open = _open or (lambda: calls.open_port(address, ca, cert, key, connect_timeout))
        self._pid = os.getpid()
        #: Guards all below, and is told when an answer may have come.
        self._news = threading.Condition()
        self._is_reading = False
        self._channel: Channel | None = None
        self._waits: Waits
        self._poll: select.poll
        self._closed = False
        self._connecting: list[_Slot] | None = []

    def __enter__(self) -> Client:
        """Waits for the connection, so that a mistake in it shows here."""
        slot = _Slot()
        with self._news:
            self._attached()
            if self._connecting is None:
                return self
            self._connecting.append(slot)
        try:
            self._wait(slot, None)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Says goodbye. What is still awaited fails with `ClosedError`; runs and tasks go on."""
        if self._pid != os.getpid():
            return
        with self._news:
            self._closed = True
            if self._channel is not None:
                self._channel.close(0.5)
            self._news.notify_all()

    @overload
    def start(
        self,
        workflow: Workflow[..., T],
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> RunHandle[T]: ...
    @overload
    def start(
        self,
        workflow: str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> RunHandle[Any]: ...
    def start(
        self,
        workflow: Workflow[..., Any] | str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> RunHandle[Any]:
        """Starts a run. When this returns, the cluster has it for good. A run id that exists is not started again."""
        call, work = calls.start_run(workflow, args, run_id, Options(queue, priority, max_retries, delay))
        self._ask(call)
        return RunHandle(self, work)

    @overload
    def run(
        self,
        workflow: Workflow[..., T],
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
        timeout: float | None = None,
    ) -> T: ...
    @overload
    def run(
        self,
        workflow: str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
        timeout: float | None = None,
    ) -> Any: ...
    def run(
        self,
        workflow: Workflow[..., Any] | str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Starts a run and waits for its result. Raises `coda.RunFailed` if it fails."""
        call, work = calls.start_run(workflow, args, run_id, Options(queue, priority, max_retries, delay))

        def begin(channel: Channel, ended: Then) -> None:
            def started(_: Any, error: CodaError | None) -> None:
                if error is None:
                    self._waits.add(work, ended)
                else:
                    ended(None, error)

            channel.ask(started, call.tag, *call.items)

        return work.read(self._do(begin, timeout, work))

    @overload
    def submit(
        self,
        task: Task[..., Any, T],
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> TaskHandle[T]: ...
    @overload
    def submit(
        self,
        task: str,
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> TaskHandle[Any]: ...
    def submit(
        self,
        task: Task[..., Any, Any] | str,
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> TaskHandle[Any]:
        """Puts a task of its own into its queue. When this returns, the cluster has it for good."""
        call, work = calls.submit_task(task, args, task_id, Options(queue, priority, max_retries, delay))
        self._ask(call)
        return TaskHandle(self, work)

    def handle(self, run_id: str | UUID) -> RunHandle[Any]:
        """A handle of a run that was started elsewhere."""
        return RunHandle(self, calls.run_of(run_id))

    def task_handle(self, task_id: str | UUID) -> TaskHandle[Any]:
        """A handle of a task that was submitted elsewhere."""
        return TaskHandle(self, calls.task_of(task_id))

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
        self._ask(calls.unpause(queue))

    def node(self) -> NodeDescription:
        """The node that this client is connected to."""
        return self._ask(calls.node())

    # Inside

    def _attached(self) -> Channel:
        if self._pid != os.getpid():
            raise ForkedError
        if self._closed:
            raise ClosedError("this client is closed: open another one", code="CODA4010")
        if self._channel is None:
            self._channel = Channel(self._open(), self._on_event)
            self._waits = Waits(self._channel)
            self._poll = select.poll()
            try:
                self._poll.register(self._channel.port.fileno(), select.POLLIN)
            except RuntimeError as error:
                raise translated(error) from None
        return self._channel

    def _on_event(self, event: Event) -> None:
        if event[0] not in (CONNECTED, OVER) or self._connecting is None:
            return
        waiting, self._connecting = self._connecting, None
        error = self._channel.over if event[0] == OVER and self._channel else None
        for slot in waiting:
            slot.then(None, error)

    def _ask(self, call: Call[T]) -> T:
        return call.read(self._do(lambda channel, then: channel.ask(then, call.tag, *call.items), None, None))

    def _result(self, work: Work[T], timeout: float | None) -> T:
        return work.read(self._do(lambda _, then: self._waits.add(work, then), timeout, work))

    def _do(self, begin: Callable[[Channel, Then], None], timeout: float | None, work: Work[Any] | None) -> Any:
        # Before the lock: in a forked child, a thread that does not exist there may hold it.
        if self._pid != os.getpid():
            raise ForkedError
        slot = _Slot()
        then = slot.then
        with self._news:
            begin(self._attached(), then)
        try:
            if not self._wait(slot, timeout) and work is not None:
                message = f"`{work.name}` {work.text} has no result after {timeout} s; it goes on"
                raise ResultTimeout(message, code="CODA5004")
        finally:
            if not slot.done and work is not None:
                with self._news:
                    self._waits.remove(work, then)
        if slot.error is not None:
            raise slot.error
        return slot.reply

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
                    break
            try:
                self._poll.poll(left * 1_000)
            finally:
                with self._news:
                    self._is_reading = False
                    if self._channel is not None and not self._closed:
                        self._channel.drain()
                    self._news.notify_all()
        if slot.error is not None:
            raise slot.error
        return True


class _Slot:
    """Where one caller's answer goes."""

    __slots__ = ("done", "error", "reply")

    def __init__(self) -> None:
        self.done = False
        self.reply: Any = None
        self.error: CodaError | None = None

    def then(self, reply: Any, error: CodaError | None) -> None:
        self.reply, self.error, self.done = reply, error, True


class RunHandle(Generic[T]):
    """A run that was started."""

    def __init__(self, client: Client, work: Work[T]) -> None:
        self._client, self._work = client, work

    @property
    def id(self) -> str:
        return self._work.text

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result. Raises `RunFailed` if the run fails, `ResultTimeout` if it takes longer."""
        return self._client._result(self._work, timeout)

    def describe(self) -> RunDescription:
        """Its state, its steps and, if it waits, why."""
        return self._client._ask(calls.describe_run(self._work))

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} of {self._work.name!r} {self.id}>"


class TaskHandle(Generic[T]):
    """A task that was submitted."""

    def __init__(self, client: Client, work: Work[T]) -> None:
        self._client, self._work = client, work

    @property
    def id(self) -> str:
        return self._work.text

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result. Raises `TaskFailed` if the task fails, `ResultTimeout` if it takes longer."""
        return self._client._result(self._work, timeout)

    def describe(self) -> TaskDescription:
        """Its state, its last failure and, if it waits, why."""
        return self._client._ask(calls.describe_task(self._work))

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} of {self._work.name!r} {self.id}>"
