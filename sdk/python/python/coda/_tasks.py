"""The tasks that a worker has leased: each is executed, and each lease ends once.

lease ──▶ HELD ──returns or raises──▶ completed
            │
   lost, or handed back (drain)
            ▼
         STOPPING ──stopped, or not waited for any longer──▶ abandoned, or released
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from ._codec import decode_payload
from ._context import CURRENT_TASK, current_of
from ._definitions import Task
from ._errors import CodaError, Rejected
from ._failure import failure_of
from ._host import Host
from ._ids import text_of
from ._processes import Processes
from ._wire import COMPLETE_TASK, RELEASE, WORK_TASK, Event, Outcome

__all__: list[str] = []

log = logging.getLogger("coda.worker")

#: One lease of one task.
Hold = tuple[bytes, int]

_GONE: Final = object()


class Tasks:
    """Whoever takes a lease out of `_held` is the one that ends it: the loop, or the thread that has executed it."""

    def __init__(self, host: Host, processes: Processes) -> None:
        self._host = host
        self._channel = host.channel
        self._processes = processes
        #: What is executed, and its asyncio task if it is one.
        self._held: dict[Hold, asyncio.Task[None] | None] = {}
        #: What was cancelled and has not stopped yet.
        self._stopping: dict[Hold, _Stopping] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._stopping)

    def start(self, event: Event) -> None:
        _, work, lease, _, name, *_ = event
        hold = (work, lease)
        task = self._host.app.tasks.get(name)
        if task is None:
            return self.release(hold)
        self._held[hold] = None
        try:
            self._begin(task, event, hold)
        except Exception as error:
            # No process could be started, say.
            log.exception("task %s could not be started", name)
            self._end(hold, failure_of(error, True))

    def _begin(self, task: Task[..., Any, Any], event: Event, hold: Hold) -> None:
        how = task.executor
        if how == "loop":
            running = self._start(self._execute(task, event, hold))
            if hold in self._held:
                self._held[hold] = running
        elif how == "thread":
            self._host.threads.run(lambda: self._execute_in_thread(task, event, hold))
        else:

            def then(outcome: Outcome) -> None:
                # The loop may be closed by now.
                with contextlib.suppress(RuntimeError):
                    self._host.loop.call_soon_threadsafe(self._end, hold, outcome)

            self._processes.run(task, event[5], current_of(event), then)

    if sys.version_info >= (3, 12):

        def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            # Runs up to its first wait here and now: most short tasks never need the loop.
            return asyncio.Task(coroutine, loop=self._host.loop, eager_start=True)

    else:

        def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return self._host.loop.create_task(coroutine)

    async def _execute(self, task: Task[..., Any, Any], event: Event, hold: Hold) -> None:
        CURRENT_TASK.set(event)
        outcome: Outcome
        try:
            positional, named = task.arguments.received(decode_payload(event[5]))
            outcome = task.encode_result(await task.fn(*positional, **named))
        except BaseException as error:
            if hold not in self._held:
                # Dropped by us, and cancelled for it.
                return
            if self._host.interrupts(error):
                del self._held[hold]
                self.release(hold)
                raise
            outcome = failure_of(error, task.retries.retryable(error))
        self._end(hold, outcome)

    def _execute_in_thread(self, task: Task[..., Any, Any], event: Event, hold: Hold) -> None:
        # What is handed back, or lost, before a thread is free does not run at all.
        if hold in self._held:
            self._end_at_once(hold, _call(task, event))

    # How a lease ends

    def _end(self, hold: Hold, outcome: Outcome) -> None:
        if self._held.pop(hold, _GONE) is not _GONE:
            self._complete(hold, outcome)

    def _end_at_once(self, hold: Hold, outcome: Outcome) -> None:
        """In the thread that has executed it: the loop need not wake for this."""
        if self._held.pop(hold, _GONE) is not _GONE:
            self._channel.ask_at_once(self._completed(hold, outcome), COMPLETE_TASK, *hold, outcome)

    def _complete(self, hold: Hold, outcome: Outcome) -> None:
        self._channel.ask(self._completed(hold, outcome), COMPLETE_TASK, *hold, outcome)

    def _completed(self, hold: Hold, outcome: Outcome) -> Callable[[Any, CodaError | None], None]:
        def completed(_: Any, error: CodaError | None) -> None:
            if error is None:
                return
            if isinstance(error, Rejected) and len(outcome) == 2:
                # The result cannot be recorded. Say so in its place.
                return self._complete(hold, failure_of(error, False))
            log.warning("the outcome of task %s was not recorded: %s", text_of(hold[0]), error)
            self._abandon(hold)

        return completed

    def release(self, hold: Hold) -> None:
        self._channel.ask(_released, RELEASE, WORK_TASK, *hold)

    def _abandon(self, hold: Hold) -> None:
        self._channel.port.abandon(WORK_TASK, *hold)

    # What is not wanted any more

    def lost(self, hold: Hold) -> None:
        if hold in self._stopping:
            # It is being handed back, which ends a lost lease as well.
            return
        if hold in self._held:
            log.info("task %s is not ours any more: its result will not count", text_of(hold[0]))
        self._drop(hold, self._abandon)

    def let_go(self) -> None:
        """Stops what still runs, and hands it back."""
        for hold in list(self._held):
            self._drop(hold, self.release)

    def _drop(self, hold: Hold, then: Callable[[Hold], None]) -> None:
        """Stops a task whose outcome does not count any more. A thread cannot be stopped: its result is discarded."""
        running = self._held.pop(hold, None)
        if running is None or running.done():
            return then(hold)
        self._stopping[hold] = _Stopping(running, then, self._host.loop.time())
        running.add_done_callback(lambda _: self._stopped(hold))
        running.cancel()

    def _stopped(self, hold: Hold) -> None:
        stopping = self._stopping.pop(hold, None)
        if stopping is not None:
            stopping.then(hold)

    def cancel_again(self, after_seconds: float) -> int:
        """What goes on so long after it was cancelled. Returns how much there is of it."""
        now = self._host.loop.time()
        stubborn = [each for each in self._stopping.values() if now - each.cancelled_at >= after_seconds]
        for each in stubborn:
            each.cancelled_at = now
            each.running.cancel()
        return len(stubborn)

    def give_up(self) -> None:
        """What has not stopped by now is not waited for."""
        for hold in list(self._stopping):
            self._stopped(hold)


@dataclass
class _Stopping:
    running: asyncio.Task[None]
    #: What is to be said of its lease when it has stopped.
    then: Callable[[Hold], None]
    cancelled_at: float


def _released(_: None, error: CodaError | None) -> None:
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
