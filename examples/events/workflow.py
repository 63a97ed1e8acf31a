"""What the demo's workers run: `coda-worker examples.events.workflow`.

`process_event` in app.py is the program of the documentation, word for word. `handle_event` is the
same with a third step that fails now and then, and with an audit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import coda

from .app import process_event
from .storing import begin_workflow, end_workflow
from .tasks import normalize_event, store_event, symbolicate_event

__all__ = ["handle_event", "normalize_event", "process_event", "store_event", "symbolicate_event"]

T = TypeVar("T")


@coda.workflow(name="handle_event")
async def handle_event(project_id: int, event_data: dict[str, Any]) -> dict[str, Any]:
    """Normalize, symbolicate and store one event; returns its id and its group.

    After a crash this function runs again from its first line, and every step that has a result is
    answered from it. That is also why the audit may sit in here: a workflow is an ordinary function.
    """
    event_id = event_data["event_id"]
    async with audited_steps("handle_event", event_id) as steps:
        normal = await steps.of(
            "normalize_event",
            coda.context.spawn_task(
                normalize_event,
                args={"project_id": project_id, "event_data": event_data},
                cache_key=[event_id],
            ),
        )
        symbolicated = await steps.of(
            "symbolicate_event",
            coda.context.spawn_task(
                symbolicate_event,
                args={"project_id": project_id, "event_data": normal},
                cache_key=[event_id],
            ),
        )
        stored_id = await steps.of(
            "store_event",
            coda.context.spawn_task(
                store_event,
                args={"project_id": project_id, "event_data": symbolicated},
                cache_key=[event_id],
            ),
        )
    return {"event_id": stored_id, "group_hash": normal["group_hash"]}


class Steps:
    """How long each step took, from its spawn to its result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    async def of(self, task: str, handle: Awaitable[T]) -> T:
        started = time.perf_counter()
        result = await handle
        self.seconds[task] = time.perf_counter() - started
        return result


@asynccontextmanager
async def audited_steps(workflow: str, event_id: str) -> AsyncIterator[Steps]:
    """Record that a workflow function runs, and the steps it saw when it reaches its end."""
    steps = Steps()
    execution = await asyncio.to_thread(begin_workflow, workflow, event_id)
    try:
        yield steps
    except Exception:
        await asyncio.to_thread(end_workflow, execution, "failed", steps.seconds)
        raise
    await asyncio.to_thread(end_workflow, execution, "done", steps.seconds)
