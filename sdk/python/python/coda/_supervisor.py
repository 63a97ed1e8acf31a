"""Keeps worker processes alive.

start ──▶ UP ──dies──▶ end its session (its leases return at once) ──▶ wait, longer each time ──▶ start
          │ ▲                                                             └─ too often ──▶ give up
      source changed: SIGTERM, drain, start
          ▼
      stopping: SIGTERM, drain; again: SIGTERM, hurry; again, or overdue: SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import _reload
from ._calls import Call
from ._child import CHILD, PARENT, SESSION
from ._cli import EXIT_DYING, EXIT_NO_CLUSTER, EXIT_OK, EXIT_USAGE, Options
from ._client_async import AsyncClient
from ._errors import CodaError
from ._ids import new_id, text_of
from ._wire import END_SESSION

__all__: list[str] = []

log = logging.getLogger("coda.worker")

RESTARTS_MAX = 10
RESTARTS_WITHIN_SECONDS = 60.0
_DELAY_MIN_SECONDS = 0.1
_DELAY_MAX_SECONDS = 10.0
# A process that lived this long was a good one: delays start again from the smallest.
_STABLE_SECONDS = 10.0
_END_SESSION_SECONDS = 5.0
# Beyond the drain timeout, for handing back and saying goodbye.
_GRACE_SECONDS = 10.0

EndSession = Callable[[bytes], Awaitable[None]]


@dataclass
class Restarts:
    """When to start a process that has died, or not at all. Pure: time arrives as a number."""

    _deaths: deque[float] = field(default_factory=deque)
    _delay: float = _DELAY_MIN_SECONDS

    def on_death(self, now: float, lived: float) -> float | None:
        """Seconds to wait before the next start; `None` to give up."""
        self._deaths.append(now)
        while self._deaths and self._deaths[0] <= now - RESTARTS_WITHIN_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) > RESTARTS_MAX:
            return None
        if lived >= _STABLE_SECONDS:
            self._delay = _DELAY_MIN_SECONDS
        delay, self._delay = self._delay, min(self._delay * 2, _DELAY_MAX_SECONDS)
        return delay


class Supervisor:
    def __init__(self, command: Sequence[str], count: int, drain_timeout: float, end_session: EndSession) -> None:
        self._command = list(command)
        self._count = count
        self._drain_timeout = drain_timeout
        self._end_session = end_session
        self._children: dict[int, asyncio.subprocess.Process] = {}
        #: Children that were asked to end, to be started again.
        self._renewing: set[asyncio.subprocess.Process] = set()
        self._signals = 0
        self._code = EXIT_OK
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, changes: Path | None = None) -> int:
        """Returns the exit code. `changes` is the folder whose source files are watched."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.on_signal)
        watcher = None if changes is None else loop.create_task(self._renew_on_changes(changes))
        keepers = [loop.create_task(self._keep(number, changes is not None)) for number in range(1, self._count + 1)]
        killer = loop.create_task(self._kill_when_overdue())
        try:
            await asyncio.gather(*keepers)
        finally:
            for task in (killer, *([watcher] if watcher else ())):
                task.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        return self._code

    def on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            log.info("stopping: %d processes drain for up to %g s", len(self._children), self._drain_timeout)
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._send(signal.SIGTERM if self._signals <= 2 else signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    async def _kill_when_overdue(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._drain_timeout + _GRACE_SECONDS)
        log.warning("%d processes did not end in time: killed", len(self._children))
        self._send(signal.SIGKILL)

    async def _keep(self, number: int, is_reloading: bool) -> None:
        loop = asyncio.get_running_loop()
        # Each process has its own: a fleet that loses many at once is not a process that cannot live.
        restarts = Restarts()
        while not self._stopping.is_set():
            session = new_id()
            started = loop.time()
            child = await self._start(number, session)
            code = await child.wait()
            del self._children[number]
            if child in self._renewing:
                self._renewing.discard(child)
                continue
            if code != EXIT_OK:
                await self._give_back(session)
            if self._stopping.is_set():
                return
            if code in (EXIT_USAGE, EXIT_NO_CLUSTER):
                # It has said why, and would say it again.
                if is_reloading and code == EXIT_USAGE:
                    log.info("waiting for a change")
                    await self._first(self._changed.wait())
                    continue
                return self._give_up(code)
            delay = restarts.on_death(loop.time(), loop.time() - started)
            if delay is None:
                log.error(
                    "giving up: worker-%d died %d times in %g s", number, RESTARTS_MAX + 1, RESTARTS_WITHIN_SECONDS
                )
                return self._give_up(EXIT_DYING)
            log.error("worker-%d[%d] %s: next start in %g s", number, child.pid, _death(code), delay)
            await self._first(asyncio.sleep(delay))

    async def _start(self, number: int, session: bytes) -> asyncio.subprocess.Process:
        environment = {CHILD: str(number), PARENT: str(os.getpid()), SESSION: text_of(session)}
        # In a session of its own, so that Ctrl-C reaches the supervisor alone, which then drains all in order.
        child = await asyncio.create_subprocess_exec(
            *self._command, env=os.environ | environment, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        self._children[number] = child
        if self._stopping.is_set():
            # Asked while it was being started.
            self.stop()
        return child

    async def _give_back(self, session: bytes) -> None:
        try:
            await asyncio.wait_for(self._end_session(session), _END_SESSION_SECONDS)
        except (CodaError, asyncio.TimeoutError) as error:
            log.warning("its leases return when the node notices that it is gone (%s)", error or "no answer")

    def _give_up(self, code: int) -> None:
        self._code = code
        self.stop()

    async def _first(self, wait: Awaitable[object]) -> None:
        """Waits for this, or for the end."""
        tasks = [asyncio.ensure_future(wait), asyncio.ensure_future(self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _renew_on_changes(self, folder: Path) -> None:
        async for path in _reload.changes(folder):
            log.info("%s has changed: starting again", path)
            self._changed.set()
            self._changed = asyncio.Event()
            for child in self._children.values():
                self._renewing.add(child)
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


class Sessions:
    """Ends sessions of dead children through a connection of the supervisor's own."""

    def __init__(self, address: str | None, ca: str | None, cert: str | None = None, key: str | None = None) -> None:
        self._address, self._ca, self._cert, self._key = address, ca, cert, key
        self._client: AsyncClient | None = None

    async def end(self, session: bytes) -> None:
        if self._client is None:
            self._client = self._open()
        try:
            await self._client._ask(Call(END_SESSION, (session,), lambda _: None))
        except CodaError:
            # A connection that has ended for good does not come back. The next death opens another one.
            await self.close()
            raise

    async def connect(self) -> None:
        """Ahead of need, so that the first death costs no handshake. A failure is the children's to report."""
        self._client = self._open()
        try:
            await self._client.__aenter__()
        except CodaError:
            await self.close()

    def _open(self) -> AsyncClient:
        return AsyncClient(self._address, self._ca, cert=self._cert, key=self._key)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def supervise(command: Sequence[str], options: Options) -> int:
    async def run() -> int:
        sessions = Sessions(options.address, options.ca, options.cert, options.key)
        connecting = asyncio.create_task(sessions.connect())
        supervisor = Supervisor(command, options.processes, options.drain_timeout, sessions.end)
        try:
            return await supervisor.run(Path.cwd() if options.reload else None)
        finally:
            connecting.cancel()
            await sessions.close()

    return asyncio.run(run())
