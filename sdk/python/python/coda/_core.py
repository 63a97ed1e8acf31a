"""What both clients are made of: a connection that is opened when it is first used, and handles of what was started.

Knows neither threads nor event loops: `Client` guards a `Core` with a lock, `AsyncClient` uses it in one loop.
"""

from __future__ import annotations

import atexit
import copy
import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import _app
from ._app import App
from ._calls import Call, Waits, Work
from ._channel import Channel, Then
from ._errors import ClosedError, CodaError, ForkedError, ResultTimeout
from ._ids import new_id
from ._native import VERSION, Port
from ._wire import CONNECTED, OVER, Event, PortLike

__all__: list[str] = []

T = TypeVar("T")
C = TypeVar("C")

CONNECT_SECONDS = 10.0
# The goodbye leaves within a moment, or not at all.
GOODBYE_SECONDS = 0.5
# Those at exit are a courtesy.
_EXIT_SECONDS = 0.1
_open_ports: weakref.WeakSet[Any] = weakref.WeakSet()


class Core:
    def __init__(self, app: App | None, open: Callable[[], PortLike]) -> None:
        #: Whose names it knows.
        self.app = _app.DEFAULT if app is None else app
        self.channel: Channel | None = None
        self.waits: Waits
        self.is_closed = False
        self._pid = os.getpid()
        self._open = open
        #: Who waits for the first connection; `None` when it is there, or never will be.
        self._connecting: list[Then] | None = []

    @property
    def is_forked(self) -> bool:
        """This is a child of the process whose connection it is."""
        return self._pid != os.getpid()

    def attach(self) -> Channel:
        """The connection, opened if it was not."""
        if self.is_forked:
            raise ForkedError
        if self.is_closed:
            raise ClosedError("this client is closed: open another one", code="CODA4010")
        if self.channel is None:
            self.channel = Channel(self._open(), self._on_event)
            self.waits = Waits(self.channel)
        return self.channel

    def detach(self) -> Channel | None:
        """The end of its use. Returns the connection that is to be closed, once."""
        channel = None if self.is_closed else self.channel
        self.is_closed = True
        return channel

    def when_connected(self, then: Then) -> None:
        """Calls `then` when the first connection is there, or has failed for good."""
        if self._connecting is None:
            then(None, None)
        else:
            self._connecting.append(then)

    def forget_who_waits(self) -> None:
        if self._connecting is not None:
            self._connecting = []

    def _on_event(self, event: Event) -> None:
        if event[0] not in (CONNECTED, OVER) or self._connecting is None:
            return
        waiting, self._connecting = self._connecting, None
        error = self.channel.over if event[0] == OVER and self.channel else None
        for then in waiting:
            # Each its own: tracebacks of several who raise it do not pile up on one.
            then(None, copy.copy(error))

    def ask(self, call: Call[Any], then: Then) -> None:
        self.attach().ask(then, call.tag, *call.items)

    def run(self, call: Call[Any], work: Work[Any], ended: Then) -> None:
        """Asks for a start, and for the result as soon as that is answered: nobody is woken in between."""

        def started(_: Any, error: CodaError | None) -> None:
            if error is None:
                self.waits.add(work, ended)
            else:
                ended(None, error)

        self.attach().ask(started, call.tag, *call.items)


def no_result(work: Work[Any], timeout: float | None) -> ResultTimeout:
    return ResultTimeout(f"`{work.name}` {work.text} has no result after {timeout} s; it goes on", code="CODA5004")


def open_port(
    address: str | None,
    ca: str | os.PathLike[str] | None,
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
    connect_timeout: float,
) -> Port:
    ca, cert, key = (None if file is None else os.fspath(file) for file in (ca, cert, key))
    port = Port(address, ca, new_id(), f"coda-python/{VERSION}", connect_timeout, cert=cert, key=key)
    _open_ports.add(port)
    return port


@atexit.register
def _say_goodbye() -> None:
    for port in list(_open_ports):
        port.close(_EXIT_SECONDS)


class Started(Generic[C, T]):
    """What was started through a client of type `C`, with a result of type `T`."""

    def __init__(self, client: C, work: Work[T]) -> None:
        self._client, self._work = client, work

    @property
    def id(self) -> str:
        """A UUID. `client.handle(id)`, or `client.task_handle(id)`, is this handle again, in any process."""
        return self._work.text

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} of {self._work.name!r} {self.id}>"
