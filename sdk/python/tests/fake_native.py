"""A cluster in one file, in memory: what `_native.Port` is to the SDK, with the meaning of each request.

Enough of the rules to test workflows, workers and clients without a node: memo, leases, retries, parking.
Time stands still: delays and backoff take none. The real rules are `crates/engine`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from coda import _wire as wire
from coda._ids import new_id
from coda._wire import Event, Outcome, Request, Served, StepKey


@dataclass
class FakeWork:
    kind: int
    id: bytes
    name: str
    queue: str
    payload: wire.Payload
    policy: wire.Policy
    parent: tuple[FakeWork, StepKey] | None = None
    state: str = "ready"
    lease: int | None = None
    holder: FakePort | None = None
    attempts: int = 0
    failures: int = 0
    lost: int = 0
    outcome: Outcome | None = None
    # Of runs.
    memo: dict[StepKey, Outcome] = field(default_factory=dict)
    pending: set[StepKey] = field(default_factory=set)
    steps_ended: int = 0
    run_attempt: int = 1


class FakeCluster:
    """Hands work to ports that serve it. `journal` is every request in its order."""

    def __init__(self) -> None:
        self.work: dict[bytes, FakeWork] = {}
        self.ready: deque[FakeWork] = deque()
        self.ports: list[FakePort] = []
        self.waiting: dict[bytes, list[tuple[FakePort, int]]] = {}
        self.journal: list[Request] = []
        self.batches: list[int] = []
        self.refuse: dict[int, tuple[str, str]] = {}
        self.paused: set[str] = set()
        self._lease = 0
        # Threads that have executed a task complete it themselves.
        self.lock = threading.RLock()

    def port(self, served: list[Served] | None = None) -> FakePort:
        with self.lock:
            port = FakePort(self, served)
            self.ports.append(port)
            port.tell((wire.CONNECTED, True, 1, "fake"))
            self.hand_out()
            return port

    def requests(self, tag: int) -> list[Request]:
        return [request for request in self.journal if request[0] == tag]

    # Requests

    def handle(self, port: FakePort, request: Request) -> None:
        self.journal.append(request)
        tag, token, *items = request
        if tag in self.refuse:
            port.tell((wire.REFUSED, token, *self.refuse[tag]))
            return
        answer = getattr(self, f"_on_{tag}")(port, token, *items)
        if answer is not NotYet:
            port.tell(answer if isinstance(answer, Refusal) else (wire.ANSWERED, token, answer), token)
        self.hand_out()

    def _accept(self, kind: int, id: bytes, name: str, queue: str, payload: Any, policy: Any) -> bool:
        if id in self.work:
            return True
        self.work[id] = work = FakeWork(kind, id, name, queue, payload, policy)
        self.ready.append(work)
        return False

    def _on_0(self, port: FakePort, token: int, id: bytes, name: str, queue: str, payload: Any, *rest: Any) -> Any:
        return self._accept(wire.WORK_RUN, id, name, queue, payload, rest[1])

    def _on_1(self, port: FakePort, token: int, id: bytes, name: str, queue: str, payload: Any, *rest: Any) -> Any:
        return self._accept(wire.WORK_TASK, id, name, queue, payload, rest[1])

    def _on_2(self, port: FakePort, token: int, id: bytes) -> Any:
        work = self.work.get(id)
        if work is None:
            return Refusal("CODA2011", f"there is no run {id.hex()}")
        if work.outcome is not None:
            return work.outcome
        self.waiting.setdefault(id, []).append((port, token))
        return NotYet

    _on_3 = _on_2

    def _on_4(self, port: FakePort, token: int, id: bytes, lease: int, steps: list[Any]) -> Any:
        run = self.work[id]
        if run.lease != lease:
            return Refusal("CODA2014", "stale lease")
        states: list[Outcome | None] = []
        for kind, name, key, queue, payload, _, policy, _ in steps:
            step_key = (kind, name, key)
            known = run.memo.get(step_key)
            states.append(known)
            if known is None and step_key not in run.pending:
                run.pending.add(step_key)
                work_kind = wire.WORK_RUN if kind == wire.STEP_WORKFLOW else wire.WORK_TASK
                step = FakeWork(work_kind, new_id(), name, queue, payload, policy, (run, step_key))
                self.work[step.id] = step
                self.ready.append(step)
        return states

    def _on_5(self, port: FakePort, token: int, id: bytes, lease: int, name: str, key: bytes, result: Any) -> Any:
        run = self.work[id]
        if run.lease != lease:
            return Refusal("CODA2014", "stale lease")
        return run.memo.setdefault((wire.STEP_INLINE, name, key), result)

    def _on_6(self, port: FakePort, token: int, id: bytes, lease: int, outcome: Outcome) -> Any:
        work = self.work[id]
        if work.lease != lease:
            return Refusal("CODA2014", "stale lease") if work.outcome is None else None
        self._unlease(work)
        if len(outcome) == 4 and outcome[3] and work.failures < work.policy[0]:
            work.failures += 1
            if work.kind == wire.WORK_RUN:
                work.run_attempt += 1
                work.memo = {key: each for key, each in work.memo.items() if len(each) == 2}
            self.ready.append(work)
            return None
        self._end(work, outcome)
        return None

    _on_7 = _on_6

    def _end(self, work: FakeWork, outcome: Outcome) -> None:
        work.outcome, work.state = outcome, "ended"
        for port, token in self.waiting.pop(work.id, ()):
            port.tell((wire.ANSWERED, token, outcome))
        if work.parent is None:
            return
        run, key = work.parent
        run.memo[key] = outcome
        run.pending.discard(key)
        run.steps_ended += 1
        if run.holder is not None:
            run.holder.tell((wire.STEP, run.id, run.lease, *key, outcome, run.steps_ended))
        elif run.state == "parked":
            self.ready.append(run)
            run.state = "ready"

    def _unlease(self, work: FakeWork) -> None:
        port = work.holder
        work.holder = work.lease = None
        work.state = "ready"
        if port is not None:
            port.taken[work.queue, work.kind] -= 1

    def _on_8(self, port: FakePort, token: int, kind: int, id: bytes, lease: int) -> Any:
        work = self.work[id]
        if work.lease != lease:
            return Refusal("CODA2014", "stale lease")
        self._unlease(work)
        self.ready.append(work)
        return None

    def _on_9(self, port: FakePort, token: int, id: bytes, lease: int, seen: int) -> Any:
        run = self.work[id]
        if run.lease != lease:
            return Refusal("CODA2014", "stale lease")
        if run.steps_ended != seen or not run.pending:
            return Refusal("CODA2016", "the run has news that its worker has not seen")
        self._unlease(run)
        run.state = "parked"
        return None

    def _on_10(self, port: FakePort, token: int, session: bytes) -> Any:
        return None

    def _on_11(self, port: FakePort, token: int, *cursor: Any) -> Any:
        # One queue a page.
        queues = sorted({work.queue for work in self.work.values()} | self.paused)
        here = [queue for queue in queues if not cursor or queue >= cursor[2]]
        return [self._summary(queue) for queue in here[:1]], ((1, 1, here[1], 0, "") if here[1:] else None)

    def _summary(self, queue: str) -> dict[str, Any]:
        here = [work for work in self.work.values() if work.queue == queue]
        return {
            "queue": queue,
            "paused": queue in self.paused,
            "ready": sum(work.state == "ready" for work in here),
            "leased": sum(work.lease is not None for work in here),
            "delayed": 0,
            "workers": len(self.ports),
        }

    def _on_12(self, port: FakePort, token: int, queue: str) -> Any:
        lane = {
            "kind": "task",
            "name": "t",
            "ready": 1,
            "leased": 0,
            "delayed": 0,
            "workers": 0,
            "free_slots": 0,
            "oldest": 1_000,
            "waits": ("no_worker", None),
        }
        return {**self._summary(queue), "lanes": [lane], "lanes_total": 1, "counted_all": True}

    def _on_13(self, port: FakePort, token: int, queue: str) -> Any:
        self.paused.add(queue)

    def _on_14(self, port: FakePort, token: int, queue: str) -> Any:
        self.paused.discard(queue)

    # Handing out

    def hand_out(self) -> None:
        for work in list(self.ready):
            if work.queue in self.paused:
                continue
            port = next((port for port in self.ports if port.wants(work)), None)
            if port is None:
                continue
            self.ready.remove(work)
            self._lease += 1
            work.lease, work.holder, work.state = self._lease, port, "leased"
            work.attempts += 1
            port.taken[work.queue, work.kind] = port.taken.get((work.queue, work.kind), 0) + 1
            if work.kind == wire.WORK_TASK:
                run = None if work.parent is None else work.parent[0].id
                left = work.policy[0] - work.failures
                port.tell(
                    (wire.TASK, work.id, work.lease, work.queue, work.name, work.payload, work.attempts, left, run)
                )
            else:
                memo = [(*key, outcome) for key, outcome in work.memo.items()]
                lease = (work.id, work.lease, work.queue, work.name, work.payload)
                port.tell((wire.RUN, *lease, work.run_attempt, work.steps_ended, memo))

    def lose(self, work: FakeWork) -> None:
        """The holder vanished, or seemed to."""
        with self.lock:
            port, lease = work.holder, work.lease
            assert port is not None
            self._unlease(work)
            self.ready.append(work)
            port.tell((wire.LOST, work.kind, work.id, lease))

    def held_by(self, port: FakePort) -> list[FakeWork]:
        return [work for work in self.work.values() if work.holder is port]

    def runs(self) -> list[FakeWork]:
        return [work for work in self.work.values() if work.kind == wire.WORK_RUN]

    def tasks(self) -> list[FakeWork]:
        return [work for work in self.work.values() if work.kind == wire.WORK_TASK]


class NotYet:
    """The answer comes later."""


@dataclass
class Refusal:
    code: str
    message: str


class FakePort:
    """One connection. Closed by its other end like the real one: the descriptor is readable while events wait."""

    def __init__(self, cluster: FakeCluster, served: list[Served] | None) -> None:
        self._cluster = cluster
        self._ear, self._bell = socket.socketpair()
        self._events: deque[Event] = deque()
        self._pid = os.getpid()
        self.served = {queue: (set(tasks), set(flows), (t, r)) for queue, tasks, flows, t, r in served or ()}
        self.taken: dict[tuple[str, int], int] = {}
        self.abandoned: list[tuple[int, bytes, int]] = []
        self.drained = False
        self.closed = False
        #: Leases that were neither completed nor released when it closed.
        self.lost: list[FakeWork] = []

    def wants(self, work: FakeWork) -> bool:
        if self.drained or self.closed or work.queue not in self.served:
            return False
        tasks, flows, slots = self.served[work.queue]
        names = flows if work.kind == wire.WORK_RUN else tasks
        return work.name in names and self.taken.get((work.queue, work.kind), 0) < slots[work.kind]

    def tell(self, event: Event | Refusal, token: int = 0) -> None:
        if isinstance(event, Refusal):
            event = (wire.REFUSED, token, event.code, event.message)
        with self._cluster.lock:
            if not self._events and not self.closed:
                self._bell.send(b"x")
            self._events.append(event)

    def fileno(self) -> int:
        return self._ear.fileno()

    def poll(self, max: int, /) -> list[Event]:
        with self._cluster.lock:
            events = [self._events.popleft() for _ in range(min(max, len(self._events)))]
            if events and not self._events and not self.closed:
                self._ear.recv(16)
            return events

    def post_batch(self, batch: list[Request], /) -> None:
        if self._pid != os.getpid():
            raise RuntimeError("forked")
        with self._cluster.lock:
            self._cluster.batches.append(len(batch))
            for request in batch:
                if self.closed:
                    self.tell((wire.REFUSED, request[1], "CODA4010", "closed"))
                else:
                    self._cluster.handle(self, request)

    def abandon(self, kind: int, id: bytes, lease: int, /) -> None:
        self.abandoned.append((kind, id, lease))

    def drain(self) -> None:
        self.drained = True

    def held(self) -> int:
        return len(self._cluster.held_by(self))

    def close(self, timeout: float, /) -> None:
        if not self.closed:
            self.lost = self._cluster.held_by(self)
        self.closed = True
        if self in self._cluster.ports:
            self._cluster.ports.remove(self)
        self._ear.close()
        self._bell.close()
