#!/usr/bin/env python3
"""Measures Coda with its Python SDK alone: `client.py W1 W2 --scale 0.2`. One JSON line per measurement.

The workloads and the names of the figures are those of the peers' harness, so that its `report.py` reads them; what it
has beyond this (memory, bytes written) `coda-bench` measures too. Ratios to other systems need `bench/run.py --peers`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cluster

PAYLOAD = {"id": 0, "kind": "noop", "data": "x" * 165}
IN_FLIGHT = 64
TICKS = os.sysconf("SC_CLK_TCK")
WORKLOADS = ("W1", "W2", "W3", "W4", "W5", "W6")
Figures = dict[str, Any]


async def bounded(do: Callable[[Any], Awaitable[Any]], items: Iterable[Any]) -> list[Any]:
    """At most so many at once; keeps the order."""
    items = list(items)
    results: list[Any] = [None] * len(items)
    left = iter(range(len(items)))

    async def lane() -> None:
        for i in left:
            results[i] = await do(items[i])

    await asyncio.gather(*(lane() for _ in range(min(IN_FLIGHT, len(items)))))
    return results


async def timed(work: Awaitable[Any]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def latencies(seconds: list[float]) -> Figures:
    ordered = sorted(seconds)
    at = lambda q: ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1e3  # noqa: E731
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "n": len(ordered)}


async def queue_throughput(asker: cluster.Asker, n: int) -> Figures:
    started = time.perf_counter()
    handles = await bounded(lambda i: asker.submit({**PAYLOAD, "id": i}), range(n))
    submitted = time.perf_counter() - started
    await bounded(asker.result, handles)
    took = time.perf_counter() - started
    return {"tasks": n, "submit_per_s": n / submitted, "tasks_per_s": n / took}


async def sequential_steps(asker: cluster.Asker, n: int) -> Figures:
    took = [await timed(asker.run("steps", 10, payload=PAYLOAD)) for _ in range(n)]
    return {"tasks": n * 10, **latencies(took), "step_p50_ms": statistics.median(took) * 1e2}


async def concurrent_runs(asker: cluster.Asker, n: int) -> Figures:
    started = time.perf_counter()
    took = await bounded(lambda _: timed(asker.run("steps", 2, payload=PAYLOAD)), range(n))
    return {"tasks": n * 2, "wf_per_s": n / (time.perf_counter() - started), **latencies(took)}


async def fan_out(asker: cluster.Asker, n: int) -> Figures:
    took = await timed(asker.run("fan", n, payload=PAYLOAD))
    return {"tasks": n, "s": took, "tasks_per_s": n / took}


async def stages_of_20(asker: cluster.Asker, stages: int) -> Figures:
    took = await timed(asker.run("dag", stages, 20, payload=PAYLOAD))
    return {"tasks": stages * 20, "s": took, "stage_ms": took / stages * 1e3}


async def idle_start(asker: cluster.Asker, n: int) -> Figures:
    took = []
    for _ in range(n):
        await asyncio.sleep(0.02)
        asked = time.time()
        took.append(await asker.run("stamp", payload=PAYLOAD) - asked)
    return {"tasks": n, **latencies(took)}


MEASURES: dict[str, tuple[Callable[[cluster.Asker, int], Awaitable[Figures]], int]] = {
    "W1": (queue_throughput, 10_000),
    "W2": (sequential_steps, 200),
    "W3": (concurrent_runs, 2_000),
    "W4": (fan_out, 1_000),
    "W5": (stages_of_20, 50),
    "W6": (idle_start, 200),
}


def cpu_seconds(pid: int) -> float:
    """Of a process and its children, ended ones included."""
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
        ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    todo, total = [pid], 0
    while todo:
        process = todo.pop()
        total += ticks.get(process, 0)
        todo += parents.get(process, [])
    return total / TICKS


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def measure(workload: str, options: argparse.Namespace, folder: Path) -> Figures:
    """On a fresh node with fresh workers."""
    fn, n = MEASURES[workload]
    logs = {name: (folder / f"{name}.log").open("ab") for name in ("node-log", "worker")}

    def start(name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=logs[name],
            stderr=logs[name],
            env={**os.environ, **environment},
        )

    started: list[subprocess.Popen[bytes]] = []
    try:
        node = start("node-log", cluster.node_command(folder / "node", options.sync_delay))
        started.append(node)
        address, ca = cluster.address_of(folder / "node-log.log", node), folder / "node/certs/ca.pem"
        worker = start("worker", cluster.worker_command(), **cluster.worker_environment(address, ca))
        started.append(worker)
        cluster.wait_for_workers(folder / "worker.log", worker)

        async def run() -> Figures:
            asker = cluster.Asker(address, ca, "steps_inline" if options.inline else "steps_spawned")
            await asker.open()
            try:
                await queue_throughput(asker, 50)
                before = cpu_seconds(node.pid), cpu_seconds(worker.pid), time.process_time()
                figures = await fn(asker, max(4, int(n * options.scale)))
                after = cpu_seconds(node.pid), cpu_seconds(worker.pid), time.process_time()
                names = ("server_cpu_s", "worker_cpu_s", "client_cpu_s")
                return {**figures, **{name: b - a for name, a, b in zip(names, before, after, strict=True)}}
            finally:
                await asker.close()

        return asyncio.run(run())
    finally:
        for process in reversed(started):
            stop(process)
        for log in logs.values():
            log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workloads", nargs="*", metavar="W1..W6", help="all unless told otherwise")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the full size")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--inline", action="store_true", help="W2 and W3 with inline steps")
    parser.add_argument("--sync-delay", metavar="2ms", help="passed on to the node")
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"no workload {', '.join(sorted(unknown))}: choose from {', '.join(WORKLOADS)}")
    try:
        import uvloop

        uvloop.install()
    except ImportError:
        pass
    system = "coda-inline" if options.inline else "coda"
    for number in range(options.rounds):
        for workload in options.workloads or WORKLOADS:
            with tempfile.TemporaryDirectory(prefix="coda-bench-") as folder:
                figures = measure(workload, options, Path(folder))
            print(json.dumps({"system": system, "workload": workload, "run": number, **figures}), flush=True)


if __name__ == "__main__":
    main()
