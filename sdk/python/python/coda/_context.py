"""What the code that runs can know of where it runs, and what a workflow function can do: `coda.context`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._definitions import Definition, Task, Workflow, default_name
from ._errors import OutsideWorkflowError
from ._handle import Handle
from ._ids import text_of
from ._options import Args, CacheKey, SpawnOptions, Unpack, spelled_out
from ._policy import DEFAULT_BACKOFF, PRIORITY_DEFAULT
from ._wire import STEP_TASK, STEP_WORKFLOW, Event

if TYPE_CHECKING:
    from ._run import Run

__all__ = ["Context", "CurrentTask", "context", "current_task", "run"]

T = TypeVar("T")

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
    return CurrentTask(
        None if task is None else text_of(task),
        name,
        queue,
        attempt,
        retries_left,
        None if run is None else text_of(run),
    )


def current_task() -> CurrentTask:
    """The task that this code is executed for. Works in threads, processes and async functions alike.

    `RuntimeError` where no worker executes a task, as in a plain call of its function.
    """
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
    """What a workflow function can do. There is one instance, `coda.context`; it means the run it is used in.

    Outside of a running workflow everything here raises `coda.OutsideWorkflowError`; when the run goes on elsewhere,
    `coda.LeaseLostError`.
    """

    @property
    def run_id(self) -> str:
        """The run's id: a UUID."""
        return text_of(_current_run("coda.context.run_id").id)

    @property
    def workflow(self) -> str:
        """The name of the workflow."""
        return _current_run("coda.context.workflow").workflow

    @property
    def queue(self) -> str:
        """The queue that the run itself was leased from."""
        return _current_run("coda.context.queue").queue

    @property
    def attempt(self) -> int:
        """From 1. Counts failures of the workflow function, not the times it was merely run again."""
        return _current_run("coda.context.attempt").attempt

    @overload
    def spawn_task(
        self, task: Task[..., Any, T], args: Args | None = None, **options: Unpack[SpawnOptions]
    ) -> Handle[T]: ...
    @overload
    def spawn_task(self, task: str, args: Args | None = None, **options: Unpack[SpawnOptions]) -> Handle[Any]: ...
    @spelled_out(SpawnOptions)
    def spawn_task(
        self, task: Task[..., Any, Any] | str, args: Args | None = None, **options: Unpack[SpawnOptions]
    ) -> Handle[Any]:
        """Spawns a task at once and returns a handle to await, now, later, or several times.

        The result is recorded under `cache_key`, and a spawn of the same task and key returns it without running the
        task, also after a crash. Awaiting raises `coda.TaskFailed` when the task has failed for good.

        Args:
            task: A function decorated with `@coda.task`, or a name. One that this worker serves means its definition;
                of one that is served elsewhere nothing is known, so say which `queue` and how many `max_retries`.
            args: Names and values, or a list of values. `TypeError` if the function cannot be called with them,
                `coda.CodecError` if one of them cannot be carried.
            cache_key: A list such as `[order_id]`. Without it the n-th such call in this function is its own key.
                `coda.NO_CACHE` runs the task on every replay.
            queue: Another queue than the decorator's.
            priority: 0 to 9, higher first.
            max_retries: Attempts beyond the first.
            delay: Not before so many seconds from now, or a `timedelta`.
        """
        _check_target(task, Task, "spawn_task", "spawn_workflow")
        return _current_run("coda.context.spawn_task").spawn(STEP_TASK, task, args, options)

    @overload
    def spawn_workflow(
        self, workflow: Workflow[..., T], args: Args | None = None, **options: Unpack[SpawnOptions]
    ) -> Handle[T]: ...
    @overload
    def spawn_workflow(
        self, workflow: str, args: Args | None = None, **options: Unpack[SpawnOptions]
    ) -> Handle[Any]: ...
    @spelled_out(SpawnOptions)
    def spawn_workflow(
        self, workflow: Workflow[..., Any] | str, args: Args | None = None, **options: Unpack[SpawnOptions]
    ) -> Handle[Any]:
        """Spawns a child run, as `spawn_task` spawns a task. Awaiting raises `coda.RunFailed` when it has failed."""
        _check_target(workflow, Workflow, "spawn_workflow", "spawn_task")
        return _current_run("coda.context.spawn_workflow").spawn(STEP_WORKFLOW, workflow, args, options)

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
        """Runs a function right here, in the workflow's process, and records its result. Also known as `coda.run`.

        For steps too small for a task of their own: one commit, no queue. A function that is not async runs in a
        thread. When the workflow runs again, a step with a result is skipped. A `@coda.task` is retried by its policy,
        here. Awaiting raises `coda.TaskFailed` when the function has raised.

        Args:
            fn: Any function. Its module and name say what its result is recorded under.
            args: Names and values, or a list of values. They are passed as they are.
            cache_key: As in `spawn_task`.
            name: For functions that have none of their own, such as `functools.partial` objects.
        """
        run = _current_run("coda.run")
        return run.inline(_inline_task(fn, name), args, cache_key)

    def __repr__(self) -> str:
        run = CURRENT_RUN.get()
        return "<coda.context outside of a workflow>" if run is None else f"<coda.context of run {text_of(run.id)}>"


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
