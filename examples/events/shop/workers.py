"""Background work: asyncio, threads, queues, subprocesses."""

from __future__ import annotations

import asyncio
import contextvars
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent import futures
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import sentry_sdk

from .registry import fault
from .world import World

current_job: contextvars.ContextVar[str] = contextvars.ContextVar("current_job")


class JobFailed(Exception):
    pass


class PoisonMessage(JobFailed):
    """Carries the message that no consumer could handle."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(f"message {message['id']} was rejected {message['deliveries']} times")
        self.message = message


class LeaseLost(JobFailed):
    pass


async def fetch_rate(currency: str, delay_s: float) -> float:
    await asyncio.sleep(delay_s)
    raise JobFailed(f"no rate for {currency} ₿")


@fault
def async_timeout(world: World) -> None:
    async def main() -> float:
        return await asyncio.wait_for(fetch_rate("EUR", 5.0), timeout=0.001)

    asyncio.run(main())


@fault
def async_timeout_block(world: World) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    asyncio.run(main())


@fault
def task_group_fails(world: World) -> None:
    """Two of three children fail: an ExceptionGroup out of asyncio.TaskGroup."""

    async def main(currencies: list[str]) -> None:
        async with asyncio.TaskGroup() as group:
            for currency in currencies:
                group.create_task(fetch_rate(currency, 0.0), name=f"rate-{currency}")
            group.create_task(asyncio.sleep(5))

    asyncio.run(main(world.rng.sample(["EUR", "JPY", "PLN", "₽"], k=2)))


@fault
def gathered_failure(world: World) -> None:
    async def main() -> list[float]:
        return await asyncio.gather(*(fetch_rate(code, 0.0) for code in ("GBP", "ZŁ", "円")))

    asyncio.run(main())


@fault
def task_is_cancelled(world: World) -> None:
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(5))
        await asyncio.sleep(0)
        task.cancel(f"shutdown of host {world.hex(3)}")
        await task

    asyncio.run(main())


@fault
def future_is_set_twice(world: World) -> None:
    async def main() -> None:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.set_result(world.hex(4))
        future.set_result("もう一度")

    asyncio.run(main())


@fault
def async_queue_is_full(world: World) -> None:
    async def main() -> None:
        jobs: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=2)
        for line in world.lines(3, 5):
            jobs.put_nowait(line)

    asyncio.run(main())


@fault
def async_queue_is_empty(world: World) -> None:
    async def main() -> None:
        asyncio.Queue[int]().get_nowait()

    asyncio.run(main())


@fault
def stream_ends_early(world: World) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(world.text(3).encode())
        reader.feed_eof()
        await reader.readexactly(4_096)

    asyncio.run(main())


@fault
def stream_line_is_too_long(world: World) -> None:
    async def main() -> None:
        reader = asyncio.StreamReader(limit=64)
        reader.feed_data(world.text(200).encode())
        await reader.readuntil(b"\n")

    asyncio.run(main())


async def pages(world: World) -> AsyncIterator[dict[str, Any]]:
    for number in range(3):
        await asyncio.sleep(0)
        yield {"page": number, "items": world.lines(2, 4)}
    raise JobFailed("page 3: курсор истёк")


@fault
def async_generator_fails(world: World) -> None:
    async def main() -> list[dict[str, Any]]:
        return [page async for page in pages(world)]

    asyncio.run(main())


@asynccontextmanager
async def lease(job: str) -> AsyncIterator[str]:
    yield job
    raise LeaseLost(f"lease of {job} expired before it was released")


@fault
def lease_lost_on_exit(world: World) -> None:
    """The body fails, then the clean-up fails too: a chain through an AsyncExitStack."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            job = await stack.enter_async_context(lease(f"job-{world.hex(4)}"))
            stack.callback(lambda: dict[str, str]()["released"])
            sentry_sdk.add_breadcrumb(category="lease", message=job)

    asyncio.run(main())


@fault
def loop_inside_a_loop(world: World) -> None:
    async def main() -> None:
        nothing = asyncio.sleep(0)
        try:
            asyncio.run(nothing)
        finally:
            nothing.close()

    asyncio.run(main())


@fault
def thread_dies(world: World) -> None:
    """Reported by the SDK's threading integration, from the thread: nothing is raised here."""
    inventory = {line["product"]["sku"]: line for line in world.lines()}

    def count(shelf: str) -> int:
        return int(inventory[shelf]["quantity"])

    thread = threading.Thread(target=count, args=(f"полка-{world.hex(2)}",), name="inventory-7", daemon=True)
    thread.start()
    thread.join()


@fault
def pool_worker_fails(world: World) -> None:
    """The traceback crosses a thread pool: future.result() raises what the worker raised."""

    def render(order: dict[str, Any]) -> str:
        return "\n".join(line["product"]["name"] for line in order["lines"])

    with futures.ThreadPoolExecutor(max_workers=2, thread_name_prefix="render") as pool:
        for future in [pool.submit(render, world.order()) for _ in range(3)]:
            future.result()


@fault
def pool_is_shut_down(world: World) -> None:
    pool = futures.ThreadPoolExecutor(max_workers=1)
    pool.shutdown()
    pool.submit(print, world.hex(4))


@fault
def cancelled_future(world: World) -> None:
    future: futures.Future[str] = futures.Future()
    future.cancel()
    future.result()


@fault
def broken_pool(world: World) -> None:
    with futures.ThreadPoolExecutor(max_workers=1, initializer=int, initargs=(world.hex(3) + "ж",)) as pool:
        pool.submit(len, "…").result()


@fault
def barrier_is_broken(world: World) -> None:
    barrier = threading.Barrier(2)
    barrier.abort()
    barrier.wait()


@fault
def lock_is_not_held(world: World) -> None:
    threading.Lock().release()


@fault
def queue_is_empty(world: World) -> None:
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    jobs.get_nowait()


@fault
def queue_is_full(world: World) -> None:
    jobs: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=1)
    for line in world.lines(2, 4):
        jobs.put_nowait(line)


@fault
def context_variable_is_not_set(world: World) -> None:
    contextvars.Context().run(current_job.get)


@fault
def converter_fails(world: World) -> None:
    command = [
        sys.executable,
        "-S",
        "-E",
        "-c",
        f"import os; os.write(2, 'ошибка'.encode()); os._exit({world.rng.randrange(2, 9)})",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@fault
def converter_hangs(world: World) -> None:
    subprocess.run([sys.executable, "-S", "-E", "-c", "import time; time.sleep(30)"], timeout=0.02)


@fault
def converter_is_not_installed(world: World) -> None:
    subprocess.run([f"/nonexistent/convert-{world.hex(3)}"], check=True)


@fault
def nobody_to_wait_for(world: World) -> None:
    # The process has no child with this pid, and no process has: it is above any kernel's limit.
    os.waitpid(2**22 + 2**20, os.WNOHANG)


@fault
def poison_message(world: World) -> None:
    """Every delivery adds a link: a chain as long as the redeliveries."""
    message: dict[str, Any] = {"id": world.hex(8), "body": world.order(), "deliveries": 0}
    error: Exception | None = None
    for _ in range(world.rng.randrange(3, 7)):
        message["deliveries"] += 1
        try:
            try:
                message["body"]["shipping"]
            except KeyError as exc:
                raise JobFailed(f"delivery {message['deliveries']}: поле «shipping» отсутствует") from (error or exc)
        except JobFailed as exc:
            error = exc
    raise PoisonMessage(message) from error


@fault
def hook_cannot_be_called(world: World) -> None:
    hooks: list[Any] = [str.upper, "strip", str.title]
    value = world.query()
    for hook in hooks:
        value = hook(value)


@fault
def hook_called_with_too_much(world: World) -> None:
    def hook(order: dict[str, Any], *, strict: bool) -> None: ...

    hook(world.order(), strict=True, langue="fr")  # type: ignore[call-arg]
