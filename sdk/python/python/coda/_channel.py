"""Requests out in batches, answers back by token. No task, and no wake-up, per message."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

from ._errors import ClosedError, CodaError, ForkedError, error_of
from ._wire import ANSWERED, OVER, REFUSED, Event, PortLike, Request

__all__: list[str] = []

#: Called once with a reply, or with an error.
Then: TypeAlias = Callable[[Any, CodaError | None], None]

# Events that one wake-up handles before other callbacks of the loop get their turn.
EVENTS_MAX = 1_024


class Channel:
    """One connection. `soon` runs a function a little later, once for many requests: `loop.call_soon`."""

    def __init__(self, port: PortLike, on_event: Callable[[Event], None]) -> None:
        self.port = port
        self.over: CodaError | None = None
        self._on_event = on_event
        self._soon: Callable[[Callable[[], None]], object] | None = None
        self._out: list[Request] = []
        self._packers: list[Callable[[], None]] = []
        self._pending: dict[int, Then] = {}
        self._tokens = itertools.count(1)

    def batch_with(self, soon: Callable[[Callable[[], None]], object] | None) -> None:
        """Without `soon`, every request is sent at once."""
        self._soon = soon

    def ask(self, then: Then, tag: int, *items: Any) -> None:
        token = next(self._tokens)
        self._pending[token] = then
        out = self._out
        if not out and not self._packers:
            self._schedule()
        out.append((tag, token, *items))
        if self._soon is None:
            self.flush()

    def pack_later(self, pack: Callable[[], None]) -> None:
        """Calls `pack` right before the next batch leaves: it may `ask` for what has been collected until then."""
        if not self._out and not self._packers:
            self._schedule()
        self._packers.append(pack)

    def _schedule(self) -> None:
        if self._soon is not None:
            self._soon(self.flush)

    def flush(self) -> None:
        # The list is emptied last, so that what packers ask for does not schedule another flush.
        for pack in self._packers:
            pack()
        self._packers.clear()
        if self._out:
            batch, self._out = self._out, []
            try:
                self.port.post_batch(batch)
            except RuntimeError as error:
                for request in batch:
                    self._pending.pop(request[1], None)
                raise translated(error) from None

    def drain(self) -> int:
        """Handles what the link has to tell. Returns the number of events."""
        events = self.port.poll(EVENTS_MAX)
        pending, on_event = self._pending, self._on_event
        for event in events:
            tag = event[0]
            if tag == ANSWERED:
                then = pending.pop(event[1], None)
                if then is not None:
                    then(event[2], None)
            elif tag == REFUSED:
                then = pending.pop(event[1], None)
                if then is not None:
                    then(None, error_of(event[2], event[3]))
            else:
                if tag == OVER:
                    self._end(error_of(event[1], event[2]))
                on_event(event)
        return len(events)

    def _end(self, error: CodaError) -> None:
        """The link has ended: nothing that is still asked will be answered."""
        if self.over is None:
            self.over = error
        pending, self._pending = self._pending, {}
        for then in pending.values():
            then(None, error)

    def close(self, timeout: float) -> None:
        self.port.close(timeout)
        self.end()

    def end(self) -> None:
        """What is still asked will not be answered."""
        self._end(ClosedError("the connection is closed: open another client", code="CODA4010"))


def translated(error: RuntimeError) -> Exception:
    """The native module knows one error of its own."""
    return ForkedError() if error.args == ("forked",) else error
