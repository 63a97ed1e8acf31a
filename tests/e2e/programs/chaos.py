"""A workflow of every kind of step, whose bodies and readers note what they did, to be killed at any moment.

begin    a body has started             (run, step, attempt)
made     ... and is about to return     (run, step, attempt, value)
read     a workflow function has a step's result: it was recorded before this moment
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
import time
from collections.abc import Awaitable

import coda

from .notes import note

SOON = coda.Backoff(initial=0.02, factor=2.0, max=0.5, jitter=0.5)


class Hiccup(Exception):
    pass


def begun(run: str, step: str) -> int:
    attempt = coda.current_task().attempt
    note("begin", run=run, step=step, attempt=attempt)
    return attempt


def made(run: str, step: str, attempt: int) -> str:
    value = secrets.token_hex(8)
    note("made", run=run, step=step, attempt=attempt, value=value)
    return value


@coda.task(name="chaos_async")
async def on_the_loop(run: str, step: str) -> str:
    attempt = begun(run, step)
    await asyncio.sleep(random.random() * 0.03)
    return made(run, step, attempt)


@coda.task(name="chaos_sync")
def in_a_thread(run: str, step: str) -> str:
    attempt = begun(run, step)
    time.sleep(random.random() * 0.03)
    return made(run, step, attempt)


@coda.task(name="chaos_flaky", retry_on=(Hiccup,), max_retries=1_000, backoff=SOON)
async def flaky(run: str, step: str) -> str:
    attempt = begun(run, step)
    await asyncio.sleep(random.random() * 0.01)
    if random.random() < 0.3:
        raise Hiccup(f"attempt {attempt}")
    return made(run, step, attempt)


async def inline(run: str, step: str) -> str:
    note("begin", run=run, step=step, attempt=0)
    await asyncio.sleep(random.random() * 0.01)
    return made(run, step, 0)


async def read(run: str, step: str, handle: Awaitable[str]) -> tuple[str, str]:
    value = await handle
    note("read", run=run, step=step, value=value)
    return step, value


@coda.workflow(name="chaos_child")
async def child(run: str, step: str) -> str:
    _, value = await read(
        run, f"{step}/task", coda.context.spawn_task(on_the_loop, args={"run": run, "step": f"{step}/task"})
    )
    return value


@coda.workflow(name="chaos", max_retries=1_000, backoff=SOON)
async def chaos(number: int) -> dict[str, str]:
    """Steps in a row, side by side, inline, in a child, without keys; returns each value as it saw it."""
    run = f"run-{number}"
    spawn = functools.partial(_spawn, run)
    seen = [await read(run, "first", spawn(on_the_loop, "first"))]
    seen += await asyncio.gather(
        read(run, "thread", spawn(in_a_thread, "thread")),
        read(run, "flaky", spawn(flaky, "flaky")),
        read(run, "shared", spawn(on_the_loop, "shared")),
        # The same step again: one execution, one value.
        read(run, "shared", spawn(on_the_loop, "shared")),
        read(run, "inline", coda.run(inline, args={"run": run, "step": "inline"}, cache_key=["inline"])),
        read(
            run,
            "child",
            coda.context.spawn_workflow(child, args={"run": run, "step": "child"}, cache_key=["child"]),
        ),
    )
    for n in range(2):
        step = f"auto-{n}"
        seen.append(await read(run, step, coda.context.spawn_task(on_the_loop, args={"run": run, "step": step})))
    if coda.context.attempt == 1 and number % 5 == 0:
        raise Hiccup("a workflow that fails once")
    seen.append(await read(run, "last", spawn(in_a_thread, "last")))
    return dict(seen)


def _spawn(run: str, task: coda.Task[..., object, str], step: str) -> coda.Handle[str]:
    return coda.context.spawn_task(task, args={"run": run, "step": step}, cache_key=[step])


STEPS = {"first", "thread", "flaky", "shared", "inline", "child", "auto-0", "auto-1", "last"}
