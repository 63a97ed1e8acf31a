"""The runs that a worker has leased: who is told of which step, and which of them give up their slot."""

from __future__ import annotations

import logging
from typing import Any

from ._errors import CodaError
from ._host import Host
from ._ids import text_of
from ._run import Run
from ._wire import RELEASE, WORK_RUN, Event

__all__: list[str] = []

log = logging.getLogger("coda.worker")


class Runs:
    def __init__(self, host: Host) -> None:
        self._host = host
        self._held: dict[tuple[bytes, int], Run] = {}

    def __len__(self) -> int:
        return len(self._held)

    def start(self, event: Event) -> None:
        _, work, lease, _, name, *_ = event
        definition = self._host.app.workflows.get(name)
        if definition is None:
            return self.release(work, lease)
        run = Run(event, definition, self._host, self._over)
        self._held[work, lease] = run
        run.start()

    def _over(self, run: Run) -> None:
        self._held.pop((run.id, run.lease), None)

    def step_ended(self, event: Event) -> None:
        _, work, lease, kind, name, key, outcome, steps_ended = event
        run = self._held.get((work, lease))
        if run is not None:
            run.step_ended((kind, name, key), outcome, steps_ended)

    def steps_seen(self, event: Event) -> None:
        _, work, lease, steps_ended = event
        run = self._held.get((work, lease))
        if run is not None:
            run.steps_seen(steps_ended)

    def lost(self, work: bytes, lease: int) -> None:
        run = self._held.get((work, lease))
        if run is None:
            return self._abandon(work, lease)
        if not run.over:
            log.info("run %s goes on elsewhere: stopped here", text_of(work))
        # One that is being handed back goes on with that, which ends a lost lease as well.
        run.stop(lambda: self._abandon(work, lease))

    def release(self, work: bytes, lease: int) -> None:
        self._host.channel.ask(_released, RELEASE, WORK_RUN, work, lease)

    def _abandon(self, work: bytes, lease: int) -> None:
        self._host.channel.port.abandon(WORK_RUN, work, lease)

    def park_idle(self, idle_seconds: float) -> None:
        for run in list(self._held.values()):
            run.park_if_idle(idle_seconds)

    # The end

    def let_go_of_waiting(self) -> None:
        """A run that only waits continues elsewhere, from its memo."""
        for run in list(self._held.values()):
            if run.only_waits():
                self._let_go(run)

    def let_go(self) -> None:
        """Stops what still runs, and hands it back."""
        for run in list(self._held.values()):
            self._let_go(run)

    def _let_go(self, run: Run) -> None:
        run.stop(lambda: self.release(run.id, run.lease))

    def cancel_again(self, after_seconds: float) -> int:
        """What goes on so long after it was cancelled. Returns how much there is of it."""
        long_ago = self._host.loop.time() - after_seconds
        stubborn = [run for run in self._held.values() if run.over and run.cancelled_at <= long_ago]
        for run in stubborn:
            run.cancel()
        return len(stubborn)

    def give_up(self) -> None:
        """What has not stopped by now is not waited for."""
        for run in list(self._held.values()):
            run.stopped()


def _released(_: Any, error: CodaError | None) -> None:
    if error is not None:
        log.debug("a lease was not handed back: %s", error)
