"""What crosses between Python and the native module: tuples, tagged by their first item.

The Rust side is `src/told.rs` (events) and `src/requests.rs` (requests). Ids are 16 bytes.

An *outcome* is a pair `(codec, data)` for a result and four items `(kind, message, traceback,
retryable)` for a failure. A *policy* is `(max_retries, initial_ms, factor_percent, max_ms,
jitter_percent)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

__all__: list[str] = []

Payload: TypeAlias = tuple[str, bytes]
Failure: TypeAlias = tuple[str, str, str, bool]
Outcome: TypeAlias = Payload | Failure
Policy: TypeAlias = tuple[int, int, int, int, int]
Event: TypeAlias = tuple[Any, ...]
Request: TypeAlias = tuple[Any, ...]
Served: TypeAlias = tuple[str, list[str], list[str], int, int]
# Which memo: kind of step, name, encoded cache key.
StepKey: TypeAlias = tuple[int, str, bytes]

# Events, from the link.
ANSWERED: Final = 0  # token, reply
REFUSED: Final = 1  # token, code, message
TASK: Final = 2  # task, lease, queue, name, args payload, attempt, retries left, run or None
RUN: Final = 3  # run, lease, queue, workflow, input payload, attempt, steps ended, [(kind, name, key, outcome)]
STEP: Final = 4  # run, lease, kind, name, key, outcome, steps ended
SEEN: Final = 5  # run, lease, steps ended
LOST: Final = 6  # kind of work, id, lease
CONNECTED: Final = 7  # first time, node, server
DISCONNECTED: Final = 8
OVER: Final = 9  # code, message; the last event

# Requests, to the link: tag, token, and what is listed. An answer with the token follows each.
START_RUN: Final = 0  # run, workflow, queue, payload, priority, policy, delay ms
SUBMIT_TASK: Final = 1  # task, name, queue, payload, priority, policy, delay ms
AWAIT_RUN: Final = 2  # run
AWAIT_TASK: Final = 3  # task
SPAWN: Final = 4  # run, lease, [step]
RECORD_STEP: Final = 5  # run, lease, name, key, payload
COMPLETE_TASK: Final = 6  # task, lease, outcome
COMPLETE_RUN: Final = 7  # run, lease, outcome
RELEASE: Final = 8  # kind of work, id, lease
PARK_RUN: Final = 9  # run, lease, seen
END_SESSION: Final = 10  # session
LIST_QUEUES: Final = 11  # nothing, or what the page before answered as where it ended
DESCRIBE_QUEUE: Final = 12  # queue
PAUSE_QUEUE: Final = 13  # queue
UNPAUSE_QUEUE: Final = 14  # queue
DESCRIBE_RUN: Final = 15  # run
DESCRIBE_TASK: Final = 16  # task
DESCRIBE_NODE: Final = 17

# Kinds of steps. A step to spawn is (kind, name, key, queue, payload, priority, policy, delay ms).
STEP_TASK: Final = 0
STEP_WORKFLOW: Final = 1
STEP_INLINE: Final = 2

# Kinds of work.
WORK_TASK: Final = 0
WORK_RUN: Final = 1


class PortLike(Protocol):
    """What the rest of the SDK uses of the native `Port`. `tests/fake_native.py` is the other one."""

    def fileno(self) -> int: ...
    def poll(self, max: int, /) -> Sequence[Event]: ...
    def post_batch(self, batch: list[Request], /) -> None: ...
    def abandon(self, kind: int, id: bytes, lease: int, /) -> None: ...
    def drain(self) -> None: ...
    def held(self) -> int: ...
    def close(self, timeout: float, /) -> None: ...
