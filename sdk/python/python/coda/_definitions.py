"""Tasks and workflows: functions with a name, a queue and a policy. Calling one directly just calls the function."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast

from ._codec import Codec, codec_of, decode_payload, encode_payload
from ._convert import Arguments, converter, hints_of
from ._native import NAME_BYTES_MAX
from ._policy import Backoff, Retries, RetryOn, check_priority
from ._wire import Payload

__all__ = ["Task", "Workflow"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Executor: TypeAlias = Literal["thread", "process"]
HowRun: TypeAlias = Literal["loop", "thread", "process"]


def check_name(name: str, what: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is a string, not {name!r}")
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise ValueError(
            f"{name!r} is not a valid name of a {what}: use 1 to {NAME_BYTES_MAX} bytes without control characters"
        )
    return name


def default_name(fn: Callable[..., Any]) -> str:
    """`module.qualname`, the same in every process, also for a module that is run as a program."""
    module = fn.__module__
    if module in ("__main__", "__mp_main__"):
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        module = spec.name.removesuffix(".__main__") if spec else Path(file).stem if file else module
    return f"{module}.{fn.__qualname__}"


class Definition(Generic[T]):
    """What tasks and workflows have in common. `T` is the result."""

    what = "definition"

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str | None,
        queue: str,
        retries: Retries,
        priority: int,
        codec: Codec | str | None,
    ) -> None:
        functools.update_wrapper(cast(Callable[..., Any], self), fn)
        self.fn = fn
        self.name = check_name(default_name(fn) if name is None else name, self.what)
        self.queue = check_name(queue, "queue")
        self.priority = check_priority(priority)
        self.retries = retries
        self.policy = retries.wire()
        self.codec = codec_of(codec)
        self._arguments: Arguments | None = None
        self._result: tuple[Callable[[Any], Any] | None] | None = None

    @property
    def arguments(self) -> Arguments:
        """Made when first needed: annotations may name what the module defines later."""
        if self._arguments is None:
            self._arguments = Arguments(self.fn, self.name)
        return self._arguments

    def encode_args(self, args: Any) -> Payload:
        return encode_payload(self.codec, self.arguments.bind(args), f"the arguments of {self.name}")

    def encode_result(self, result: Any) -> Payload:
        return encode_payload(self.codec, result, f"the result of {self.name}")

    def decode_result(self, payload: Payload) -> T:
        if self._result is None:
            self._result = (converter(hints_of(self.fn).get("return", Any)),)
        value = decode_payload(payload)
        (change,) = self._result
        return cast(T, value if change is None else change(value))

    def __repr__(self) -> str:
        return f"<coda.{type(self).__name__} {self.name!r} on queue {self.queue!r}>"


class Task(Definition[T], Generic[P, R, T]):
    """A function that workers execute. `R` is what a plain call returns, `T` the result that is recorded."""

    what = "task"

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        name: str | None = None,
        queue: str = "default",
        retry_on: RetryOn | None = None,
        max_retries: int | None = None,
        backoff: Backoff,
        priority: int,
        executor: Executor = "thread",
        codec: Codec | str | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"@coda.task decorates functions, not {fn!r}")
        if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
            raise TypeError(f"{fn.__qualname__} is a generator: a task returns one result, so collect the items first")
        super().__init__(fn, name, queue, Retries.of(retry_on, max_retries, backoff), priority, codec)
        self.executor: HowRun = _how_run(fn, executor)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function here and now: no worker, no retries, nothing recorded."""
        result: R = self.fn(*args, **kwargs)
        return result


def _how_run(fn: Callable[..., Any], executor: str) -> HowRun:
    if executor not in ("thread", "process"):
        raise ValueError(f"executor must be 'thread' or 'process', not {executor!r}")
    # The second is for objects whose __call__ is async.
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None)):  # noqa: B004
        if executor == "process":
            raise ValueError(f"{fn.__qualname__} is async: it runs on the worker's event loop, not in a process")
        return "loop"
    if executor == "process" and "<locals>" in fn.__qualname__:
        raise ValueError(f"{fn.__qualname__} is defined inside a function: another process cannot import it")
    return "process" if executor == "process" else "thread"


class Workflow(Definition[T], Generic[P, T]):
    """An async function that coordinates tasks. When it runs again, steps that have a result are not repeated."""

    what = "workflow"

    def __init__(
        self,
        fn: Callable[P, Coroutine[Any, Any, T]],
        *,
        name: str | None = None,
        queue: str = "default",
        retry_on: RetryOn = (Exception,),
        max_retries: int = 0,
        backoff: Backoff,
        priority: int,
        codec: Codec | str | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"a workflow is an async function: write `async def {getattr(fn, '__name__', fn)}(...)`")
        super().__init__(fn, name, queue, Retries.of(retry_on, max_retries, backoff), priority, codec)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Calls the function here: only for one that spawns nothing."""
        coroutine: Coroutine[Any, Any, T] = self.fn(*args, **kwargs)
        return coroutine
