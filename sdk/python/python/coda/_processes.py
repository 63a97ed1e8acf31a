"""Processes for functions that keep a core busy. Bytes go in and out; the function is found by its import path."""

from __future__ import annotations

import functools
import importlib
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._codec import decode_payload
from ._context import CURRENT_TASK, CurrentTask
from ._definitions import Task
from ._failure import failure_of
from ._wire import Outcome, Payload

if TYPE_CHECKING:
    # Imported when a process is needed: a tenth of what `import coda` takes otherwise.
    from concurrent.futures import Future, ProcessPoolExecutor

__all__: list[str] = []


POOL_END_TIMEOUT_S = 5.0


class Processes:
    """A pool that is started when it is first needed, and again when one of its processes has died."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ProcessPoolExecutor | None = None
        #: Kept, not dropped: whoever drops the last reference in a callback of the pool deadlocks with it (CPython).
        self._broken: ProcessPoolExecutor | None = None

    def run(
        self, task: Task[..., Any, Any], payload: Payload, current: CurrentTask, then: Callable[[Outcome], None]
    ) -> None:
        """`then` is called from a thread of the pool."""
        from concurrent.futures.process import BrokenProcessPool

        def ended(future: Future[Outcome]) -> None:
            error = future.exception() if not future.cancelled() else None
            if future.cancelled():
                return
            if isinstance(error, BrokenProcessPool):
                self._replace(pool)
                message = "the process that ran the task died (killed, out of memory, or a crash in native code)"
                then(("coda.ProcessDied", message, "", True))
            elif error is not None:
                then(failure_of(error, False))
            else:
                then(future.result())

        path = (task.fn.__module__, task.fn.__qualname__)
        call = functools.partial(execute, path, list(sys.path), payload, current)
        pool = self._start()
        try:
            future = pool.submit(call)
        except BrokenProcessPool:
            # It has broken, and its callbacks have not said so yet.
            self._replace(pool)
            pool = self._start()
            future = pool.submit(call)
        future.add_done_callback(ended)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        if self._pool is broken:
            self._broken, self._pool = broken, None

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._size, mp_context=spawn, initializer=_initialize)
        return self._pool

    def close(self) -> None:
        if self._pool is None:
            return
        # What still runs is not waited for: its lease is handed back. The pool's exit handler would wait.
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.terminate()
        manager = getattr(self._pool, "_executor_manager_thread", None)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        # Its processes are gone, so it ends at once. Were it still ending when the interpreter does, the
        # two would meet at a pipe that one of them has closed.
        if manager is not None:
            manager.join(POOL_END_TIMEOUT_S)


def _initialize() -> None:
    # Ctrl-C is the worker's to handle: it drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def execute(path: tuple[str, str], sys_path: list[str], payload: Payload, current: CurrentTask) -> Outcome:
    """Runs in the other process. Exceptions stay here: only their description travels."""
    for entry in sys_path:
        if entry not in sys.path:
            sys.path.append(entry)
    task = None
    try:
        task = find(*path)
        CURRENT_TASK.set(current)
        positional, named = task.arguments.received(decode_payload(payload))
        return task.encode_result(task.fn(*positional, **named))
    except (Exception, SystemExit) as error:
        return failure_of(error, task is not None and task.retries.retryable(error))


def find(module: str, qualname: str) -> Task[..., Any, Any]:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Task):
        raise TypeError(
            f"{module}.{qualname} is {found!r} and no task: executor='process' needs the decorated function"
        )
    return found
