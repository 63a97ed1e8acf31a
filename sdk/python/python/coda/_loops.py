"""The event loop that a worker runs in, and what it must be watched for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from ._context import CURRENT_RUN

__all__: list[str] = []


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop if it is installed: a step costs a third less."""
    try:
        import uvloop  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


#: How many workers serve in a loop.
_watching: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()

if sys.version_info >= (3, 11):

    def runner() -> asyncio.Runner:
        return asyncio.Runner(loop_factory=loop_factory())

else:

    class runner:
        """What this package needs of `asyncio.Runner`."""

        def __enter__(self) -> runner:
            self._loop = (loop_factory() or asyncio.new_event_loop)()
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


def watch(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Lets each run know of its timers and its asyncio tasks: one that sleeps, would time out, or does something else
    beside its wait must not be parked. Returns what ends this.

    The loop has no hook for this, so three of its methods are wrapped while a worker serves in it.
    """
    _watching[loop] = _watching.get(loop, 0) + 1

    def unwatch() -> None:
        _watching[loop] -= 1
        if not _watching[loop]:
            del _watching[loop]
            del loop.call_at, loop.call_later, loop.create_task

    if _watching[loop] > 1:
        return unwatch
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

    loop.call_at, loop.call_later, loop.create_task = at, later, create  # type: ignore[method-assign, assignment]
    return unwatch
