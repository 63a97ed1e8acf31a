"""Requests out in batches, answers back by token. No task, and no wake-up, per message."""

from __future__ import annotations

import copy
import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from ._errors import ClosedError, CodaError, ForkedError, error_of
from ._wire import ANSWERED, OVER, REFUSED, Event, PortLike, Request

__all__: list[str] = []

log = logging.getLogger("coda")

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
        #: What was received and not handled yet: more than nothing only while, or after Ctrl-C has interrupted that.
        self._events: deque[Event] = deque()
        #: Events are being handled: what is asked meanwhile leaves when they all have been.
        self._handling = False

    def batch_with(self, soon: Callable[[Callable[[], None]], object] | None) -> None:
        """Without `soon`, every request is sent at once."""
        self._soon = soon

    @property
    def unanswered(self) -> int:
        """How many requests have no answer yet, less those that no packer has packed."""
        return len(self._pending)

    def ask(self, then: Then, tag: int, *items: Any) -> None:
        token = next(self._tokens)
        self._pending[token] = then
        out = self._out
        if not out and not self._packers:
            self._schedule()
        out.append((tag, token, *items))
        if self._soon is None and not self._handling:
            self.flush()

    def ask_at_once(self, then: Then, tag: int, *items: Any) -> None:
        """As `ask`, but in no batch, and from any thread. `then` follows on the loop."""
        token = next(self._tokens)
        self._pending[token] = then
        self._post([(tag, token, *items)])

    def pack_later(self, pack: Callable[[], None]) -> None:
        """Calls `pack` right before the next batch leaves: it may `ask` for what has been collected until then."""
        if not self._out and not self._packers:
            self._schedule()
        self._packers.append(pack)

    def _schedule(self) -> None:
        if self._soon is not None and not self._handling:
            self._soon(self.flush)

    def flush(self) -> None:
        # The list is emptied last, so that what packers ask for does not schedule another flush.
        for pack in self._packers:
            pack()
        self._packers.clear()
        if self._out:
            batch, self._out = self._out, []
            self._post(batch)

    def _post(self, batch: list[Request]) -> None:
        try:
            self.port.post_batch(batch)
        except RuntimeError as error:
            # The native module knows one error of its own.
            if error.args != ("forked",):
                raise
            for request in batch:
                self._refuse(request[1], ForkedError())

    def drain(self) -> int:
        """Handles what the link has to tell, and sends what that leads to. Returns the number of events."""
        events = self._events
        events.extend(self.port.poll(EVENTS_MAX))
        count = len(events)
        is_outermost, self._handling = not self._handling, True
        try:
            while events:
                event = events.popleft()
                tag = event[0]
                try:
                    if tag == ANSWERED:
                        then = self._pending.pop(event[1], None)
                        if then is not None:
                            then(event[2], None)
                    elif tag == REFUSED:
                        self._refuse(event[1], error_of(event[2], event[3]))
                    else:
                        if tag == OVER:
                            self._end(error_of(event[1], event[2]))
                        self._on_event(event)
                except Exception:
                    log.exception("cannot handle an event of kind %s", tag)
        finally:
            if is_outermost:
                self._handling = False
                self.flush()
        return count

    def _refuse(self, token: int, error: CodaError) -> None:
        then = self._pending.pop(token, None)
        if then is not None:
            then(None, error)

    def _end(self, error: CodaError) -> None:
        """The link has ended: nothing that is still asked will be answered."""
        if self.over is None:
            self.over = error
        pending, self._pending = self._pending, {}
        # A list: a thread that has just completed its task may be adding itself.
        for then in list(pending.values()):
            try:
                # Each its own: tracebacks of several who raise it do not pile up on one.
                then(None, copy.copy(error))
            except Exception:
                log.exception("cannot handle the end of the connection")

    def close(self, timeout: float) -> None:
        self.port.close(timeout)
        self.end()

    def end(self) -> None:
        """What is still asked will not be answered."""
        self._end(ClosedError("the connection is closed: open another one", code="CODA4010"))
