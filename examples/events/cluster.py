"""`make cluster`: three nodes on this machine that are one cluster, with certificates of an authority of their own.

    CODA_BIN=target/release/coda python -m examples.events.cluster

Each node is a process with a folder of its own: certificates, a `node.toml`, data and a log. They are started, let into
the cluster once, and left running until Ctrl-C. The next start goes on with what the folders hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .processes import DemoError, Node, Process, find_program

REPOSITORY = Path(__file__).resolve().parents[2]
HEALTHY_TIMEOUT_S = 60.0
POLL_S = 0.1
ADMIN_TIMEOUT_S = 30

NODE_TOML = """\
# Written by `make cluster` on its first run; yours to change.
[node]
id = {node}
data_dir = "data"
zone = "zone-{node}"

[listen]
client = "{client}"
peer = "{peer}"

[storage]
sync_delay = "{sync_delay}"
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each given once."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class ClusterNode(Node):
    """`coda serve`, one node of several."""

    def __init__(self, coda: str, folder: Path, address: str, environment: Mapping[str, str]) -> None:
        command = [coda, "serve", "--config", str(folder / "node.toml")]
        Process.__init__(self, folder.name, command, folder / "node.log", environment, folder)
        self.folder = folder
        self.address = address


class Cluster:
    """Nodes that are one cluster. Entering starts them and waits until all is well."""

    def __init__(self, folder: Path, *, nodes: int = 3, groups: int | None = None, sync_delay: str = "0ms") -> None:
        self.folder = folder
        self.coda = find_program("coda", "CODA_BIN", beside=REPOSITORY / "target" / "release")
        self.admin = find_program("coda-admin", "CODA_ADMIN_BIN", beside=Path(self.coda).parent)
        self._count = nodes
        self._groups = nodes if groups is None else groups
        self._sync_delay = sync_delay
        self.nodes: list[ClusterNode] = []

    @property
    def ca(self) -> Path:
        return self.folder / "ca" / "ca.pem"

    @property
    def address(self) -> str:
        return ",".join(node.address for node in self.nodes)

    @property
    def environment(self) -> dict[str, str]:
        """What clients and workers find the cluster by."""
        return {"CODA_ADDRESS": self.address, "CODA_CA": str(self.ca)}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        is_new = not self.ca.exists()
        if is_new:
            self._run("cert", "ca", "--out", str(self.ca.parent), "--cluster-name", "local")
        self.nodes = [self._node(number) for number in range(1, self._count + 1)]
        with ThreadPoolExecutor(len(self.nodes)) as starting:
            list(starting.map(lambda node: node.start(), self.nodes))
        if is_new:
            self._form()
        self.wait_until_healthy()

    def stop(self) -> None:
        # One after the other, so that each can hand over what it leads.
        for node in self.nodes:
            node.stop()

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        said = ""
        while time.monotonic() < deadline:
            for node in self.nodes:
                node.check()
            status = self._try("cluster", "health")
            if status.returncode == 0:
                return
            said = (status.stdout + status.stderr).strip()
            time.sleep(POLL_S)
        raise DemoError(
            f"the cluster is not healthy after {HEALTHY_TIMEOUT_S:.0f} s: {said}\nLogs are in {self.folder}"
        )

    def status(self) -> dict[str, Any]:
        status = self._try("cluster", "status", "-o", "json")
        result: dict[str, Any] = json.loads(status.stdout)
        return result

    def _form(self) -> None:
        first = self.nodes[0]
        self._run("cluster", "init", "--groups", str(self._groups), "--address", first.address, "--ca", str(self.ca))
        for node in self.nodes[1:]:
            token = self._run("cluster", "token", "create", "--address", first.address, "--ca", str(self.ca)).strip()
            (node.folder / "join-token").write_text(token)
            (node.folder / "join-token").chmod(0o600)
            self._run(
                *("cluster", "join", "--address", node.address, "--seeds", first.address, "--ca", str(self.ca)),
                *("--token-file", str(node.folder / "join-token")),
            )
            (node.folder / "join-token").unlink()

    def _node(self, number: int) -> ClusterNode:
        folder = self.folder / f"node-{number}"
        toml = folder / "node.toml"
        if not toml.exists():
            folder.mkdir(exist_ok=True)
            out = ("--out", str(folder / "certs"))
            self._run("cert", "node", "--id", str(number), "--ca", str(self.ca.parent), *out)
            client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
            toml.write_text(NODE_TOML.format(node=number, client=client, peer=peer, sync_delay=self._sync_delay))
        address = next(line.split('"')[1] for line in toml.read_text().splitlines() if line.startswith("client = "))
        return ClusterNode(self.coda, folder, address, os.environ)

    def _try(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment if self.nodes else os.environ
        return subprocess.run(
            [self.admin, *arguments],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ADMIN_TIMEOUT_S,
        )

    def _run(self, *arguments: str) -> str:
        done = self._try(*arguments)
        if done.returncode != 0:
            raise DemoError(f"`coda-admin {' '.join(arguments)}` failed:\n{done.stderr}")
        return done.stdout

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default 3)")
    parser.add_argument("--groups", type=int, help="data groups of a new cluster (default one per node)")
    parser.add_argument("--dir", type=Path, default=Path(".cluster"), help="a folder for everything; kept")
    arguments = parser.parse_args()
    if arguments.nodes < 1:
        parser.error("--nodes must be at least 1")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    try:
        with Cluster(arguments.dir.resolve(), nodes=arguments.nodes, groups=arguments.groups) as cluster:
            print(cluster._try("cluster", "status").stdout)
            print("For clients, workers and coda-admin:\n")
            for name, value in cluster.environment.items():
                print(f"  export {name}={value}")
            print("\nEach node's settings, data and log are in its folder below", cluster.folder)
            print("Ctrl-C stops all of them.", flush=True)
            while not ended.wait(0.5):
                for node in cluster.nodes:
                    node.check()
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
