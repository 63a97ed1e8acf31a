"""What the code that runs can know of where it runs, and what a workflow function can do: `coda.context`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from ._definitions import Definition, Task, Workflow, check_name, default_name
from ._errors import OutsideWorkflowError
from ._handle import Handle
from ._ids import text_of
from ._keys import CachePart, NoCache
from ._policy import DEFAULT_BACKOFF, NEVER, PRIORITY_DEFAULT, check_priority, check_retries, delay_ms
from ._wire import STEP_TASK, STEP_WORKFLOW, Event, Policy

if TYPE_CHECKING:
    from ._run import Run

__all__ = ["Args", "CacheKey", "Context", "CurrentTask", "context", "current_task", "run"]

T = TypeVar("T")

#: Arguments by name, or by position.
Args: TypeAlias = Mapping[str, Any] | Sequence[Any]
CacheKey: TypeAlias = Sequence[CachePart] | NoCache

CURRENT_RUN: ContextVar[Run | None] = ContextVar("coda_run", default=None)


@dataclass(frozen=True)
class CurrentTask:
    """The task that is being executed."""

    #: `None` for an inline step, which has no life of its own.
    id: str | None
    name: str
    queue: str
    #: From 1. Counts leases, so a worker that vanished counts as well.
    attempt: int
    #: Retries that the policy still has after this attempt.
    retries_left: int
    #: The run that it is a step of.
    run_id: str | None


#: The lease as it arrived, or what was made of it: few tasks ask, so it is made when one does.
CURRENT_TASK: ContextVar[CurrentTask | Event | None] = ContextVar("coda_task", default=None)


def current_of(event: Event) -> CurrentTask:
    _, task, _, queue, name, _, attempt, retries_left, run = event
    return CurrentTask(text_of(task), name, queue, attempt, retries_left, None if run is None else text_of(run))


def current_task() -> CurrentTask:
    """The task that this code is executed for. Works in threads, processes and async functions alike."""
    current = CURRENT_TASK.get()
    if current is None:
        raise RuntimeError("coda.current_task() works only in a task that a worker executes")
    if isinstance(current, tuple):
        current = current_of(current)
        CURRENT_TASK.set(current)
    return current


def _current_run(what: str) -> Run:
    run = CURRENT_RUN.get()
    if run is None:
        raise OutsideWorkflowError(what)
    return run


class Context:
    """What a workflow function can do. There is one instance, `coda.context`; it means the run it is used in."""

    @property
    def run_id(self) -> str:
        return text_of(_current_run("coda.context.run_id").id)

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return _current_run("coda.context.workflow").workflow

    @property
    def queue(self) -> str:
        return _current_run("coda.context.queue").queue

    @property
    def attempt(self) -> int:
        """From 1. Counts failures of the workflow function, not the times it was merely run again."""
        return _current_run("coda.context.attempt").attempt

    @overload
    def spawn_task(
        self,
        task: Task[..., Any, T],
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[T]: ...
    @overload
    def spawn_task(
        self,
        task: str,
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[Any]: ...
    def spawn_task(
        self,
        task: Task[..., Any, Any] | str,
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[Any]:
        """Spawns a task at once and returns a handle to await, now, later, or several times.

        The result is recorded under `cache_key`, a list such as `[order_id]`; a spawn of the same task and key returns
        it without running the task, also after a crash. Without a key the n-th such call in this function is its own
        key. `coda.NO_CACHE` runs it on every replay. `args` are names and values, or a list; a task may be named by a
        string when its code is elsewhere. `queue`, `priority` and `max_retries` overrule the decorator; `delay` is in
        seconds.
        """
        _check_target(task, Task, "spawn_task", "spawn_workflow")
        options = Options(queue, priority, max_retries, delay)
        return _current_run("coda.context.spawn_task").spawn(STEP_TASK, task, args, cache_key, options.resolve)

    @overload
    def spawn_workflow(
        self,
        workflow: Workflow[..., T],
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[T]: ...
    @overload
    def spawn_workflow(
        self,
        workflow: str,
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[Any]: ...
    def spawn_workflow(
        self,
        workflow: Workflow[..., Any] | str,
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        delay: float | timedelta | None = None,
    ) -> Handle[Any]:
        """Spawns a child run, as `spawn_task` spawns a task."""
        _check_target(workflow, Workflow, "spawn_workflow", "spawn_task")
        options = Options(queue, priority, max_retries, delay)
        run = _current_run("coda.context.spawn_workflow")
        return run.spawn(STEP_WORKFLOW, workflow, args, cache_key, options.resolve)

    @overload
    def run(
        self, fn: Task[..., Any, T], args: Args | None = None, *, cache_key: CacheKey | None = None
    ) -> Handle[T]: ...
    @overload
    def run(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        name: str | None = None,
    ) -> Handle[T]: ...
    @overload
    def run(
        self,
        fn: Callable[..., T],
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        name: str | None = None,
    ) -> Handle[T]: ...
    def run(
        self,
        fn: Any,
        args: Args | None = None,
        *,
        cache_key: CacheKey | None = None,
        name: str | None = None,
    ) -> Handle[Any]:
        """Runs a function right here, in the workflow's process, and records its result.

        For steps too small for a task of their own: one commit, no queue. A function that is not async runs in a
        thread. When the workflow runs again, a step with a result is skipped. A `@coda.task` is retried by its policy,
        here. `name` is for functions that have none of their own, such as `functools.partial` objects.
        """
        run = _current_run("coda.run")
        return run.inline(_inline_task(fn, name), args, cache_key)

    def __repr__(self) -> str:
        run = CURRENT_RUN.get()
        return "<coda.context outside of a workflow>" if run is None else f"<coda.context of run {text_of(run.id)}>"


class Options:
    """What a spawn overrules."""

    __slots__ = ("delay", "max_retries", "priority", "queue")

    def __init__(
        self, queue: str | None, priority: int | None, max_retries: int | None, delay: float | timedelta | None
    ) -> None:
        self.queue = queue if queue is None else check_name(queue, "queue")
        self.priority = priority if priority is None else check_priority(priority)
        self.max_retries = max_retries if max_retries is None else check_retries(max_retries)
        self.delay = delay_ms(delay)

    def resolve(self, definition: Definition[Any] | None) -> tuple[str, int, Policy, int]:
        queue, priority, policy = (
            (definition.queue, definition.priority, definition.policy)
            if definition is not None
            else ("default", PRIORITY_DEFAULT, NEVER)
        )
        if self.max_retries is not None:
            policy = (self.max_retries, *policy[1:])
        return (
            queue if self.queue is None else self.queue,
            priority if self.priority is None else self.priority,
            policy,
            self.delay,
        )


def _check_target(target: object, kind: type, this: str, other: str) -> None:
    if isinstance(target, kind | str):
        return
    if isinstance(target, Definition):
        raise TypeError(f"{target!r} is a {target.what}: use coda.context.{other}")
    what = kind.__name__.lower()
    raise TypeError(f"{this} takes a {what} or its name, not {target!r}: decorate the function with @coda.{what}()")


# Only of functions that live as long as their module.
_inline_tasks: dict[FunctionType, Task[..., Any, Any]] = {}


def _inline_task(fn: Any, name: str | None) -> Task[..., Any, Any]:
    """The definition of an inline step. Plain functions get one that is registered nowhere."""
    if isinstance(fn, Task):
        return fn
    if isinstance(fn, Workflow):
        raise TypeError(f"{fn!r} is a workflow: use coda.context.spawn_workflow")
    if name is None and fn in _inline_tasks:
        return _inline_tasks[fn]
    if name is None and not hasattr(fn, "__qualname__"):
        raise TypeError(f"{fn!r} has no name to record its result under: give one with name=...")
    task: Task[..., Any, Any] = Task(
        fn, name=name or default_name(fn), backoff=DEFAULT_BACKOFF, priority=PRIORITY_DEFAULT
    )
    if name is None and isinstance(fn, FunctionType) and "<locals>" not in fn.__qualname__:
        _inline_tasks[fn] = task
    return task


#: What a workflow function can do.
context = Context()
run = context.run
