"""What a worker serves: which tasks and workflows of which queues, and how many of them at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias

from . import _app
from ._app import App
from ._definitions import Definition, HowRun
from ._native import CREDIT_MAX
from ._wire import Served

__all__: list[str] = []

Source: TypeAlias = App | ModuleType | Iterable[Definition[Any]]


@dataclass(frozen=True)
class Slots:
    """How much is executed at once, per queue."""

    #: Async tasks, on the event loop.
    concurrency: int = 64
    #: Other tasks, in threads.
    threads: int = 16
    #: Tasks with `executor="process"`.
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    #: Runs of workflows. They mostly wait, and cost memory only.
    runs: int = 256

    def __post_init__(self) -> None:
        for name in ("concurrency", "threads", "processes", "runs"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= CREDIT_MAX:
                raise ValueError(f"{name} must be an integer from 1 to {CREDIT_MAX}, not {value!r}")

    def of(self, how: HowRun) -> int:
        return {"loop": self.concurrency, "thread": self.threads, "process": self.processes}[how]


@dataclass(frozen=True)
class Line:
    """One queue as this worker serves it."""

    queue: str
    tasks: list[str]
    workflows: list[str]
    task_slots: int
    run_slots: int

    def wire(self) -> Served:
        return self.queue, self.tasks, self.workflows, self.task_slots, self.run_slots

    def __str__(self) -> str:
        parts = [f"{self.task_slots} tasks"] * bool(self.tasks) + [f"{self.run_slots} runs"] * bool(self.workflows)
        return f"{self.queue} ({', '.join(parts)} at once)"


def app_of(source: Source) -> App:
    """The tasks and workflows that a worker's first argument means."""
    if isinstance(source, App):
        return source
    if isinstance(source, ModuleType):
        # Importing it has filled the default app; groups of its own are served as well.
        app = App(source.__name__)
        apps = [each for each in vars(source).values() if isinstance(each, App)]
        for each in (_app.DEFAULT, *apps):
            app.add((*each.tasks.values(), *each.workflows.values()))
        return app
    return App("tasks").add(source)


def lines_of(app: App, queues: Collection[str] | None, slots: Slots) -> list[Line]:
    """One line per queue: those given, else those that the decorators name.

    In each of them a worker executes everything it has code for, because a spawn may name another queue than the
    decorator did. Slots are offered per queue and not per task, so a queue whose tasks run in different ways offers
    what the scarcest of them has: a worker never takes work that it cannot start.
    """
    declared = {each.queue for each in (*app.tasks.values(), *app.workflows.values())}
    tasks, workflows = sorted(app.tasks), sorted(app.workflows)
    lines = []
    for queue in sorted(declared if queues is None else set(queues)):
        at_home = [task for task in app.tasks.values() if task.queue == queue] or app.tasks.values()
        task_slots = min((slots.of(task.executor) for task in at_home), default=0)
        lines.append(Line(queue, tasks, workflows, task_slots, slots.runs if workflows else 0))
    return lines


def thread_count(app: App, lines: list[Line], slots: Slots) -> int:
    """Slots are per queue, the pool is one; inline steps may need a thread as well."""
    return max(slots.threads, sum(line.task_slots for line in lines if line.task_slots <= slots.threads))
