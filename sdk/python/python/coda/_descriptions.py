"""What the cluster says about queues, runs, tasks and itself. Anything that waits says why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

__all__ = [
    "FailureDescription",
    "GroupDescription",
    "LaneDescription",
    "NodeDescription",
    "QueueDescription",
    "QueueSummary",
    "RunDescription",
    "StepDescription",
    "TaskDescription",
    "Wait",
]

State: TypeAlias = Literal["delayed", "ready", "running", "parked", "retrying", "succeeded", "failed"]
Reason: TypeAlias = Literal[
    "nothing",
    "queue_paused",
    "no_worker",
    "workers_busy",
    "delayed_until",
    "retrying_at",
    "steps",
    "running",
    "soon",
]


@dataclass(frozen=True)
class Wait:
    """Why work does not run."""

    reason: Reason
    #: For `delayed_until` and `retrying_at`.
    until: datetime | None = None

    def __str__(self) -> str:
        text = self.reason.replace("_", " ")
        return text if self.until is None else f"{text} {self.until.isoformat()}"


@dataclass(frozen=True)
class FailureDescription:
    """An exception, as the process that it was raised in has described it."""

    #: The exception's type, with its module: `shop.OutOfStock`, but `ValueError`.
    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class QueueSummary:
    """How much work a queue holds: tasks and runs together."""

    name: str
    #: Nothing is handed out from it.
    paused: bool
    #: Could run now.
    ready: int
    #: Is being executed.
    leased: int
    #: Delayed, or waiting for a retry.
    delayed: int
    #: Workers connected to the node that answered.
    workers: int


@dataclass(frozen=True)
class LaneDescription:
    """One kind and name of work within a queue."""

    kind: Literal["task", "run"]
    #: Of the task or workflow.
    name: str
    ready: int
    leased: int
    delayed: int
    #: Workers that execute this name, connected to the node that answered.
    workers: int
    #: How much more these workers could take.
    free_slots: int
    #: When the first of the waiting was accepted.
    oldest: datetime | None
    #: Why the first of the waiting does not run.
    waits: Wait


@dataclass(frozen=True)
class QueueDescription(QueueSummary):
    """A queue, and what it holds of each kind and name of work."""

    lanes: tuple[LaneDescription, ...]
    #: How many lanes hold work; a description lists at most 1,000 of them.
    lanes_total: int
    #: If not, there are more lanes than are counted: the total and the counts are what was seen so far.
    counted_all: bool


@dataclass(frozen=True)
class StepDescription:
    """A step of a run: a task, a child run, or a function that was run inline."""

    name: str
    kind: Literal["task", "workflow", "inline"]
    state: State
    attempts: int
    last_failure: FailureDescription | None


@dataclass(frozen=True)
class RunDescription:
    """A run, and why it waits."""

    #: A UUID.
    id: str
    #: The workflow's name.
    workflow: str
    queue: str
    state: State
    waits: Wait
    #: Executions of the workflow function that failed, plus one.
    attempt: int
    steps_pending: int
    steps_ended: int
    created: datetime
    #: Why it has failed for good.
    failure: FailureDescription | None
    steps: tuple[StepDescription, ...]
    #: More steps exist than are listed.
    truncated: bool


@dataclass(frozen=True)
class TaskDescription:
    """A task, and why it waits."""

    #: A UUID.
    id: str
    name: str
    queue: str
    state: State
    waits: Wait
    #: How often it was handed to a worker.
    attempts: int
    created: datetime
    #: Of its last attempt that has failed.
    last_failure: FailureDescription | None
    #: Why it has failed for good.
    failure: FailureDescription | None


@dataclass(frozen=True)
class GroupDescription:
    """A Raft group, as the node that answered sees it."""

    group: int
    #: The node that leads it; `None` while none is known.
    leader: int | None
    term: int
    #: The index of the last log entry that is applied.
    applied: int


@dataclass(frozen=True)
class NodeDescription:
    """The node that answered."""

    #: Its id.
    node: int
    version: str
    uptime_ms: int
    groups: tuple[GroupDescription, ...]
    #: Workers and clients that are connected to it.
    sessions: int
    #: Totals since the node started.
    counters: dict[str, int]


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else _moment(ms)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1_000, timezone.utc)


def _wait(raw: tuple[Reason, int | None]) -> Wait:
    return Wait(raw[0], _time(raw[1]))


def _failure(raw: Any) -> FailureDescription | None:
    return FailureDescription(*raw[:3]) if raw is not None and len(raw) == 4 else None


def queue_summary(raw: dict[str, Any]) -> QueueSummary:
    return QueueSummary(name=raw.pop("queue"), **raw)


class QueuePages:
    """The pages of a list of queues, put together: of a queue that two pages share, each counts a part."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[str, Any]] = {}

    def add(self, page: tuple[list[dict[str, Any]], tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
        """Adds a page and returns where the next one begins."""
        queues, cursor = page
        for raw in queues:
            known = self._queues.setdefault(raw["queue"], raw)
            if known is not raw:
                known["paused"] |= raw["paused"]
                known["workers"] = max(known["workers"], raw["workers"])
                for count in ("ready", "leased", "delayed"):
                    known[count] += raw[count]
        return cursor

    def queues(self) -> list[QueueSummary]:
        return [queue_summary(dict(raw)) for _, raw in sorted(self._queues.items())]


def queue_description(raw: dict[str, Any]) -> QueueDescription:
    lanes = tuple(
        LaneDescription(**{**lane, "oldest": _time(lane["oldest"]), "waits": _wait(lane["waits"])})
        for lane in raw.pop("lanes")
    )
    return QueueDescription(name=raw.pop("queue"), lanes=lanes, **raw)


def run_description(raw: dict[str, Any]) -> RunDescription:
    steps = tuple(StepDescription(**{**step, "last_failure": _failure(step["last_failure"])}) for step in raw["steps"])
    failure = _failure(raw.pop("outcome"))
    changed = {"steps": steps, "failure": failure, "created": _moment(raw["created"]), "waits": _wait(raw["waits"])}
    return RunDescription(**{**raw, **changed})


def task_description(raw: dict[str, Any]) -> TaskDescription:
    changed = {
        "failure": _failure(raw.pop("outcome")),
        "last_failure": _failure(raw["last_failure"]),
        "created": _moment(raw["created"]),
        "waits": _wait(raw["waits"]),
    }
    return TaskDescription(**{**raw, **changed})


def node_description(raw: dict[str, Any]) -> NodeDescription:
    return NodeDescription(**{**raw, "groups": tuple(GroupDescription(**group) for group in raw["groups"])})
