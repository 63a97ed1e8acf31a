"""The asyncio client. No task is made per call, and none waits an iteration: an answer goes on with its caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
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
from ._errors import CodaError, EventLoopError
from ._options import Args, RunOptions, StartOptions, SubmitOptions, Unpack, spelled_out
from ._wire import PortLike

__all__ = ["AsyncClient", "AsyncRunHandle", "AsyncTaskHandle"]

T = TypeVar("T")


class AsyncClient:
    """Starts runs, submits tasks, and waits for their results: `coda.Client` for asyncio.

    >>> async with coda.AsyncClient() as client:
    ...     run = await client.start(process_event, args={"project_id": 1, "event_data": event})
    ...     print(run.id, await run)

    Its arguments are those of `coda.Client`. A client belongs to the event loop it is first used in; in another one,
    while that is open, `coda.EventLoopError` is raised.
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1

    async def __aenter__(self) -> AsyncClient:
        """Waits for the connection, so that a mistake in it shows here."""
        try:
            await self._do(self._core.when_connected)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Says goodbye. What is still awaited fails with `coda.ClosedError`; runs and tasks go on."""
        channel = None if self._core.is_forked else self._core.detach()
        if channel is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        channel.flush()
        channel.end()
        # The goodbye leaves within a moment, or not at all.
        await asyncio.get_running_loop().run_in_executor(None, channel.port.close, GOODBYE_SECONDS)

    @overload
    async def start(
        self, workflow: Workflow[..., T], args: Args | None = None, **options: Unpack[StartOptions]
    ) -> AsyncRunHandle[T]: ...
    @overload
    async def start(
        self, workflow: str, args: Args | None = None, **options: Unpack[StartOptions]
    ) -> AsyncRunHandle[Any]: ...
    @spelled_out(StartOptions)
    async def start(
        self, workflow: Workflow[..., Any] | str, args: Args | None = None, **options: Unpack[StartOptions]
    ) -> AsyncRunHandle[Any]:
        """Starts a run, as `coda.Client.start` does. When this returns, the cluster has it for good."""
        call, work = calls.start_run(self._core.app, workflow, args, options)
        await self._ask(call)
        return AsyncRunHandle(self, work)

    @overload
    async def run(self, workflow: Workflow[..., T], args: Args | None = None, **options: Unpack[RunOptions]) -> T: ...
    @overload
    async def run(self, workflow: str, args: Args | None = None, **options: Unpack[RunOptions]) -> Any: ...
    @spelled_out(RunOptions)
    async def run(
        self, workflow: Workflow[..., Any] | str, args: Args | None = None, **options: Unpack[RunOptions]
    ) -> Any:
        """Starts a run and returns its result, as `coda.Client.run` does."""
        timeout = options.pop("timeout", None)
        call, work = calls.start_run(self._core.app, workflow, args, options)
        return work.read(await self._do(lambda then: self._core.run(call, work, then), timeout, work))

    @overload
    async def submit(
        self, task: Task[..., Any, T], args: Args | None = None, **options: Unpack[SubmitOptions]
    ) -> AsyncTaskHandle[T]: ...
    @overload
    async def submit(
        self, task: str, args: Args | None = None, **options: Unpack[SubmitOptions]
    ) -> AsyncTaskHandle[Any]: ...
    @spelled_out(SubmitOptions)
    async def submit(
        self, task: Task[..., Any, Any] | str, args: Args | None = None, **options: Unpack[SubmitOptions]
    ) -> AsyncTaskHandle[Any]:
        """Puts a task of its own into its queue, as `coda.Client.submit` does."""
        call, work = calls.submit_task(self._core.app, task, args, options)
        await self._ask(call)
        return AsyncTaskHandle(self, work)

    @overload
    def handle(self, run_id: str | UUID, workflow: Workflow[..., T]) -> AsyncRunHandle[T]: ...
    @overload
    def handle(self, run_id: str | UUID, workflow: None = None) -> AsyncRunHandle[Any]: ...
    def handle(self, run_id: str | UUID, workflow: Workflow[..., Any] | None = None) -> AsyncRunHandle[Any]:
        """A handle of a run that was started elsewhere. With `workflow` its result is made what that returns."""
        return AsyncRunHandle(self, calls.run_of(run_id, workflow))

    @overload
    def task_handle(self, task_id: str | UUID, task: Task[..., Any, T]) -> AsyncTaskHandle[T]: ...
    @overload
    def task_handle(self, task_id: str | UUID, task: None = None) -> AsyncTaskHandle[Any]: ...
    def task_handle(self, task_id: str | UUID, task: Task[..., Any, Any] | None = None) -> AsyncTaskHandle[Any]:
        """A handle of a task that was submitted elsewhere. With `task` its result is made what that returns."""
        return AsyncTaskHandle(self, calls.task_of(task_id, task))

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
        """Ends a `pause`."""
        await self._ask(calls.unpause(queue))

    async def node(self) -> NodeDescription:
        """The node that this client is connected to."""
        return await self._ask(calls.node())

    # Inside

    async def _ask(self, call: Call[T]) -> T:
        return call.read(await self._do(lambda then: self._core.ask(call, then)))

    async def _result(self, work: Work[T], timeout: float | None) -> T:
        return work.read(await self._do(lambda then: self._core.waits.add(work, then), timeout, work))

    async def _do(
        self, begin: Callable[[Then], None], timeout: float | None = None, work: Work[Any] | None = None
    ) -> Any:
        """Begins what calls `then` one day, and waits for that day."""
        loop = self._attach()
        answer: asyncio.Future[Any] = loop.create_future()

        def then(reply: Any, error: CodaError | None) -> None:
            # Its waiter may have been cancelled, or its loop may be gone.
            if answer.done() or loop.is_closed():
                return
            if error is None:
                answer.set_result(reply)
            else:
                answer.set_exception(error)

        begin(then)
        if work is None:
            return await answer
        timer = None
        if timeout is not None:
            timer = loop.call_later(timeout, then, None, no_result(work, timeout))
        answered = False
        try:
            outcome = await answer
            answered = True
            return outcome
        finally:
            if timer is not None:
                timer.cancel()
            if not answered:
                self._core.waits.remove(work, then)

    def _attach(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        channel = self._core.attach()
        if self._loop is loop:
            return loop
        if self._loop is not None:
            if not self._loop.is_closed():
                raise EventLoopError(
                    "this client belongs to another event loop, which is still open: use one client per loop",
                    code="CODA5006",
                )
            # Who waited there went with it.
            self._core.forget_who_waits()
        self._fd = channel.port.fileno()
        self._loop = loop
        channel.batch_with(loop.call_soon)
        loop.add_reader(self._fd, channel.drain)
        return loop


class AsyncRunHandle(Started[AsyncClient, T]):
    """A run that was started. `await handle` is short for `await handle.result()`."""

    async def result(self, timeout: float | None = None) -> T:
        """Waits for the result, as `coda.RunHandle.result` does. Cancelling this gives up the wait only."""
        return await self._client._result(self._work, timeout)

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    async def describe(self) -> RunDescription:
        """Its state, its steps and, if it waits, why."""
        return await self._client._ask(calls.describe_run(self._work))


class AsyncTaskHandle(Started[AsyncClient, T]):
    """A task that was submitted. `await handle` is short for `await handle.result()`."""

    async def result(self, timeout: float | None = None) -> T:
        """Waits for the result, as `coda.TaskHandle.result` does. Cancelling this gives up the wait only."""
        return await self._client._result(self._work, timeout)

    def __await__(self) -> Generator[Any, None, T]:
        return self.result().__await__()

    async def describe(self) -> TaskDescription:
        """Its state, its last failure and, if it waits, why."""
        return await self._client._ask(calls.describe_task(self._work))
