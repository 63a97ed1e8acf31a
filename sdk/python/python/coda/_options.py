"""What may be said about a piece of work besides its arguments: where it goes, when, and how often it is retried."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar
from uuid import UUID

from ._definitions import Definition, check_name
from ._keys import CachePart, NoCache
from ._policy import NEVER, PRIORITY_DEFAULT, check_priority, check_retries, delay_ms
from ._wire import Policy

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:
    # Python 3.10 has none. Only whoever asks for the annotations at run time sees this.
    Unpack = getattr(typing, "Unpack", list)

__all__ = ["Args", "CacheKey", "RunOptions", "SpawnOptions", "StartOptions", "SubmitOptions", "WorkOptions"]

F = TypeVar("F", bound=Callable[..., Any])

#: Arguments by name, or by position.
Args: TypeAlias = Mapping[str, Any] | Sequence[Any]
CacheKey: TypeAlias = Sequence[CachePart] | NoCache

QUEUE_DEFAULT = "default"


class WorkOptions(TypedDict, total=False):
    """What overrules the decorator."""

    #: Where it waits for a worker.
    queue: str | None
    #: 0 to 9, higher first.
    priority: int | None
    #: Attempts beyond the first.
    max_retries: int | None
    #: Not before so many seconds from now.
    delay: float | timedelta | None


class SpawnOptions(WorkOptions, total=False):
    #: Under which its result is recorded within the run.
    cache_key: CacheKey | None


class StartOptions(WorkOptions, total=False):
    #: A UUID. The same id twice is one run.
    run_id: str | UUID | None


class RunOptions(StartOptions, total=False):
    #: Seconds to wait for the result. The run goes on beyond them.
    timeout: float | None


class SubmitOptions(WorkOptions, total=False):
    #: A UUID. The same id twice is one task.
    task_id: str | UUID | None


def spelled_out(options: type) -> Callable[[F], F]:
    """`help()` and other readers of signatures see each option of the `TypedDict` by its name, and not `**options`."""
    hints = {name: getattr(hint, "__forward_arg__", hint) for name, hint in options.__annotations__.items()}

    def spell(fn: F) -> F:
        signature = inspect.signature(fn)
        named = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        named += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in hints.items()
        ]
        fn.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
        return fn

    return spell


def resolve(options: WorkOptions, definition: Definition[Any] | None) -> tuple[str, int, Policy, int]:
    """Queue, priority, policy and delay in milliseconds. Work whose definition is not known here has none of its
    decorator's, of course."""
    if definition is None:
        queue, priority, policy = QUEUE_DEFAULT, PRIORITY_DEFAULT, NEVER
    else:
        queue, priority, policy = definition.queue, definition.priority, definition.policy
    if not options:
        return queue, priority, policy, 0
    unknown = options.keys() - WorkOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected option {min(unknown)!r}: expected {', '.join(WorkOptions.__annotations__)}")
    given = options.get("queue")
    if given is not None:
        queue = check_name(given, "queue")
    chosen = options.get("priority")
    if chosen is not None:
        priority = check_priority(chosen)
    retries = options.get("max_retries")
    if retries is not None:
        policy = (check_retries(retries), *policy[1:])
    return queue, priority, policy, delay_ms(options.get("delay"))
