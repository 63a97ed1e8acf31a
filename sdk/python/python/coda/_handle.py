"""Handles: what a spawn returns at once, to be awaited later, and as often as one likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from ._errors import CodaError, StepFailed, TaskFailed, step_failed
from ._keys import is_fresh
from ._wire import Outcome, Payload, StepKey

__all__ = ["Handle"]

T = TypeVar("T")


class Step:
    """One step of one execution of a run. Every spawn of its key has its own handle on it."""

    __slots__ = ("cause", "error", "handles", "is_fresh", "key", "outcome")

    def __init__(self, key: StepKey) -> None:
        self.key = key
        #: No other execution will find its result: a spawn with `NO_CACHE`.
        self.is_fresh = is_fresh(key[2])
        self.outcome: Outcome | None = None
        #: Why there is no outcome: the spawn was refused.
        self.error: CodaError | None = None
        #: What an inline step raised.
        self.cause: BaseException | None = None
        self.handles: list[Handle[Any]] = []

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.error is not None

    def end(self, outcome: Outcome, cause: BaseException | None = None) -> None:
        if self.ended:
            return
        self.outcome, self.cause = outcome, cause
        self._tell()

    def refuse(self, error: CodaError) -> None:
        if self.ended:
            return
        self.error = error
        self._tell()

    def _tell(self) -> None:
        handles, self.handles = self.handles, []
        for handle in handles:
            handle._end()


class Waiter(asyncio.Future[None]):
    """What a task is suspended on while it awaits a handle. Its type is how parking knows that it only waits."""


class Handle(asyncio.Future[T]):
    """A step that was spawned. Await it for its result; `asyncio.gather`, `wait`, `wait_for` and `as_completed` work.

    Awaiting raises `coda.StepFailed` when the step has failed for good. Cancelling a handle, or a wait for it, gives
    up that wait and not the step: the step goes on, and the handle can be awaited again.
    """

    # Not `isfuture()`, so that gather, wait_for and shield await it in a task of their own. Otherwise the first of them
    # that is cancelled or times out would cancel it for everybody, for good. asyncio.wait takes it as it is.
    _asyncio_future_blocking = None  # type: ignore[assignment]

    def __init__(
        self,
        step: Step,
        decode: Callable[[Payload], T],
        failed: type[StepFailed] = TaskFailed,
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self._step = step
        self._decode = decode
        self._failed = failed
        self._ended = False
        self._value: Any = None
        self._unreadable: Exception | None = None
        self._waiters: list[Waiter] = []
        if step.ended:
            self._end()
        else:
            step.handles.append(self)

    @property
    def name(self) -> str:
        """The name of the task or workflow."""
        return self._step.key[1]

    def _end(self) -> None:
        self._ended = True
        error = self._error()
        if error is None:
            try:
                self._value = self._decode(self._step.outcome)  # type: ignore[arg-type]
            except Exception as unreadable:
                error = self._unreadable = unreadable
        if not self.done():
            if error is None:
                self.set_result(self._value)
            else:
                self.set_exception(error)
                # A failure that nobody asks for is no news: the cluster has recorded it.
                self._log_traceback = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _error(self) -> Exception | None:
        """A new exception each time, so that tracebacks of several awaits do not pile up on one."""
        step = self._step
        if step.error is not None:
            return type(step.error)(step.error.args[0], code=step.error.code)
        if step.outcome is not None and len(step.outcome) == 4:
            error = step_failed(self._failed, step.key[1], step.outcome)
            if step.cause is not None:
                error.__cause__ = step.cause
            return error
        return self._unreadable

    def __await__(self) -> Generator[Any, None, T]:
        if not self._ended:
            waiter = Waiter(loop=self.get_loop())
            self._waiters.append(waiter)
            try:
                yield from waiter
            except BaseException:
                # Given up, perhaps to wait again, and again.
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
        error = self._error()
        if error is not None:
            raise error
        value: T = self._value
        return value

    __iter__ = __await__

    def __repr__(self) -> str:
        state = "pending" if not self._ended else "succeeded" if self._error() is None else "failed"
        return f"<coda.Handle of {self.name!r}: {state}>"


def only_waits_for_steps(waiting: Any) -> bool:
    """Whether what a task is suspended on can end through the end of a step alone. `False` when in doubt."""
    if isinstance(waiting, Waiter | Handle):
        # One that is done, or cancelled, has resumed its task already, in an iteration to come.
        return not waiting.done()
    if isinstance(waiting, asyncio.Task):
        return waiting.done() or only_waits_for_steps(getattr(waiting, "_fut_waiter", None))
    children = getattr(waiting, "_children", None)
    if isinstance(children, list):
        # asyncio.gather
        return bool(children) and all(child.done() or only_waits_for_steps(child) for child in children)
    return False
