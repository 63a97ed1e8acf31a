"""What both clients ask: how each request is made and its reply read. Neither blocking nor awaiting happens here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from . import _descriptions as descriptions
from ._app import App
from ._channel import Channel, Then
from ._codec import decode_payload
from ._definitions import Definition, Task, Workflow, check_name
from ._errors import RunFailed, StepFailed, TaskFailed, step_failed
from ._ids import new_id, parse_id, text_of
from ._options import Args, RunOptions, StartOptions, SubmitOptions, WorkOptions, resolve
from ._run import encode_untyped
from ._wire import (
    AWAIT_RUN,
    AWAIT_TASK,
    DESCRIBE_NODE,
    DESCRIBE_QUEUE,
    DESCRIBE_RUN,
    DESCRIBE_TASK,
    LIST_QUEUES,
    PAUSE_QUEUE,
    START_RUN,
    SUBMIT_TASK,
    UNPAUSE_QUEUE,
    Outcome,
    Payload,
)

__all__: list[str] = []

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, less its token."""

    tag: int
    items: tuple[Any, ...]
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Work(Generic[T]):
    """A run or a task that was started, and how its end is read."""

    id: bytes
    name: str
    await_tag: int
    decode: Callable[[Payload], T]
    failed: type[StepFailed]

    @property
    def text(self) -> str:
        return text_of(self.id)

    def read(self, outcome: Outcome) -> T:
        if len(outcome) == 2:
            return self.decode(outcome)
        raise step_failed(self.failed, self.name, outcome)


class Waits:
    """Waits for ends of work. Several for one work share one request, also when the first of them has timed out."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: dict[tuple[int, bytes], list[Then]] = {}

    def add(self, work: Work[Any], then: Then) -> None:
        key = (work.await_tag, work.id)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(then)
            return
        self._waiting[key] = [then]

        def ended(outcome: Any, error: Any) -> None:
            for each in self._waiting.pop(key, ()):
                each(outcome, error)

        self._channel.ask(ended, work.await_tag, work.id)

    def remove(self, work: Work[Any], then: Then) -> None:
        waiting = self._waiting.get((work.await_tag, work.id))
        if waiting is not None and then in waiting:
            waiting.remove(then)


def start_run(
    app: App, workflow: Workflow[..., Any] | str, args: Args | None, options: StartOptions | RunOptions
) -> tuple[Call[bool], Work[Any]]:
    definition = definition_of(app, workflow, Workflow, "submit")
    name = workflow if isinstance(workflow, str) else workflow.name
    work = run_of(options.pop("run_id", None), definition, name)
    return _start(START_RUN, work, definition, args, options), work


def submit_task(
    app: App, task: Task[..., Any, Any] | str, args: Args | None, options: SubmitOptions
) -> tuple[Call[bool], Work[Any]]:
    definition = definition_of(app, task, Task, "start")
    name = task if isinstance(task, str) else task.name
    work = task_of(options.pop("task_id", None), definition, name)
    return _start(SUBMIT_TASK, work, definition, args, options), work


def _start(
    tag: int, work: Work[Any], definition: Definition[Any] | None, args: Args | None, options: WorkOptions
) -> Call[bool]:
    payload = encode_untyped(work.name, args) if definition is None else definition.encode_args(args)
    queue, priority, policy, delay = resolve(options, definition)
    return Call(tag, (work.id, work.name, queue, payload, priority, policy, delay), bool)


def definition_of(app: App, target: object, kind: type[Definition[Any]], other: str) -> Definition[Any] | None:
    """The definition that is meant. A name alone means the app's, if it has one of that name."""
    if isinstance(target, kind):
        return target
    if isinstance(target, str):
        return app.definition(check_name(target, kind.what), kind)
    if isinstance(target, Definition):
        raise TypeError(f"{target!r} is a {target.what}: use {other}")
    raise TypeError(f"expected a {kind.what} or its name, not {target!r}: decorate it with @coda.{kind.what}()")


def run_of(run_id: str | UUID | None, workflow: Definition[Any] | None = None, name: str = "run") -> Work[Any]:
    return _work(run_id, workflow, name, AWAIT_RUN, RunFailed)


def task_of(task_id: str | UUID | None, task: Definition[Any] | None = None, name: str = "task") -> Work[Any]:
    return _work(task_id, task, name, AWAIT_TASK, TaskFailed)


def _work(
    id: str | UUID | None, definition: Definition[Any] | None, name: str, tag: int, failed: type[StepFailed]
) -> Work[Any]:
    raw = new_id() if id is None else parse_id(id)
    if definition is None:
        return Work(raw, name, tag, decode_payload, failed)
    return Work(raw, definition.name, tag, definition.decode_result, failed)


def describe_run(work: Work[Any]) -> Call[descriptions.RunDescription]:
    return Call(DESCRIBE_RUN, (work.id,), descriptions.run_description)


def describe_task(work: Work[Any]) -> Call[descriptions.TaskDescription]:
    return Call(DESCRIBE_TASK, (work.id,), descriptions.task_description)


def queues(cursor: tuple[Any, ...]) -> Call[tuple[list[dict[str, Any]], tuple[Any, ...] | None]]:
    """One page: the first, or from where the page before ended."""
    return Call(LIST_QUEUES, cursor, lambda page: page)


def queue(name: str) -> Call[descriptions.QueueDescription]:
    return Call(DESCRIBE_QUEUE, (check_name(name, "queue"),), descriptions.queue_description)


def pause(name: str) -> Call[None]:
    return Call(PAUSE_QUEUE, (check_name(name, "queue"),), lambda _: None)


def unpause(name: str) -> Call[None]:
    return Call(UNPAUSE_QUEUE, (check_name(name, "queue"),), lambda _: None)


def node() -> Call[descriptions.NodeDescription]:
    return Call(DESCRIBE_NODE, (), descriptions.node_description)
