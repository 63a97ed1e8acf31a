"""Many tasks at once: all of them run, and what waits costs disk and not memory.

`CODA_E2E_WAITING` is how many wait: 20,000 by default, 100,000 for an acceptance run.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from .harness import Node, Project, number_from_env, rss_mib, wait_for
from .programs import many

FAN_OUT = 10_000
WAITING = number_from_env("CODA_E2E_WAITING", 20_000)
#: What one waiting task may cost the node's memory. Its row is on disk; some of it is in a memtable.
WAITING_BYTES_MAX = 1_500

pytestmark = pytest.mark.timeout(120 + WAITING / 250)


def test_one_workflow_gathers_ten_thousand_tasks(project: Project, node: Node) -> None:
    workers = project.workers("many", n=2)
    before = rss_mib(node.pid)
    with node.client() as client:
        started = time.monotonic()
        total = client.run(many.fan_out, {"count": FAN_OUT}, timeout=100)
        seconds = time.monotonic() - started
    assert total == sum(n * 2 for n in range(FAN_OUT))
    sizes = ", ".join(f"{rss_mib(pid):.0f}" for pid in workers.children())
    print(
        f"{FAN_OUT} tasks in {seconds:.1f} s ({FAN_OUT / seconds:.0f}/s); "
        f"node {before:.0f} -> {rss_mib(node.pid):.0f} MiB, workers {sizes} MiB"
    )
    wait_for("an empty queue", lambda: not any(project.left_in_queues().values()))


def test_work_that_nobody_runs_waits_on_disk(project: Project, node: Node) -> None:
    sizes = {0: rss_mib(node.pid)}
    print(f"node with 0 waiting: {sizes[0]:.1f} MiB")
    asyncio.run(_submit(node, sizes))
    lane = _lane(project)
    assert (lane["ready"], lane["waits"]) == (WAITING, "no_worker")
    assert "no worker has registered this name" in lane["why"]
    per_task = (sizes[WAITING] - sizes[0]) * 1024 * 1024 / WAITING
    print(f"{per_task:.0f} bytes of node memory per waiting task")
    assert per_task < WAITING_BYTES_MAX, sizes

    started = time.monotonic()
    project.workers("later", n=2)
    wait_for("all to run", lambda: not any(project.left_in_queues().values()), timeout=60 + WAITING / 500)
    print(f"{WAITING} ran in {time.monotonic() - started:.1f} s, node {rss_mib(node.pid):.1f} MiB")


def _lane(project: Project) -> Any:
    (lane,) = project.queue()["lanes"]
    return lane


async def _submit(node: Node, sizes: dict[int, float]) -> None:
    milestones = sorted({min(count, WAITING) for count in (10_000, 50_000, WAITING)})
    async with node.async_client() as client:
        submitted = 0
        started = time.monotonic()
        for milestone in milestones:
            while submitted < milestone:
                count = min(1_000, milestone - submitted)
                await asyncio.gather(*[client.submit("not_yet", {"n": submitted + n}) for n in range(count)])
                submitted += count
            sizes[milestone] = rss_mib(node.pid)
            rate = submitted / (time.monotonic() - started)
            print(f"node with {submitted} waiting: {sizes[milestone]:.1f} MiB ({rate:.0f} submitted/s)")
