"""The worker: leases in, functions called, outcomes out.

serving ──stop(), SIGTERM──▶ draining ──all ended, timeout, or hurried──▶ handing back ──▶ closed
                             takes nothing new,                           cancels what still runs and releases it;
                             lets tasks end                               what ignores that is released all the same

One wake-up handles whatever has arrived and sends whatever has ended, in one batch each. Deliberately
absent: credit, reconnects, memo pages and retries of requests, which the native link keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Collection
from typing import Any

from ._channel import Channel
from ._errors import CodaError, ConnectError, EventLoopError
from ._host import Host
from ._ids import new_id
from ._loops import runner, watch
from ._native import VERSION, Port
from ._processes import Processes
from ._runs import Runs
from ._served import Slots, Source, app_of, lines_of, thread_count
from ._tasks import Tasks
from ._threads import Threads
from ._wire import (
    CONNECTED,
    DISCONNECTED,
    LOST,
    OVER,
    RUN,
    SEEN,
    STEP,
    TASK,
    WORK_RUN,
    Event,
    PortLike,
)

__all__ = ["Worker"]

log = logging.getLogger("coda.worker")

# After the drain timeout: for cancelled code to notice, then for the last answers.
_LAST_WORDS_SECONDS = 3.0
_ANSWERS_SECONDS = 2.0
_DRAIN_CHECK_SECONDS = 0.02
# How often a worker looks for runs to park, at the least, and for answers that nothing has hurried.
_ROUND_SECONDS_MAX = 5.0
_ROUND_SECONDS_MIN = 0.01
# Cancelled code may have to clean up. After this it is taken to have swallowed its cancellation.
_PATIENCE_SECONDS = 30.0
# The goodbye leaves within a moment, or not at all.
_GOODBYE_SECONDS = 1.0


class Worker:
    """Executes tasks and workflows in this process.

    >>> coda.Worker([charge, ship_order]).run()        # until SIGTERM or Ctrl-C
    >>> await coda.Worker(app, queues=["billing"]).serve()

    The first argument is an `App`, a module, or tasks and workflows. `coda-worker` runs several of these and replaces
    those that die.

    Args:
        source: What to serve. `ValueError` if there is nothing in it.
        address: `host:port` of one or more nodes, separated by commas. Without it the cluster is found as
            `coda.Client` finds it.
        ca: The file with the cluster's CA certificate, in PEM.
        queues: Serve these only. Otherwise those that the decorators name.
        concurrency: Async tasks at once, per queue.
        threads: Other tasks at once, per queue.
        processes: Tasks with `executor="process"` at once, per queue. The cores, unless told otherwise.
        runs: Runs of workflows at once, per queue. They mostly wait.
        drain_timeout: Seconds that tasks may take to end after `stop()`.
        park_after: A run that has only waited for so many seconds gives its slot up until a step ends, and then runs
            again from the top.
        connect_timeout: Seconds to wait for a first node. Later it reconnects for ever.
        session: The worker's identity, 16 bytes; a supervisor gives it, to end it if the worker dies.
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
        self.drain_timeout = drain_timeout
        self._park_after = park_after
        self._connect_timeout = connect_timeout
        self._session = session
        self._tasks: Tasks
        self._runs: Runs
        #: How often it was asked to stop.
        self._stops = 0
        self._draining = False
        self._error: CodaError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[Any] | None = None
        self._wake: asyncio.Event
        self._on = {
            TASK: self._on_task,
            RUN: self._on_run,
            STEP: lambda event: self._runs.step_ended(event),
            SEEN: lambda event: self._runs.steps_seen(event),
            LOST: self._on_lost,
            CONNECTED: self._on_connected,
            DISCONNECTED: self._on_disconnected,
            OVER: self._on_over,
        }

    # Life

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. A second signal hurries, a third one waits for nothing.

        In another thread than the main one, signals are not ours: call `stop()`.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise EventLoopError("Worker.run() blocks, and an event loop is running here: `await worker.serve()`")
        with runner() as loop:
            loop.run(self._run_until_signal())

    async def _run_until_signal(self) -> None:
        loop = asyncio.get_running_loop()
        is_main = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            await self.serve()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Takes no further work and lets what runs end, up to the drain timeout. From any thread.

        A second call hurries: what runs is cancelled and handed back. A third one does not wait for that.
        """
        self._stops += 1
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                # The loop may be closed by now.
                loop.call_soon_threadsafe(self._wake.set)

    async def serve(self, port: PortLike | None = None, *, on_serving: Callable[[], None] | None = None) -> None:
        """Serves in the running loop until `stop()`. Cancelling it hands everything back at once.

        `on_serving` is called when the node knows of this worker. Raises `coda.ConnectError` if there is no usable
        cluster.
        """
        if self._serving is not None:
            raise RuntimeError("this worker has served already: make another one")
        self._serving = asyncio.current_task()
        self._on_serving = on_serving
        self._wake = asyncio.Event()
        self._loop = loop = asyncio.get_running_loop()
        on = self._on
        self._channel = channel = Channel(port or self._open(), lambda event: on[event[0]](event))
        threads = Threads(thread_count(self.app, self.lines, self._slots), loop)
        processes = Processes(self._slots.processes)
        host = Host(self.app, channel, loop, threads, self._is_torn_down)
        self._tasks, self._runs = Tasks(host, processes), Runs(host)
        channel.batch_with(loop.call_soon)
        fd = channel.port.fileno()
        unwatch = watch(loop)
        rounds = loop.create_task(self._make_rounds())
        loop.add_reader(fd, channel.drain)
        try:
            while not self._stops and self._error is None:
                self._wake.clear()
                await self._wake.wait()
            if self._error is None:
                await self._drain()
        finally:
            rounds.cancel()
            try:
                await self._hand_back()
            finally:
                loop.remove_reader(fd)
                channel.flush()
                channel.close(_GOODBYE_SECONDS)
                threads.close()
                processes.close()
                unwatch()
        if self._error is not None:
            raise self._error

    def _open(self) -> Port:
        served = [line.wire() for line in self.lines]
        agent = f"coda-python/{VERSION}"
        session = self._session or new_id()
        files = {"cert": self._cert, "key": self._key}
        return Port(self._address, self._ca, session, agent, self._connect_timeout, served, **files)

    def _is_torn_down(self) -> bool:
        # Pythons before 3.11 do not tell.
        return self._serving is not None and bool(getattr(self._serving, "cancelling", int)())

    async def _make_rounds(self) -> None:
        while True:
            await asyncio.sleep(min(max(self._park_after / 4, _ROUND_SECONDS_MIN), _ROUND_SECONDS_MAX))
            # Answers that only say "done" wake nobody.
            self._channel.drain()
            self._runs.park_idle(self._park_after)
            self._cancel_again()

    def _cancel_again(self) -> None:
        stubborn = self._tasks.cancel_again(_PATIENCE_SECONDS) + self._runs.cancel_again(_PATIENCE_SECONDS)
        if stubborn:
            log.warning("%d tasks or runs go on although they were cancelled: cancelled again", stubborn)

    # The end

    async def _drain(self) -> None:
        log.info("draining: %d tasks and %d runs are in progress", len(self._tasks), len(self._runs))
        self._take_no_more()

        def drained() -> bool:
            self._runs.let_go_of_waiting()
            return self._stops > 1 or self._error is not None or self._is_empty()

        if not await self._until(drained, self.drain_timeout):
            log.warning("%d tasks and %d runs did not end in time: handed back", len(self._tasks), len(self._runs))

    async def _hand_back(self) -> None:
        """Ends every lease that is still held, so that the node hands its work out at once and as not lost.

        Being cancelled meanwhile hurries this, and counts when it is done.
        """
        self._take_no_more()
        self._runs.let_go()
        self._tasks.let_go()
        # Cancelled, and cancelled again while it ends: what is left is done without waiting.
        try:
            await self._until(lambda: self._stops > 2 or self._is_empty(), _LAST_WORDS_SECONDS)
        finally:
            self._runs.give_up()
            self._tasks.give_up()
            await self._until(self._is_empty, _ANSWERS_SECONDS)

    def _take_no_more(self) -> None:
        if not self._draining:
            self._draining = True
            self._channel.port.drain()

    def _is_empty(self) -> bool:
        """Nothing is executed, the node has answered everything, and the link holds no lease that we do not know of."""
        channel = self._channel
        channel.drain()
        if self._tasks or self._runs:
            return False
        return channel.over is not None or not (channel.unanswered or channel.port.held())

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        assert self._loop is not None
        deadline = self._loop.time() + seconds
        while not done():
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(_DRAIN_CHECK_SECONDS)
        return True

    # Events

    def _on_task(self, event: Event) -> None:
        if self._draining:
            return self._tasks.release((event[1], event[2]))
        self._tasks.start(event)

    def _on_run(self, event: Event) -> None:
        if self._draining:
            return self._runs.release(event[1], event[2])
        self._runs.start(event)

    def _on_lost(self, event: Event) -> None:
        _, kind, work, lease = event
        if kind == WORK_RUN:
            self._runs.lost(work, lease)
        else:
            self._tasks.lost((work, lease))

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
        if self._on_serving is not None:
            self._on_serving()

    def _on_disconnected(self, _: Event) -> None:
        if not self._draining:
            log.warning("disconnected: trying again, work in progress goes on")

    def _on_over(self, event: Event) -> None:
        if self._error is None:
            self._error = self._channel.over or ConnectError(event[2], code=event[1])
        self._wake.set()
