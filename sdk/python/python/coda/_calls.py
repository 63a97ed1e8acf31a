"""What both clients ask: how each request is made and its reply read. Neither blocking nor awaiting happens here."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from . import _descriptions as descriptions
from ._channel import Channel, Then
from ._codec import decode_payload
from ._context import Args, Options
from ._definitions import Definition, Task, Workflow, check_name
from ._errors import RunFailed, StepFailed, TaskFailed, step_failed
from ._ids import new_id, parse_id, text_of
from ._native import VERSION, Port
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
Delay = float | timedelta | None

# Goodbyes at exit are a courtesy, and bounded.
_GOODBYE_SECONDS = 0.1
_open_ports: weakref.WeakSet[Any] = weakref.WeakSet()


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
        port.close(_GOODBYE_SECONDS)


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


def start(
    target: Definition[Any] | str,
    args: Args | None,
    id: str | UUID | None,
    options: Options,
    tag: int,
) -> tuple[Call[bool], Work[Any]]:
    """A run or a task, by its definition or by its name alone."""
    if isinstance(target, Definition):
        payload, name, decode = target.encode_args(args), target.name, target.decode_result
    else:
        payload, name, decode = encode_untyped(target, args), target, decode_payload
    work = run_of(id, name, decode) if tag == START_RUN else task_of(id, name, decode)
    queue, priority, policy, delay = options.resolve(target if isinstance(target, Definition) else None)
    return Call(tag, (work.id, name, queue, payload, priority, policy, delay), bool), work


def check_target(target: object, kind: type[Definition[Any]], other: str) -> None:
    if isinstance(target, str):
        check_name(target, kind.what)
    elif not isinstance(target, kind):
        if isinstance(target, Definition):
            raise TypeError(f"{target!r} is a {target.what}: use {other}")
        raise TypeError(f"expected a {kind.what} or its name, not {target!r}: decorate it with @coda.{kind.what}()")


def start_run(
    workflow: Workflow[..., Any] | str, args: Args | None, run_id: str | UUID | None, options: Options
) -> tuple[Call[bool], Work[Any]]:
    check_target(workflow, Workflow, "submit")
    return start(workflow, args, run_id, options, START_RUN)


def submit_task(
    task: Task[..., Any, Any] | str, args: Args | None, task_id: str | UUID | None, options: Options
) -> tuple[Call[bool], Work[Any]]:
    check_target(task, Task, "start")
    return start(task, args, task_id, options, SUBMIT_TASK)


def run_of(run_id: str | UUID | None, name: str = "run", decode: Any = decode_payload) -> Work[Any]:
    return Work(new_id() if run_id is None else parse_id(run_id), name, AWAIT_RUN, decode, RunFailed)


def task_of(task_id: str | UUID | None, name: str = "task", decode: Any = decode_payload) -> Work[Any]:
    return Work(new_id() if task_id is None else parse_id(task_id), name, AWAIT_TASK, decode, TaskFailed)


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
