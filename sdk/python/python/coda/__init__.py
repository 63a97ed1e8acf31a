"""Coda: durable workflows and tasks in ordinary Python functions.

    @coda.task(retry_on=(OSError,))
    def charge(order_id: int) -> str: ...

    @coda.workflow()
    async def ship_order(order_id: int) -> str:
        return await coda.context.spawn_task(charge, args={"order_id": order_id}, cache_key=[order_id])

    with coda.Client() as client:
        print(client.run(ship_order, args={"order_id": 17}))

Workers run with `coda-worker package.module`.
"""

from __future__ import annotations

from asyncio import gather

from ._app import App, task, workflow
from ._client import Client, RunHandle, TaskHandle
from ._client_async import AsyncClient, AsyncRunHandle, AsyncTaskHandle
from ._codec import Codec, JsonCodec, register_codec
from ._context import Context, CurrentTask, context, current_task, run
from ._definitions import Task, Workflow
from ._descriptions import (
    FailureDescription,
    GroupDescription,
    LaneDescription,
    NodeDescription,
    QueueDescription,
    QueueSummary,
    RunDescription,
    StepDescription,
    TaskDescription,
    Wait,
)
from ._errors import (
    ClosedError,
    CodaError,
    CodecError,
    ConflictError,
    ConnectError,
    EventLoopError,
    ForkedError,
    LeaseLostError,
    NotFoundError,
    OutsideWorkflowError,
    Rejected,
    ResultTimeout,
    RunFailed,
    StepFailed,
    TaskFailed,
    TooLargeError,
    WorkerLost,
)
from ._handle import Handle
from ._ids import id_for
from ._keys import NO_CACHE
from ._native import VERSION as __version__
from ._options import Args, CacheKey, RunOptions, SpawnOptions, StartOptions, SubmitOptions, WorkOptions
from ._policy import Backoff, RetryOn
from ._worker import Worker

__all__ = [
    "NO_CACHE",
    "App",
    "Args",
    "AsyncClient",
    "AsyncRunHandle",
    "AsyncTaskHandle",
    "Backoff",
    "CacheKey",
    "Client",
    "ClosedError",
    "CodaError",
    "Codec",
    "CodecError",
    "ConflictError",
    "ConnectError",
    "Context",
    "CurrentTask",
    "EventLoopError",
    "FailureDescription",
    "ForkedError",
    "GroupDescription",
    "Handle",
    "JsonCodec",
    "LaneDescription",
    "LeaseLostError",
    "NodeDescription",
    "NotFoundError",
    "OutsideWorkflowError",
    "QueueDescription",
    "QueueSummary",
    "Rejected",
    "ResultTimeout",
    "RetryOn",
    "RunDescription",
    "RunFailed",
    "RunHandle",
    "RunOptions",
    "SpawnOptions",
    "StartOptions",
    "StepDescription",
    "StepFailed",
    "SubmitOptions",
    "Task",
    "TaskDescription",
    "TaskFailed",
    "TaskHandle",
    "TooLargeError",
    "Wait",
    "WorkOptions",
    "Worker",
    "WorkerLost",
    "Workflow",
    "__version__",
    "context",
    "current_task",
    "gather",
    "id_for",
    "register_codec",
    "run",
    "task",
    "workflow",
]
