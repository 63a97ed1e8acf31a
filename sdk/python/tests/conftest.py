"""What tests share: an app of their own, and a worker on a fake cluster."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import coda
import pytest
from fake_native import FakeCluster, FakePort

# A shell that starts tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def app() -> coda.App:
    return coda.App("tests")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


class World:
    """A worker and a client on one fake cluster."""

    def __init__(self, cluster: FakeCluster, app: coda.App, **options: Any) -> None:
        self.cluster = cluster
        self.worker = coda.Worker(app, **{"drain_timeout": 2.0, **options})
        self.client = coda.AsyncClient(_open=cluster.port)
        self.port: FakePort

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        self.port = self.cluster.port([line.wire() for line in self.worker.lines])
        serving = asyncio.create_task(self.worker.serve(self.port))
        await asyncio.sleep(0)
        try:
            yield self
        finally:
            self.worker.stop()
            try:
                await serving
            finally:
                await self.client.close()


@pytest.fixture
def run(cluster: FakeCluster, app: coda.App) -> Callable[..., Any]:
    """Runs a workflow to its end and returns its result."""

    def run(workflow: Any, args: Any = None, **options: Any) -> Any:
        async def main() -> Any:
            async with World(cluster, app, **options).running() as world:
                return await world.client.run(workflow, args, timeout=5)

        return asyncio.run(main())

    return run


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)
