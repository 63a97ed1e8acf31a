"""Threads for functions that block. Finished calls come back to the loop in batches, with one wake-up each."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

__all__: list[str] = []

log = logging.getLogger("coda.worker")

Then: TypeAlias = Callable[[Any, "BaseException | None"], None]
_Job: TypeAlias = tuple[contextvars.Context, Callable[[], Any], "Then | None"]


class Threads:
    """At most `size` daemon threads, started as needed: a function that never returns cannot hold up the exit.

    `concurrent.futures` would do, at three times the cost per call and with threads that the exit waits for.
    """

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self._size = size
        self._loop = loop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = 0
        #: One entry for each thread that waits for a job and is not counted upon yet. Kept until all are started.
        self._idle: deque[None] = deque()
        self._done: deque[tuple[Then, Any, BaseException | None]] = deque()
        self._wakes = False
        self._lock = threading.Lock()

    def run(self, call: Callable[[], Any], then: Then | None = None) -> None:
        """Calls in a thread, in a copy of the current context; `then` follows on the loop."""
        if self._threads < self._size:
            try:
                self._idle.pop()
            except IndexError:
                self._threads += 1
                threading.Thread(target=self._work, name=f"coda-task-{self._threads}", daemon=True).start()
        self._jobs.put((contextvars.copy_context(), call, then))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            context, call, then = job
            try:
                result, error = context.run(call), None
            except BaseException as raised:
                result, error = None, raised
            # Nothing of a job may live on while its thread waits for the next one.
            del job, context, call
            if then is not None and not self._come_back(then, result, error):
                return
            if then is None and error is not None:
                log.error("a callback failed", exc_info=error)
            del then, result, error
            if self._threads < self._size:
                self._idle.append(None)

    def _come_back(self, then: Then, result: Any, error: BaseException | None) -> bool:
        self._done.append((then, result, error))
        with self._lock:
            wake, self._wakes = not self._wakes, True
        if wake:
            try:
                self._loop.call_soon_threadsafe(self._collect)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return False
        return True

    def _collect(self) -> None:
        with self._lock:
            self._wakes = False
        done = self._done
        while done:
            then, result, error = done.popleft()
            try:
                then(result, error)
            except Exception:
                log.exception("a callback failed")

    def close(self) -> None:
        """Idle threads end; busy ones when they are done."""
        for _ in range(self._threads):
            self._jobs.put(None)
