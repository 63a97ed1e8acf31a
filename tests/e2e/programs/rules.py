"""Small programs, one for each rule of the programming model. Bodies note that they ran; values are unique."""

from __future__ import annotations

import asyncio
import datetime
import os
import secrets
import time
import uuid
from typing import Any

import coda

from .notes import flag, note

QUICKLY = coda.Backoff(initial=0.05, factor=2.0, max=1.0, jitter=0.0)


async def until(name: str) -> None:
    while not flag(name).exists():
        await asyncio.sleep(0.01)


def body(label: Any) -> str:
    """Notes that a body ran, and makes a value that no other execution makes."""
    value = secrets.token_hex(8)
    note("body", label=label, value=value, attempt=coda.current_task().attempt)
    return value


@coda.task(name="unique")
async def unique(label: Any) -> str:
    return body(label)


# Memo


@coda.workflow(name="memo_by_key")
async def memo_by_key() -> list[str]:
    first = await coda.context.spawn_task(unique, args={"label": "first"}, cache_key=["first"])
    note("read", value=first)
    await until("go")
    second = await coda.context.spawn_task(unique, args={"label": "second"}, cache_key=["second"])
    return [first, second]


#: No two of them are the same key.
KEYS: list[list[Any]] = [
    [],
    [""],
    ["ab"],
    ["a", "b"],
    [["a"], "b"],
    ["a", ["b"]],
    [["a", "b"]],
    [b"ab"],
    [1],
    ["1"],
    [1.0],
    [True],
    [None],
    [-1],
    [2**70],
    ["$coda", "int", "1"],
    [["$coda", "int", "1"]],
    [uuid.UUID(int=1)],
    [uuid.UUID(int=1).hex],
    [datetime.date(2026, 1, 1)],
    [datetime.datetime(2026, 1, 1)],
    ["2026-01-01"],
]


@coda.workflow(name="different_keys")
async def different_keys() -> list[list[str]]:
    """Each key twice: in this order, and once more in the reverse order."""
    once = [coda.context.spawn_task(unique, args={"label": n}, cache_key=key) for n, key in enumerate(KEYS)]
    again = [coda.context.spawn_task(unique, args={"label": n}, cache_key=KEYS[n]) for n in reversed(range(len(KEYS)))]
    return [list(await coda.gather(*once)), list(reversed(await coda.gather(*again)))]


@coda.workflow(name="automatic_keys", max_retries=1, backoff=QUICKLY)
async def automatic_keys() -> list[str]:
    values = [await coda.context.spawn_task(unique, args={"label": n}) for n in range(3)]
    note("read", values=values)
    if coda.context.attempt == 1:
        raise RuntimeError("once more, please")
    return values


@coda.workflow(name="no_cache", max_retries=1, backoff=QUICKLY)
async def no_cache() -> list[str]:
    fresh = [await coda.context.spawn_task(unique, args={"label": "fresh"}, cache_key=coda.NO_CACHE) for _ in range(2)]
    kept = await coda.context.spawn_task(unique, args={"label": "kept"}, cache_key=[1])
    note("read", values=[*fresh, kept])
    if coda.context.attempt == 1:
        raise RuntimeError("once more, please")
    return [*fresh, kept]


@coda.workflow(name="one_key_many_spawns")
async def one_key_many_spawns(count: int) -> list[str]:
    handles = [coda.context.spawn_task(slow_unique, args={"label": "one"}, cache_key=["one"]) for _ in range(count)]
    return list(await asyncio.gather(*handles))


@coda.task(name="slow_unique")
async def slow_unique(label: str) -> str:
    value = body(label)
    await asyncio.sleep(0.05)
    return value


@coda.workflow(name="await_often")
async def await_often() -> list[str]:
    handle = coda.context.spawn_task(slow_unique, args={"label": "often"})
    together = await asyncio.gather(handle, asyncio.wait_for(handle, 30), *[_also(handle) for _ in range(3)])
    return [*together, await handle, await handle]


async def _also(handle: coda.Handle[str]) -> str:
    return await handle


@coda.workflow(name="in_order")
async def in_order(count: int) -> list[int]:
    """Later spawns finish first."""
    return list(
        await coda.gather(
            *[coda.context.spawn_task(after, args={"n": n, "seconds": (count - n) / 100}) for n in range(count)]
        )
    )


@coda.task(name="after")
async def after(n: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return n


@coda.workflow(name="refactored", max_retries=1, backoff=QUICKLY)
async def refactored() -> list[str]:
    """The second execution spawns other steps, in another order. Positions in a history would not survive that."""
    values = {}
    order = "abc" if coda.context.attempt == 1 else "dcba"
    for key in order:
        values[key] = await coda.context.spawn_task(unique, args={"label": key}, cache_key=[key])
        note("read", key=key, value=values[key])
    if coda.context.attempt == 1:
        raise RuntimeError("once more, please")
    return [values[key] for key in "abcd"]


# Failures


class CardDeclined(ValueError):
    pass


@coda.task(name="decline")
def decline(card: str) -> str:
    body(card)
    raise CardDeclined(f"card {card} declined")


@coda.workflow(name="catches")
async def catches() -> dict[str, Any]:
    try:
        await coda.context.spawn_task(decline, args={"card": "4242"})
    except coda.TaskFailed as failed:
        return {
            "kind": failed.kind,
            "message": failed.message,
            "name": failed.name,
            "traceback": failed.remote_traceback,
            "matches": [failed.matches(CardDeclined), failed.matches(ValueError), failed.matches(OSError)],
        }
    return {}


@coda.workflow(name="does_not_catch")
async def does_not_catch() -> None:
    await coda.context.spawn_task(decline, args={"card": "4242"})


@coda.task(name="flaky", retry_on=(OSError,), max_retries=4, backoff=QUICKLY)
async def flaky(failures: int, error: str = "OSError") -> str:
    attempt = coda.current_task().attempt
    value = body("flaky")
    if attempt <= failures:
        raise {"OSError": OSError, "ConnectionError": ConnectionError, "KeyError": KeyError}[error](f"no {attempt}")
    return value


@coda.workflow(name="retries_workflow", max_retries=2, backoff=QUICKLY)
async def retries_workflow() -> list[str]:
    good = await coda.context.spawn_task(unique, args={"label": "good"}, cache_key=["good"])
    note("read", value=good)
    # Runs three times: a failure is remembered only for the attempt of the run in which it happened.
    bad = await coda.context.spawn_task(bad_until_third, cache_key=["bad"])
    return [good, bad]


@coda.task(name="bad_until_third")
async def bad_until_third() -> str:
    value = body("bad")
    tries = flag("tries")
    count = int(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text(str(count))
    if count < 3:
        raise RuntimeError(f"try {count}")
    return value


@coda.workflow(name="remembers_failure")
async def remembers_failure() -> int:
    """Within one attempt of a run a failure is a result as well: it is not tried again."""
    seen = 0
    for _ in range(3):
        try:
            await coda.context.spawn_task(decline, args={"card": "1"}, cache_key=["card"])
        except coda.TaskFailed:
            seen += 1
    return seen


# Delivery


@coda.task(name="stops_here")
def stops_here() -> str:
    """Hangs in its first attempt until it is told to go on; by then another one has it."""
    value = body("stops")
    if coda.current_task().attempt == 1:
        while not flag("go").exists():
            time.sleep(0.01)
        note("late", value=value)
    return value


@coda.workflow(name="fenced")
async def fenced() -> str:
    return await coda.context.spawn_task(stops_here, cache_key=["one"])


# Inline steps


@coda.workflow(name="inline_steps", max_retries=1, backoff=QUICKLY)
async def inline_steps() -> list[str]:
    plain = await coda.run(inline_sync, args={"label": "sync"}, cache_key=["sync"])
    coroutine = await coda.run(inline_async, args={"label": "async"})
    a_task = await coda.run(unique, args={"label": "task"})
    note("read", values=[plain, coroutine, a_task])
    if coda.context.attempt == 1:
        raise RuntimeError("once more, please")
    return [plain, coroutine, a_task]


def inline_sync(label: str) -> str:
    return body(label)


async def inline_async(label: str) -> str:
    await asyncio.sleep(0)
    return body(label)


# Children


@coda.workflow(name="parent")
async def parent(count: int) -> list[list[str]]:
    handles = [coda.context.spawn_workflow(child, args={"n": n}, cache_key=[n]) for n in range(count)]
    return list(await coda.gather(*handles))


@coda.workflow(name="child")
async def child(n: int) -> list[str]:
    return [str(n), await coda.context.spawn_task(unique, args={"label": n})]


@coda.workflow(name="parent_of_failure")
async def parent_of_failure() -> list[str]:
    try:
        await coda.context.spawn_workflow(does_not_catch)
    except coda.RunFailed as failed:
        return [failed.name, failed.kind, failed.message]
    return []


# Blocking bodies: each ends only when an async task of the same process has run meanwhile.


@coda.task(name="blocks_thread")
def blocks_thread(name: str) -> int:
    while not flag(name).exists():
        time.sleep(0.005)
    return os.getpid()


# In a queue of its own: a queue offers as many slots as the scarcest way to run its tasks has.
@coda.task(name="blocks_process", executor="process", queue="cpu")
def blocks_process(name: str) -> int:
    while not flag(name).exists():
        pass
    return os.getpid()


@coda.task(name="raise_flag")
async def raise_flag(name: str) -> int:
    flag(name).touch()
    return os.getpid()


@coda.workflow(name="blocking_bodies")
async def blocking_bodies(kind: str, count: int) -> dict[str, Any]:
    task = {"thread": blocks_thread, "process": blocks_process}[kind]
    blocked = [coda.context.spawn_task(task, args={"name": kind}) for _ in range(count)]
    # All have been accepted, and leased as far as there are slots, before this one is.
    loop_pid = await coda.context.spawn_task(raise_flag, args={"name": kind})
    return {"loop": loop_pid, "bodies": list(await coda.gather(*blocked))}


# Order


@coda.task(name="in_line", queue="line")
def in_line(label: str) -> None:
    note("line", label=label)
