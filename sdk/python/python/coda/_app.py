"""The decorators, and the registry they fill."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, overload

from ._codec import Codec
from ._definitions import Definition, Executor, Task, Workflow
from ._options import Unpack
from ._policy import DEFAULT_BACKOFF, PRIORITY_DEFAULT, Backoff, RetryOn

__all__ = ["App", "task", "workflow"]

P = ParamSpec("P")
T = TypeVar("T")


class TaskOptions(TypedDict, total=False):
    queue: str
    retry_on: RetryOn | None
    max_retries: int | None
    backoff: Backoff
    priority: int
    executor: Executor
    codec: Codec | str | None


class WorkflowOptions(TypedDict, total=False):
    queue: str
    retry_on: RetryOn
    max_retries: int
    backoff: Backoff
    priority: int
    codec: Codec | str | None


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
        #: By their names.
        self.tasks: dict[str, Task[..., Any, Any]] = {}
        self.workflows: dict[str, Workflow[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<coda.App {self.name!r}: {len(self.tasks)} tasks, {len(self.workflows)} workflows>"

    @overload
    def task(self, name: Callable[P, Coroutine[Any, Any, T]], /) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def task(self, name: Callable[P, T], /) -> Task[P, T, T]: ...
    @overload
    def task(self, name: str | None = None, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
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

        Async functions run on the worker's event loop, others in a thread, or in a process with `executor="process"`.
        Called directly, the function is just called. `ValueError` if another function has the same name.

        Args:
            name: Under which workers are found, and results recorded. The module and the function's name, unless told
                otherwise.
            queue: Where it waits for a worker.
            retry_on: Exception types, or a function of the exception that returns a bool. Alone it means three retries.
            max_retries: Attempts beyond the first. Alone it means after any exception; without both there are none.
            backoff: How long to wait before each retry.
            priority: 0 to 9, higher first.
            executor: "thread" or "process", for functions that are not async.
            codec: How arguments and results become bytes: a `coda.Codec`, or the name of one that is registered.
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
    def workflow(self, name: str | None = None, **options: Unpack[WorkflowOptions]) -> WorkflowDecorator: ...
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

        Args:
            max_retries: Attempts of the workflow function itself beyond the first: it runs again from the top, and
                steps that have a result are not repeated.
            retry_on: After which exceptions. Any, unless told otherwise.

        All others are as in `task`.
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

    def definition(self, target: Definition[Any] | str, kind: type[Definition[Any]]) -> Definition[Any] | None:
        """What is known here of work that is named by its definition, or by its name alone."""
        if isinstance(target, Definition):
            return target
        return self.workflows.get(target) if kind is Workflow else self.tasks.get(target)

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
    if other is not None and not _is_defined_again(other, definition):
        raise ValueError(
            f"two functions are named {definition.name!r}: {_place(other)}, and {_place(definition)}; give one of them "
            "another name"
        )
    registry[definition.name] = definition


def _is_defined_again(old: Definition[Any], new: Definition[Any]) -> bool:
    """The same function once more: imported twice, reloaded, or typed again in a notebook. Within the first import of a
    module nothing is reloaded, so there it is a slip."""
    if _place(old) == _place(new):
        return True
    module = sys.modules.get(new.fn.__module__)
    is_first_import = getattr(getattr(module, "__spec__", None), "_initializing", False)
    is_same = (old.fn.__module__, old.fn.__qualname__) == (new.fn.__module__, new.fn.__qualname__)
    return is_same and not is_first_import


def _place(definition: Definition[Any]) -> str:
    code = getattr(definition.fn, "__code__", None)
    where = f" at {code.co_filename}:{code.co_firstlineno}" if code else f" of {definition.fn.__module__}"
    return f"{definition.fn.__qualname__}{where}"


#: What the plain decorators fill.
DEFAULT = App("default")
task = DEFAULT.task
workflow = DEFAULT.workflow
