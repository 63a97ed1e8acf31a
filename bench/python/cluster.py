"""A node or several, their workers and a client of them, as every measurement in Python uses them. Knows no harness.

`node_command` and `worker_command` say how to start; `wait_for` when that is done; `Asker` asks for work.
`several_nodes` are those of `make cluster`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import app
import coda

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
READY_WITHIN_S = 30.0
WORKER_PROCESSES = 2


def node_command(data_dir: Path, sync_delay: str | None = None) -> list[str]:
    binary = os.environ.get("CODA_BIN", str(CHECKOUT / "target/release/coda"))
    delay = ["--sync-delay", sync_delay] if sync_delay else []
    return [binary, "dev", "--data-dir", str(data_dir), "--port", "0", *delay]


def several_nodes(folder: Path, nodes: int, sync_delay: str | None = None) -> Any:
    """A cluster that has not been started, with as many data groups as nodes."""
    sys.path.append(str(CHECKOUT))
    from examples.events.cluster import Cluster

    os.environ.setdefault("CODA_BIN", str(CHECKOUT / "target/release/coda"))
    return Cluster(folder, nodes=nodes, sync_delay=sync_delay or "0ms")


def reports(status: dict[str, Any]) -> list[dict[str, Any]]:
    """What each node says of itself. All have to answer: a sum without one of them would be a wrong figure."""
    return [member["report"] for member in status["nodes"]]


def counters(status: dict[str, Any]) -> dict[str, int]:
    """What all nodes have counted since they started. An entry is counted where it was proposed, a sync everywhere."""
    each = [report["counters"] for report in reports(status)]
    return {name: sum(counted[name] for counted in each) for name in ("entries", "commands", "log_syncs", "log_bytes")}


def peer_ports(status: dict[str, Any]) -> list[int]:
    return [int(report["peer_address"].rpartition(":")[2]) for report in reports(status)]


def worker_command(processes: int = WORKER_PROCESSES) -> list[str]:
    return [sys.executable, "-m", "coda.worker", "app", "-n", str(processes)]


def worker_environment(address: str, ca: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return {"CODA_ADDRESS": address, "CODA_CA": str(ca), "PYTHONPATH": path}


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], times: int = 1) -> str:
    """Waits until `text` stands in the log so often; returns the line where it stands last."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        said = log.read_text(errors="replace") if log.exists() else ""
        lines = [line for line in said.splitlines(keepends=True) if text in line and line.endswith("\n")]
        if len(lines) >= times:
            return lines[-1]
        if process.poll() is not None:
            raise RuntimeError(f"{log.stem} ended with {process.returncode}:\n{said[-2_000:]}")
        time.sleep(0.02)
    raise RuntimeError(f"{log.stem} did not say {text!r} within {READY_WITHIN_S:.0f} s, see {log}")


def address_of(node_log: Path, node: subprocess.Popen[bytes]) -> str:
    return wait_for("coda is ready on ", node_log, node).split()[-1]


def wait_for_workers(worker_log: Path, worker: subprocess.Popen[bytes], processes: int = WORKER_PROCESSES) -> None:
    wait_for("serving queues", worker_log, worker, processes)


class Asker:
    """The primitives that workloads are made of. `steps` is the workflow that takes sequential steps."""

    def __init__(self, address: str, ca: Path, steps: str) -> None:
        self._address, self._ca = address, ca
        self._steps = {"steps_spawned": app.steps_spawned, "steps_inline": app.steps_inline}[steps]

    async def open(self) -> None:
        self.client = coda.AsyncClient(self._address, self._ca)
        await self.client.__aenter__()

    async def close(self) -> None:
        await self.client.close()

    async def submit(self, payload: dict[str, Any]) -> coda.AsyncTaskHandle[Any]:
        return await self.client.submit(app.noop, args={"p": payload})

    async def result(self, handle: coda.AsyncTaskHandle[Any]) -> Any:
        return await handle.result()

    async def run(self, workflow: str, *sizes: int, payload: dict[str, Any]) -> Any:
        """`steps` k, `fan` n, `dag` stages width: the number of nodes done. `stamp`: when its body began."""
        match workflow, sizes:
            case "steps", (k,):
                return await self.client.run(self._steps, args={"k": k, "p": payload})
            case "fan", (n,):
                return await self.client.run(app.fan, args={"n": n, "p": payload})
            case "dag", (stages, width):
                return await self.client.run(app.dag, args={"stages": stages, "width": width, "p": payload})
            case "stamp", ():
                handle = await self.client.submit(app.stamp, args={})
                return await handle.result()
            case _:
                raise ValueError(f"no workload {workflow}{sizes}")
