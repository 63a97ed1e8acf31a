"""The decorators, and the registry they fill."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from ._codec import Codec
from ._definitions import Definition, Executor, Task, Workflow
from ._policy import DEFAULT_BACKOFF, PRIORITY_DEFAULT, Backoff, RetryOn

__all__ = ["App", "task", "workflow"]

P = ParamSpec("P")
T = TypeVar("T")


class TaskDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Task[P, T, T]: ...


class WorkflowDecorator(Protocol):
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Workflow[P, T]: ...


class App:
    """A group of tasks and workflows, for a program that wants several or no global one.

    >>> app = coda.App("billing")
    >>> @app.task(retry_on=(OSError,))
    ... def charge(order_id: int) -> str: ...

    `coda-worker billing.tasks:app` serves it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: dict[str, Task[..., Any, Any]] = {}
        self.workflows: dict[str, Workflow[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<coda.App {self.name!r}: {len(self.tasks)} tasks, {len(self.workflows)} workflows>"

    @overload
    def task(self, name: Callable[P, Coroutine[Any, Any, T]], /) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def task(self, name: Callable[P, T], /) -> Task[P, T, T]: ...
    @overload
    def task(
        self,
        name: str | None = None,
        *,
        queue: str = "default",
        retry_on: RetryOn | None = None,
        max_retries: int | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = PRIORITY_DEFAULT,
        executor: Executor = "thread",
        codec: Codec | str | None = None,
    ) -> TaskDecorator: ...
    def task(
        self,
        name: Any = None,
        *,
        queue: str = "default",
        retry_on: RetryOn | None = None,
        max_retries: int | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = PRIORITY_DEFAULT,
        executor: Executor = "thread",
        codec: Codec | str | None = None,
    ) -> Any:
        """Makes a function a task. Use it bare or with arguments.

        Without `retry_on` and `max_retries` a task is not retried. `retry_on` alone retries three times after these
        exceptions; `max_retries` alone retries after any exception. Async functions run on the worker's event loop,
        others in a thread, or in a process with `executor="process"`.
        """

        def decorate(fn: Callable[..., Any]) -> Task[..., Any, Any]:
            definition: Task[..., Any, Any] = Task(
                fn,
                name=None if callable(name) else name,
                queue=queue,
                retry_on=retry_on,
                max_retries=max_retries,
                backoff=backoff,
                priority=priority,
                executor=executor,
                codec=codec,
            )
            _add(self.tasks, definition)
            return definition

        return decorate(name) if callable(name) else decorate

    @overload
    def workflow(self, name: Callable[P, Coroutine[Any, Any, T]], /) -> Workflow[P, T]: ...
    @overload
    def workflow(
        self,
        name: str | None = None,
        *,
        queue: str = "default",
        max_retries: int = 0,
        retry_on: RetryOn = (Exception,),
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = PRIORITY_DEFAULT,
        codec: Codec | str | None = None,
    ) -> WorkflowDecorator: ...
    def workflow(
        self,
        name: Any = None,
        *,
        queue: str = "default",
        max_retries: int = 0,
        retry_on: RetryOn = (Exception,),
        backoff: Backoff = DEFAULT_BACKOFF,
        priority: int = PRIORITY_DEFAULT,
        codec: Codec | str | None = None,
    ) -> Any:
        """Makes an async function a workflow. Use it bare or with arguments.

        `max_retries` retries the workflow function itself: it runs again from the top, and steps that have a result
        are not repeated.
        """

        def decorate(fn: Any) -> Workflow[..., Any]:
            definition: Workflow[..., Any] = Workflow(
                fn,
                name=None if callable(name) else name,
                queue=queue,
                retry_on=retry_on,
                max_retries=max_retries,
                backoff=backoff,
                priority=priority,
                codec=codec,
            )
            _add(self.workflows, definition)
            return definition

        return decorate(name) if callable(name) else decorate

    def add(self, definitions: Iterable[Definition[Any]]) -> App:
        """Adds tasks and workflows that were defined elsewhere."""
        for definition in definitions:
            if isinstance(definition, Task):
                _add(self.tasks, definition)
            elif isinstance(definition, Workflow):
                _add(self.workflows, definition)
            else:
                raise TypeError(f"{definition!r} is neither a task nor a workflow")
        return self


def _add(registry: dict[str, Any], definition: Definition[Any]) -> None:
    other = registry.get(definition.name)
    if other is not None and _place(other) != _place(definition):
        raise ValueError(
            f"two functions are named {definition.name!r}: {_place(other)} and {_place(definition)}; give one of them "
            "another name"
        )
    registry[definition.name] = definition


def _place(definition: Definition[Any]) -> str:
    code = getattr(definition.fn, "__code__", None)
    where = f" in {code.co_filename}" if code else ""
    return f"{definition.fn.__qualname__}{where}"


#: What the plain decorators fill.
DEFAULT = App("default")
task = DEFAULT.task
workflow = DEFAULT.workflow
