"""Tasks that take as long as their test wants, for tests of workers and clients."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import coda

from .notes import flag, note


@coda.task(name="whoami")
async def whoami() -> int:
    return os.getpid()


@coda.task(name="echo")
async def echo(value: Any) -> Any:
    note("echo", value=value if isinstance(value, int) else None)
    return value


@coda.task(name="until_flag")
async def until_flag(name: str) -> int:
    """Ends when a test says so; returns which attempt it was."""
    attempt = coda.current_task().attempt
    note("started", name=name, attempt=attempt)
    while not flag(name).exists():
        await asyncio.sleep(0.01)
    note("ended", name=name, attempt=attempt)
    return attempt


@coda.task(name="until_flag_blocking")
def until_flag_blocking(name: str) -> int:
    attempt = coda.current_task().attempt
    note("started", name=name, attempt=attempt)
    while not flag(name).exists():
        time.sleep(0.01)
    return attempt


@coda.task(name="hangs_at_first")
async def hangs_at_first() -> int:
    attempt = coda.current_task().attempt
    note("started", attempt=attempt)
    if attempt == 1:
        await asyncio.Event().wait()
    return attempt


@coda.task(name="kills_its_worker")
def kills_its_worker() -> None:
    note("started", attempt=coda.current_task().attempt)
    os.kill(os.getpid(), 9)


@coda.workflow(name="waits_for_flag")
async def waits_for_flag(name: str) -> int:
    return await coda.context.spawn_task(until_flag, args={"name": name}, cache_key=[name])


@coda.workflow(name="echoes")
async def echoes(value: Any) -> Any:
    return await coda.context.spawn_task(echo, args={"value": value}, cache_key=[1])


@coda.task(name="huge")
async def huge() -> str:
    return "x" * (5 << 20)


@coda.task(name="unserializable")
async def unserializable() -> object:
    return object()
