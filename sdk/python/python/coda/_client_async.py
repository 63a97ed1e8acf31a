"""The asyncio client. No task is made per call: an answer resolves the future that its caller awaits."""

from __future__ import annotations

import asyncio
import os
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
from ._errors import ClosedError, CodaError, ResultTimeout
from ._wire import CONNECTED, OVER, Event, PortLike

__all__ = ["AsyncClient", "AsyncRunHandle", "AsyncTaskHandle"]

T = TypeVar("T")


class AsyncClient:
    """Starts runs, submits tasks, and waits for their results.

    >>> async with coda.AsyncClient() as client:
    ...     run = await client.start(process_event, args={"project_id": 1, "event_data": event})
    ...     print(run.id, await run.result())

    Without arguments the cluster is found through CODA_ADDRESS and CODA_CA, or through the nearest
    `.coda/client.json`, which `coda dev` writes. A client belongs to the event loop it is first used in.
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
        self._channel: Channel | None = None
        self._waits: Waits
        self._loop: asyncio.AbstractEventLoop
        self._fd = -1
        self._closed = False
        self._connected: list[asyncio.Future[None]] | None = []

    async def __aenter__(self) -> AsyncClient:
        """Waits for the connection, so that a mistake in it shows here."""
        self._attach()
        if self._connected is not None:
            connected: asyncio.Future[None] = self._loop.create_future()
            self._connected.append(connected)
            try:
                await connected
            except BaseException:
                await self.close()
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Says goodbye. What is still awaited fails with `ClosedError`; runs and tasks go on."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        channel.flush()
        channel.end()
        # The goodbye leaves within a moment, or not at all.
        await asyncio.get_running_loop().run_in_executor(None, channel.port.close, 0.5)

    @overload
    async def start(
        self,
        workflow: Workflow[..., T],
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncRunHandle[T]: ...
    @overload
    async def start(
        self,
        workflow: str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncRunHandle[Any]: ...
    async def start(
        self,
        workflow: Workflow[..., Any] | str,
        args: Args | None = None,
        *,
        run_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncRunHandle[Any]:
        """Starts a run. When this returns, the cluster has it for good. A run id that exists is not started again."""
        call, work = calls.start_run(workflow, args, run_id, Options(queue, priority, max_retries, delay))
        await self._ask(call)
        return AsyncRunHandle(self, work)

    @overload
    async def run(
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
    async def run(
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
    async def run(
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
        channel = self._attach()
        result: asyncio.Future[Any] = self._loop.create_future()
        ended = _resolve(result)

        def started(_: Any, error: CodaError | None) -> None:
            # Asked from here: the caller is not woken in between.
            if error is None:
                self._waits.add(work, ended)
            else:
                ended(None, error)

        channel.ask(started, call.tag, *call.items)
        return work.read(await self._within(result, timeout, work, ended))

    @overload
    async def submit(
        self,
        task: Task[..., Any, T],
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncTaskHandle[T]: ...
    @overload
    async def submit(
        self,
        task: str,
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncTaskHandle[Any]: ...
    async def submit(
        self,
        task: Task[..., Any, Any] | str,
        args: Args | None = None,
        *,
        task_id: str | UUID | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> AsyncTaskHandle[Any]:
        """Puts a task of its own into its queue. When this returns, the cluster has it for good."""
        call, work = calls.submit_task(task, args, task_id, Options(queue, priority, max_retries, delay))
        await self._ask(call)
        return AsyncTaskHandle(self, work)

    def handle(self, run_id: str | UUID) -> AsyncRunHandle[Any]:
        """A handle of a run that was started elsewhere."""
        return AsyncRunHandle(self, calls.run_of(run_id))

    def task_handle(self, task_id: str | UUID) -> AsyncTaskHandle[Any]:
        """A handle of a task that was submitted elsewhere."""
        return AsyncTaskHandle(self, calls.task_of(task_id))

    async def queues(self) -> list[QueueSummary]:
        """All queues that hold work, are paused, or have workers, by name."""
        pages = QueuePages()
        cursor: tuple[Any, ...] | None = ()
        while cursor is not None:
            cursor = pages.add(await self._ask(calls.queues(cursor)))
        return pages.queues()

    async def queue(self, name: str) -> QueueDescription:
        """A queue and, for everything in it that waits, the reason."""
        return await self._ask(calls.queue(name))

    async def pause(self, queue: str) -> None:
        """No new work is handed out from this queue. What is being executed goes on."""
        await self._ask(calls.pause(queue))

    async def unpause(self, queue: str) -> None:
        await self._ask(calls.unpause(queue))

    async def node(self) -> NodeDescription:
        """The node that this client is connected to."""
        return await self._ask(calls.node())

    # Inside

    def _attach(self) -> Channel:
        channel = self._channel
        loop = asyncio.get_running_loop()
        if channel is not None and self._loop is loop:
            return channel
        if self._closed:
            raise ClosedError("this client is closed: open another one", code="CODA4010")
        if channel is None:
            channel = self._channel = Channel(self._open(), self._on_event)
            self._waits = Waits(channel)
        elif self._loop.is_closed():
            # Its futures went with it.
            self._connected = None if self._connected is None else []
        else:
            raise RuntimeError(
                "this client belongs to another event loop, which is still open: use one client per loop"
            )
        try:
            self._fd = channel.port.fileno()
        except RuntimeError as error:
            raise translated(error) from None
        self._loop = loop
        channel.batch_with(loop.call_soon)
        loop.add_reader(self._fd, channel.drain)
        return channel

    def _on_event(self, event: Event) -> None:
        if event[0] not in (CONNECTED, OVER) or self._connected is None:
            return
        waiting, self._connected = self._connected, None
        error = self._channel.over if event[0] == OVER and self._channel else None
        for future in waiting:
            _resolve(future)(None, error)

    async def _ask(self, call: Call[T]) -> T:
        channel = self._attach()
        answer: asyncio.Future[Any] = self._loop.create_future()
        channel.ask(_resolve(answer), call.tag, *call.items)
        return call.read(await answer)

    async def _result(self, work: Work[T], timeout: float | None) -> T:
        self._attach()
        result: asyncio.Future[Any] = self._loop.create_future()
        ended = _resolve(result)
        self._waits.add(work, ended)
        return work.read(await self._within(result, timeout, work, ended))

    async def _within(self, result: asyncio.Future[Any], timeout: float | None, work: Work[Any], ended: Then) -> Any:
        try:
            return await (result if timeout is None else asyncio.wait_for(result, timeout))
        except asyncio.TimeoutError:
            raise ResultTimeout(
                f"`{work.name}` {work.text} has no result after {timeout} s; it goes on", code="CODA5004"
            ) from None
        finally:
            if result.cancelled():
                self._waits.remove(work, ended)


def _resolve(future: asyncio.Future[Any]) -> Then:
    def then(reply: Any, error: CodaError | None) -> None:
        # Its waiter may have been cancelled, or its loop may be gone.
        if future.done() or future.get_loop().is_closed():
            return
        if error is None:
            future.set_result(reply)
        else:
            future.set_exception(error)

    return then


class AsyncRunHandle(Generic[T]):
    """A run that was started."""

    def __init__(self, client: AsyncClient, work: Work[T]) -> None:
        self._client, self._work = client, work

    @property
    def id(self) -> str:
        return self._work.text

    async def result(self, timeout: float | None = None) -> T:
        """Waits for the result. Raises `RunFailed` if the run fails, `ResultTimeout` if it takes longer."""
        return await self._client._result(self._work, timeout)

    async def describe(self) -> RunDescription:
        """Its state, its steps and, if it waits, why."""
        return await self._client._ask(calls.describe_run(self._work))

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} of {self._work.name!r} {self.id}>"


class AsyncTaskHandle(Generic[T]):
    """A task that was submitted."""

    def __init__(self, client: AsyncClient, work: Work[T]) -> None:
        self._client, self._work = client, work

    @property
    def id(self) -> str:
        return self._work.text

    async def result(self, timeout: float | None = None) -> T:
        """Waits for the result. Raises `TaskFailed` if the task fails, `ResultTimeout` if it takes longer."""
        return await self._client._result(self._work, timeout)

    async def describe(self) -> TaskDescription:
        """Its state, its last failure and, if it waits, why."""
        return await self._client._ask(calls.describe_task(self._work))

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} of {self._work.name!r} {self.id}>"
