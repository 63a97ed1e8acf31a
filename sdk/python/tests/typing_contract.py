"""What users' type checkers see. Not run: mypy and pyright read it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import coda
from typing_extensions import assert_type


@coda.task
def plain(a: int, b: str = "") -> float:
    return a / 2


@coda.task(name="named", retry_on=(ValueError,), max_retries=5, backoff=coda.Backoff(initial=0.1))
def with_options(a: int) -> list[str]:
    return [str(a)]


@coda.task()
async def on_the_loop(a: int) -> bytes:
    return b""


@coda.task(retry_on=lambda error: "again" in str(error), executor="process")
def in_a_process(a: int) -> None: ...


@coda.workflow
async def bare_workflow(a: int) -> str:
    return str(a)


async def helper(x: int) -> dict[str, int]:
    return {"x": x}


def blocking_helper(x: int) -> set[int]:
    return {x}


@coda.workflow(max_retries=2)
async def workflow(project_id: int, **kwargs: Any) -> tuple[int, str]:
    handle = coda.context.spawn_task(plain, args={"a": 1}, cache_key=[project_id, "x", None, (1, 2.5)])
    assert_type(handle, coda.Handle[float])
    assert_type(await handle, float)
    assert_type(await coda.context.spawn_task(with_options, args=[1], cache_key=coda.NO_CACHE), list[str])
    assert_type(await coda.context.spawn_task(on_the_loop, args={"a": 1}), bytes)
    assert_type(await coda.context.spawn_task("elsewhere", args={"a": 1}, delay=1.5), Any)
    assert_type(await coda.context.spawn_workflow(bare_workflow, {"a": 1}), str)
    assert_type(await coda.run(helper, {"x": 1}), dict[str, int])
    assert_type(await coda.run(blocking_helper, [1], cache_key=["k"]), set[int])
    assert_type(await coda.run(plain, [1]), float)
    # mypy says Any here: a task is callable, and so fits two overloads.
    assert_type(await coda.run(on_the_loop, [1]), bytes)  # type: ignore[assert-type]
    a, b = await asyncio.gather(coda.context.spawn_task(plain), coda.context.spawn_task(on_the_loop))
    assert_type(a, float)
    assert_type(b, bytes)
    done, _ = await asyncio.wait([handle])
    for each in done:
        assert_type(each.result(), float)
    assert_type(await asyncio.wait_for(handle, 1), float)
    assert_type(coda.current_task().retries_left, int)
    return 1, "a"


# A decorated function keeps its signature.
_: object
assert_type(plain(1, b="x"), float)
_ = assert_type(on_the_loop(1), Coroutine[Any, Any, bytes])
_ = assert_type(workflow(1, more=2), Coroutine[Any, Any, tuple[int, str]])
plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
with_options()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

app = coda.App("typed")


@app.task(queue="other")
def of_an_app(a: int) -> complex:
    return complex(a)


assert_type(of_an_app(1), complex)


async def asynchronous() -> None:
    async with coda.AsyncClient() as client:
        run = await client.start(workflow, args={"project_id": 1}, run_id=coda.id_for("a", 1))
        assert_type(run, coda.AsyncRunHandle[tuple[int, str]])
        assert_type(await run.result(timeout=1), tuple[int, str])
        assert_type(await client.run(bare_workflow, {"a": 1}), str)
        assert_type(await client.run("by_name"), Any)
        task = await client.submit(on_the_loop, {"a": 1})
        assert_type(await task.result(), bytes)
        assert_type((await task.describe()).waits, coda.Wait)
        assert_type(await client.queue("default"), coda.QueueDescription)


def blocking() -> None:
    with coda.Client() as client:
        assert_type(client.start(workflow).result(), tuple[int, str])
        assert_type(client.run(bare_workflow, {"a": 1}), str)
        assert_type(client.submit(plain, {"a": 1}).result(), float)
        assert_type(client.queues(), list[coda.QueueSummary])
        assert_type(client.handle("x").describe().state == "failed", bool)


class Codec:
    name = "mine"

    def encode(self, value: Any) -> bytes:
        return b""

    def decode(self, data: bytes) -> Any:
        return None


coda.register_codec(Codec())
