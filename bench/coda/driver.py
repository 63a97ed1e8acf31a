"""Coda for the peers' harness: one node (`coda dev`) or three that are a cluster, two worker processes, the asyncio client.

`coda` sends steps through the queue as Celery does; `coda-inline` runs them in the workflow's process as Restate does.
With `-3` behind their names they run on three nodes with three data groups and three copies of each.
`bench/run.py` puts this folder into a copy of the harness; `CODA_BENCH_PYTHON` is where `cluster.py` and `app.py` lie.
"""
import os
import sys
from pathlib import Path

from lib import *

sys.path.insert(0, os.environ.get("CODA_BENCH_PYTHON") or str(Path(__file__).resolve().parent.parent / "python"))
import cluster


class Driver(System):
    workers = f"coda-worker x{cluster.WORKER_PROCESSES}"

    def __init__(self, variant):
        super().__init__(variant)                                 # "spawned" | "inline", then "-3" for three nodes
        self.steps, _, nodes = variant.partition("-")
        self.nodes = int(nodes or 1)
        self.durability = f"Raft log fsync, {self.nodes} node(s), a majority before each reply"
        self.limits = {"W1": 40_000, "W2": 400, "W3": 8_000}      # longer: otherwise over within a moment
        self.cluster = None
        if self.steps == "inline":
            self.skip = {w: "same as coda" for w in ("W1", "W4", "W5", "W6")}

    def start(self, d):
        d = Path(d)
        delay = os.environ.get("CODA_SYNC_DELAY")
        if self.nodes > 1:
            self.cluster = cluster.several_nodes(d / "nodes", self.nodes, delay)
            self.cluster.start()
            self.server = list(self.cluster.nodes)                # all that is asked of them is their `pid`
            address, ca = self.cluster.address, self.cluster.ca
        else:
            node = spawn(cluster.node_command(d / "node", delay), d, "node-log")
            self.server.append(node)
            address, ca = cluster.address_of(d / "node-log.log", node), d / "node/certs/ca.pem"
        worker = spawn(cluster.worker_command(), d, "worker", env=cluster.worker_environment(address, ca))
        self.worker.append(worker)
        cluster.wait_for_workers(d / "worker.log", worker)
        self.asker = cluster.Asker(address, ca, f"steps_{self.steps}")

    def stop(self):
        if self.cluster:
            self.server = []
        super().stop()
        if self.cluster:
            self.cluster.stop()

    def counted(self):
        """What the nodes have counted since they started, all together."""
        return cluster.counters(self.cluster.status()) if self.cluster else {}

    def peer_ports(self):
        return cluster.peer_ports(self.cluster.status()) if self.cluster else []

    async def open(self):
        await self.asker.open()

    async def close(self):
        await self.asker.close()

    async def submit(self, i):
        return await self.asker.submit(payload(i))

    async def result(self, h):
        return await self.asker.result(h)

    async def run(self, wf, *a):
        return await self.asker.run(wf, *a, payload=PAYLOAD)
