"""The worker: leases in, functions called, outcomes out.

One wake-up handles whatever has arrived and sends whatever has ended, in one batch each. Deliberately
absent: credit, reconnects, memo pages and retries of requests, which the native link keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from ._channel import Channel
from ._codec import decode_payload
from ._context import CURRENT_RUN, CURRENT_TASK, current_of
from ._definitions import Task
from ._errors import CodaError, ConnectError, Rejected
from ._failure import failure_of
from ._ids import new_id, text_of
from ._native import VERSION, Port
from ._processes import Processes
from ._run import Run
from ._served import Slots, Source, app_of, lines_of, thread_count
from ._threads import Threads
from ._wire import (
    COMPLETE_TASK,
    CONNECTED,
    DISCONNECTED,
    LOST,
    OVER,
    RELEASE,
    RUN,
    SEEN,
    STEP,
    TASK,
    WORK_RUN,
    WORK_TASK,
    Event,
    Outcome,
    PortLike,
)

__all__ = ["Worker"]

log = logging.getLogger("coda.worker")

# After the drain timeout: for the last answers, and for cancelled code to notice.
_LAST_WORDS_SECONDS = 3.0
_DRAIN_CHECK_SECONDS = 0.05

#: One lease of one task.
Hold = tuple[bytes, int]


class Worker:
    """Executes tasks and workflows in this process.

    >>> coda.Worker([charge, ship_order]).run()        # until SIGTERM or Ctrl-C
    >>> await coda.Worker(app, queues=["billing"]).serve()

    The first argument is an `App`, a module, or tasks and workflows. `coda-worker` runs several of these and replaces
    those that die. Slots are per queue: `concurrency` async tasks, `threads` other tasks, `processes` tasks with
    `executor="process"`, and `runs` runs of workflows. A run that only waits for more than `park_after` seconds gives
    its slot up until a step ends.
    """

    def __init__(
        self,
        source: Source,
        *,
        address: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        queues: Collection[str] | None = None,
        concurrency: int = Slots.concurrency,
        threads: int = Slots.threads,
        processes: int | None = None,
        runs: int = Slots.runs,
        drain_timeout: float = 30.0,
        park_after: float = 30.0,
        connect_timeout: float = 10.0,
        session: bytes | None = None,
    ) -> None:
        self.app = app_of(source)
        self._slots = Slots(concurrency, threads, processes or os.cpu_count() or 1, runs)
        self.lines = lines_of(self.app, queues, self._slots)
        if not self.app.tasks and not self.app.workflows:
            raise ValueError(f"{self.app!r} has nothing to serve: decorate functions with @coda.task or @coda.workflow")
        self._address = address
        self._ca = None if ca is None else os.fspath(ca)
        self._cert = None if cert is None else os.fspath(cert)
        self._key = None if key is None else os.fspath(key)
        self._drain_timeout = drain_timeout
        self._park_after = park_after
        self._connect_timeout = connect_timeout
        self._session = session
        self._held: dict[Hold, asyncio.Task[None] | None] = {}
        self._runs: dict[Hold, Run] = {}
        #: Outcomes and releases without an answer.
        self._unanswered = 0
        self._draining = False
        self._hurry = False
        self._error: CodaError | None = None
        self._wake: asyncio.Event | None = None
        self._on = {
            TASK: self._on_task,
            RUN: self._on_run,
            STEP: self._on_step,
            SEEN: self._on_seen,
            LOST: self._on_lost,
            CONNECTED: self._on_connected,
            DISCONNECTED: self._on_disconnected,
            OVER: self._on_over,
        }

    # Life

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. A second signal hurries."""
        with _runner() as runner:
            runner.run(self._run_until_signal())

    async def _run_until_signal(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.serve()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Takes no further work and lets what runs end, up to the drain timeout. A second call hurries."""
        if self._draining:
            self._hurry = True
        self._draining = True
        if self._wake is not None:
            self._wake.set()

    async def serve(self, port: PortLike | None = None) -> None:
        """Serves in the running loop until `stop()`. Cancelling it hands everything back at once."""
        self._loop = loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._threads = Threads(thread_count(self.app, self.lines, self._slots), loop)
        self._processes = Processes(self._slots.processes)
        self._channel = channel = Channel(port or self._open(), self._on_event)
        channel.batch_with(loop.call_soon)
        fd = channel.port.fileno()
        unwatch = _watch(loop)
        parking = loop.create_task(self._park_idle_runs())
        loop.add_reader(fd, channel.drain)
        try:
            while not self._draining and self._error is None:
                self._wake.clear()
                await self._wake.wait()
            if self._error is None:
                await self._drain()
        finally:
            self._draining = True
            parking.cancel()
            self._let_go()
            with contextlib.suppress(asyncio.CancelledError):
                await self._until(lambda: not (self._held or self._runs or self._unanswered), _LAST_WORDS_SECONDS)
            loop.remove_reader(fd)
            channel.flush()
            channel.close(1.0)
            self._threads.close()
            self._processes.close()
            unwatch()
        if self._error is not None:
            raise self._error

    def _open(self) -> Port:
        served = [line.wire() for line in self.lines]
        agent = f"coda-python/{VERSION}"
        session = self._session or new_id()
        files = {"cert": self._cert, "key": self._key}
        return Port(self._address, self._ca, session, agent, self._connect_timeout, served, **files)

    async def _drain(self) -> None:
        log.info("draining: %d tasks and %d runs are in progress", len(self._held), len(self._runs))
        self._channel.port.drain()

        def drained() -> bool:
            # A run that only waits continues elsewhere, from its memo.
            for run in list(self._runs.values()):
                if run.only_waits():
                    self._release_run(run)
            return self._hurry or self._error is not None or not (self._held or self._runs or self._unanswered)

        if not await self._until(drained, self._drain_timeout):
            log.warning("%d tasks and %d runs did not end in time: handed back", len(self._held), len(self._runs))

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = self._loop.time() + seconds
        while not done():
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(_DRAIN_CHECK_SECONDS)
        return True

    def _let_go(self) -> None:
        """Stops what still runs, and hands it back."""
        for run in list(self._runs.values()):
            self._release_run(run)
        for hold in list(self._held):
            self._drop(hold, lambda hold=hold: self._release(WORK_TASK, *hold))  # type: ignore[misc]

    # Events

    def _on_event(self, event: Event) -> None:
        try:
            self._on[event[0]](event)
        except Exception:
            log.exception("cannot handle an event of kind %s", event[0])

    def _on_connected(self, event: Event) -> None:
        _, first, node, server = event
        if not first:
            log.info("connected again, to node %d", node)
            return
        app = self.app
        parts = [f"queues {', '.join(map(str, self.lines))}"]
        parts += [f"tasks {', '.join(sorted(app.tasks))}"] * bool(app.tasks)
        parts += [f"workflows {', '.join(sorted(app.workflows))}"] * bool(app.workflows)
        log.info("serving %s [node %d, %s]", "; ".join(parts), node, server)

    def _on_disconnected(self, _: Event) -> None:
        if not self._draining:
            log.warning("disconnected: trying again, work in progress goes on")

    def _on_over(self, event: Event) -> None:
        if self._error is None:
            self._error = self._channel.over or ConnectError(event[2], code=event[1])
        if self._wake is not None:
            self._wake.set()

    def _on_lost(self, event: Event) -> None:
        _, kind, work, lease = event
        port = self._channel.port
        if kind == WORK_RUN:
            run = self._runs.get((work, lease))
            if run is not None:
                log.info("run %s goes on elsewhere: stopped here", text_of(work))
                return run.stop(lambda: port.abandon(kind, work, lease))
        elif (work, lease) in self._held:
            log.info("task %s is not ours any more: its result will not count", text_of(work))
            return self._drop((work, lease), lambda: port.abandon(kind, work, lease))
        port.abandon(kind, work, lease)

    # Runs

    def _on_run(self, event: Event) -> None:
        _, work, lease, _, name, *_ = event
        definition = self.app.workflows.get(name)
        if definition is None or self._draining:
            return self._release(WORK_RUN, work, lease)
        run = Run(event, definition, self._channel, self._loop, self._threads.run, self._run_over)
        self._runs[work, lease] = run
        run.start()

    def _run_over(self, run: Run) -> None:
        self._runs.pop((run.id, run.lease), None)

    def _on_step(self, event: Event) -> None:
        _, work, lease, kind, name, key, outcome, steps_ended = event
        run = self._runs.get((work, lease))
        if run is not None:
            run.step_ended((kind, name, key), outcome, steps_ended)

    def _on_seen(self, event: Event) -> None:
        _, work, lease, steps_ended = event
        run = self._runs.get((work, lease))
        if run is not None:
            run.steps_seen(steps_ended)

    def _release_run(self, run: Run) -> None:
        run.stop(lambda: self._release(WORK_RUN, run.id, run.lease))

    async def _park_idle_runs(self) -> None:
        while True:
            await asyncio.sleep(min(max(self._park_after / 4, 0.01), 5.0))
            for run in list(self._runs.values()):
                run.park_if_idle(self._park_after)

    # Tasks

    def _on_task(self, event: Event) -> None:
        _, work, lease, _, name, *_ = event
        task = self.app.tasks.get(name)
        if task is None or self._draining:
            return self._release(WORK_TASK, work, lease)
        hold = (work, lease)
        self._held[hold] = None
        try:
            self._begin(task, event, hold)
        except Exception as error:
            # No process could be started, say.
            log.exception("task %s could not be started", name)
            self._ended(hold, failure_of(error, True), None)

    def _begin(self, task: Task[..., Any, Any], event: Event, hold: Hold) -> None:
        how = task.executor
        if how == "loop":
            running = self._start(self._execute(task, event, hold))
            if hold in self._held:
                self._held[hold] = running
        elif how == "thread":
            self._threads.run(lambda: _call(task, event), lambda outcome, error: self._ended(hold, outcome, error))
        else:

            def then(outcome: Outcome) -> None:
                # The loop may be closed by now.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._ended, hold, outcome, None)

            self._processes.run(task, event[5], current_of(event), then)

    if sys.version_info >= (3, 12):

        def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            # Runs up to its first wait here and now: most short tasks never need the loop.
            return asyncio.Task(coroutine, loop=self._loop, eager_start=True)

    else:

        def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return self._loop.create_task(coroutine)

    async def _execute(self, task: Task[..., Any, Any], event: Event, hold: Hold) -> None:
        CURRENT_TASK.set(event)
        outcome: Outcome
        try:
            positional, named = task.arguments.received(decode_payload(event[5]))
            outcome = task.encode_result(await task.fn(*positional, **named))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if hold not in self._held:
                # Dropped by us, and cancelled for it.
                return
            outcome = failure_of(error, task.retries.retryable(error))
        self._ended(hold, outcome, None)

    def _ended(self, hold: Hold, outcome: Outcome, error: BaseException | None) -> None:
        if hold not in self._held:
            return
        del self._held[hold]
        if error is not None:
            outcome = failure_of(error, False)
        self._complete(hold, outcome)

    def _complete(self, hold: Hold, outcome: Outcome) -> None:
        self._unanswered += 1
        self._channel.ask(lambda _, error: self._completed(hold, outcome, error), COMPLETE_TASK, *hold, outcome)

    def _completed(self, hold: Hold, outcome: Outcome, error: CodaError | None) -> None:
        self._unanswered -= 1
        if error is None:
            return
        if isinstance(error, Rejected) and len(outcome) == 2:
            # The result cannot be recorded. Say so in its place.
            return self._complete(hold, failure_of(error, False))
        log.warning("the outcome of task %s was not recorded: %s", text_of(hold[0]), error)
        self._channel.port.abandon(WORK_TASK, *hold)

    def _drop(self, hold: Hold, then: Callable[[], None]) -> None:
        """Stops a task whose outcome does not count any more. A thread cannot be stopped: its result is discarded."""
        running = self._held.pop(hold)
        if running is None or running.done():
            return then()
        running.add_done_callback(lambda _: then())
        running.cancel()

    def _release(self, kind: int, work: bytes, lease: int) -> None:
        self._unanswered += 1
        self._channel.ask(self._released, RELEASE, kind, work, lease)

    def _released(self, _: None, error: CodaError | None) -> None:
        self._unanswered -= 1
        if error is not None:
            log.debug("a lease was not handed back: %s", error)


def _call(task: Task[..., Any, Any], event: Event) -> Outcome:
    """In a thread."""
    CURRENT_TASK.set(event)
    try:
        positional, named = task.arguments.received(decode_payload(event[5]))
        return task.encode_result(task.fn(*positional, **named))
    except BaseException as error:
        return failure_of(error, task.retries.retryable(error))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if sys.version_info >= (3, 11):

    def _runner() -> asyncio.Runner:
        return asyncio.Runner(loop_factory=_loop_factory())

else:

    class _runner:
        """What this module needs of `asyncio.Runner`."""

        def __enter__(self) -> _runner:
            self._loop = (_loop_factory() or asyncio.new_event_loop)()
            asyncio.set_event_loop(self._loop)
            return self

        def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
            self._loop.run_until_complete(coroutine)

        def __exit__(self, *_: object) -> None:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()


def _watch(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Lets each run know of its timers and its asyncio tasks: one that sleeps, would time out, or does something else
    beside its wait must not be parked.

    The loop has no hook for this, so three of its methods are wrapped while the worker serves.
    """
    call_at, call_later, create_task = loop.call_at, loop.call_later, loop.create_task

    def at(when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        run = CURRENT_RUN.get()
        if run is not None:
            run.note_timer(when)
        return call_at(when, callback, *args, **kwargs)

    def later(delay: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        run = CURRENT_RUN.get()
        if run is not None:
            run.note_timer(loop.time() + delay)
        return call_later(delay, callback, *args, **kwargs)

    def create(coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = create_task(coroutine, **kwargs)
        run = CURRENT_RUN.get()
        if run is not None:
            run.note_task(task)
        return task

    def unwatch() -> None:
        del loop.call_at, loop.call_later, loop.create_task

    loop.call_at, loop.call_later, loop.create_task = at, later, create  # type: ignore[method-assign, assignment]
    return unwatch
