"""Everything Coda raises.

Exception
└── CodaError                    .code, listed with its remedy in docs/errors.md
    ├── ConnectError             no cluster is configured, reachable or trusted
    ├── ClosedError              the client is closed
    ├── Rejected                 the cluster's rules refuse the request
    │   ├── NotFoundError        no such run, task or queue
    │   ├── ConflictError        the id already names other work
    │   └── TooLargeError        a payload, key or request is over its limit
    ├── ResultTimeout            (also TimeoutError) no result yet; the work goes on
    ├── CodecError               (also TypeError) a value cannot be carried, or not read
    ├── OutsideWorkflowError     (also RuntimeError) coda.context without a workflow
    ├── ForkedError              (also RuntimeError) a connection that belongs to the parent process
    ├── EventLoopError           (also RuntimeError) a blocking call in an event loop, or a client of another loop
    ├── LeaseLostError           this execution has been superseded: stop working
    └── StepFailed               .kind .message .remote_traceback .matches(type)
        ├── TaskFailed           a task, spawned, inline or submitted
        ├── RunFailed            a run, a child or one that was started
        └── WorkerLost           its workers vanished again and again
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from ._wire import Failure

__all__ = [
    "ClosedError",
    "CodaError",
    "CodecError",
    "ConflictError",
    "ConnectError",
    "EventLoopError",
    "ForkedError",
    "LeaseLostError",
    "NotFoundError",
    "OutsideWorkflowError",
    "Rejected",
    "ResultTimeout",
    "RunFailed",
    "StepFailed",
    "TaskFailed",
    "TooLargeError",
    "WorkerLost",
]


class CodaError(Exception):
    """The root of the tree. `code` is stable, for programs and for searching the documentation."""

    code: str

    def __init__(self, message: str, *, code: str = "CODA5000") -> None:
        super().__init__(message)
        self.code = code

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        # Whatever its own `__init__` takes: copies and pickles, between the processes of a test run for instance, are
        # made of what it holds.
        return _made_again, (type(self), self.args, self.__dict__)

    def _restored(self) -> None:
        """What neither its arguments nor its attributes hold."""


def _made_again(kind: type[CodaError], args: tuple[Any, ...], state: dict[str, Any]) -> CodaError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    error._restored()
    return error


class ConnectError(CodaError):
    """No cluster is configured, none answers, or the one that does is not trusted."""


class ClosedError(CodaError):
    """The client is closed, or its connection has ended for good."""


class Rejected(CodaError):
    """The cluster's rules refuse the request. Asking again would not help."""


class NotFoundError(Rejected):
    """There is no such run, task or queue, or its retention time is over."""


class ConflictError(Rejected):
    """The id already names other work."""


class TooLargeError(Rejected):
    """A payload, a cache key or a request is larger than its limit."""


class ResultTimeout(CodaError, TimeoutError):
    """There is no result yet. The work goes on, and can be waited for again."""


class CodecError(CodaError, TypeError):
    """A value cannot be carried by the codec, or its bytes cannot be read."""

    def __init__(self, message: str, *, code: str = "CODA5003") -> None:
        super().__init__(message, code=code)


class OutsideWorkflowError(CodaError, RuntimeError):
    """`coda.context` or `coda.run` was used where no workflow function is running."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} works only inside a workflow function that a worker runs; "
            "from outside, start one with coda.Client().start(...)",
            code="CODA5001",
        )


class ForkedError(CodaError, RuntimeError):
    """A connection was used in a forked child. Open a new client after the fork."""

    def __init__(self) -> None:
        super().__init__(
            "this connection belongs to the parent process: open a new coda.Client() after the fork "
            "(for example in gunicorn's post_fork or Celery's worker_process_init)",
            code="CODA5002",
        )


class EventLoopError(CodaError, RuntimeError):
    """A call that blocks was made where an event loop runs, or a client of one loop was used in another."""

    def __init__(self, message: str, *, code: str = "CODA5005") -> None:
        super().__init__(message, code=code)


class LeaseLostError(CodaError):
    """Another attempt has superseded this execution: what it still does changes nothing."""


class _RemoteTraceback(Exception):
    """Prints the other process's traceback as the cause of the failure."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0].rstrip()}\n"""'


class StepFailed(CodaError):
    """Work that was waited for ended in a failure. Its class says what kind of work."""

    #: Kinds of failures that Coda itself reports.
    _own: ClassVar[dict[str, type[StepFailed]]] = {}

    name: str
    kind: str
    message: str
    remote_traceback: str

    def __init__(self, name: str, kind: str, message: str, remote_traceback: str = "") -> None:
        text = f"`{name}` failed: {kind}: {message}" if message else f"`{name}` failed: {kind}"
        super().__init__(text, code="CODA4016")
        self.name = name
        self.kind = kind
        self.message = message
        self.remote_traceback = remote_traceback
        self._restored()

    def _restored(self) -> None:
        if self.remote_traceback:
            self.__cause__ = _RemoteTraceback(self.remote_traceback)

    def __str__(self) -> str:
        return Exception.__str__(self)

    def matches(self, *types: type[BaseException]) -> bool:
        """Whether the remote exception was one of these types, or derived from one.

        Nothing is imported for the answer: a derived type is recognised if this process has it.
        """
        actual = _loaded_type(self.kind)
        return any(type_name(each) == self.kind or (actual is not None and issubclass(actual, each)) for each in types)


class TaskFailed(StepFailed):
    """A task failed and has no retries left."""


class RunFailed(StepFailed):
    """A run of a workflow failed and has no retries left."""


class WorkerLost(StepFailed):
    """Too many workers vanished while they held this work. It probably kills them."""


StepFailed._own["coda.WorkerLost"] = WorkerLost


def type_name(kind: type[BaseException]) -> str:
    """How an exception's type is named on the wire: qualified, but bare for builtins."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _loaded_type(kind: str) -> type[BaseException] | None:
    """The exception type of that name, if this process has it already. Never imports."""
    module, _, path = kind.rpartition(".")
    found: object = None
    if not module:
        found = getattr(sys.modules["builtins"], path, None)
    while module and found is None:
        found = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        module, _, outer = module.rpartition(".")
        path = f"{outer}.{path}"
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def step_failed(base: type[StepFailed], name: str, failure: Failure) -> StepFailed:
    """The exception for a failure from the wire."""
    kind, message, traceback, _ = failure
    return StepFailed._own.get(kind, base)(name, kind, message, traceback)


_BY_CODE: dict[str, type[CodaError]] = {
    "CODA2003": TooLargeError,
    "CODA2004": TooLargeError,
    "CODA2005": TooLargeError,
    "CODA2011": NotFoundError,
    "CODA2012": NotFoundError,
    "CODA2013": ConflictError,
    "CODA2014": LeaseLostError,
    "CODA4010": ClosedError,
    "CODA4011": TooLargeError,
}


def error_of(code: str, message: str) -> CodaError:
    """The exception for a refusal from the link."""
    if code in _BY_CODE:
        return _BY_CODE[code](message, code=code)
    if code.startswith("CODA2"):
        return Rejected(message, code=code)
    if code.startswith(("CODA1", "CODA3", "CODA4")):
        return ConnectError(message, code=code)
    return CodaError(message, code=code)


# As they are imported, in tracebacks and in the failures of those who let them through.
for _name in __all__:
    globals()[_name].__module__ = "coda"
