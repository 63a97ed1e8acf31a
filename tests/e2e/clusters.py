"""A cluster for tests: `coda serve` several times, formed with nothing but the commands that operators type.

Certificates lie as docs/cluster.md has them: `ca` is the authority's folder, `node-N` that of a node, `ops` a client's.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Self

import coda

from .harness import Done, Process, Project, free_port, program, wait_for

#: Exit statuses of `coda-admin cluster health`.
HEALTHY, NO_CLUSTER, DEGRADED, NO_QUORUM = 0, 3, 10, 11

NODE_TOML = """\
[node]
id = {number}
data_dir = "data"
zone = "zone-{number}"

[listen]
client = "{address}"
peer = "{peer}"

[client]
require_certificate = true
"""


class ClusterNode(Process):
    """One of several. Starts again on the same folder and the same ports."""

    def __init__(self, project: Project, number: int) -> None:
        self.number = number
        self.folder = project.folder / f"node-{number}"
        self.address, self.peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.folder.mkdir(exist_ok=True)
        toml = self.folder / "node.toml"
        toml.write_text(NODE_TOML.format(number=number, address=self.address, peer=self.peer))
        super().__init__(project, f"node-{number}", [program("coda"), "serve", "--config", str(toml)])

    def start(self, **settings: str) -> Self:
        """Returns when it has said that it is ready; what an earlier start said does not count."""
        self.env = settings
        seen = self.out.stat().st_size if self.out.exists() else 0
        self.spawn()
        ready = f"coda is ready on {self.address}\n".encode()

        def is_ready() -> bool:
            assert self.runs, f"{self.name} ended instead of starting\n{self.tail()}"
            return self.out.read_bytes()[seen:].startswith(ready)

        wait_for(f"{self.name} to be ready", is_ready, explain=self.tail)
        return self

    def restart(self) -> None:
        """As an upgrade does: a clean stop, and again."""
        assert self.stop(signal.SIGTERM) == 0, self.tail()
        self.start()


class Cluster:
    """Nodes that can be one cluster; none is started, and nothing is formed, before a test says so."""

    def __init__(self, project: Project, nodes: int = 3) -> None:
        self.project = project
        self.nodes: list[ClusterNode] = []
        self.run("cert", "ca", "--cluster-name", "e2e", "--out", "ca")
        self.run("cert", "client", "--ca", "ca", "--name", "ops", "--out", "ops")
        for _ in range(nodes):
            self.add()

    def add(self) -> ClusterNode:
        """A node that is in no cluster yet."""
        number = len(self.nodes) + 1
        self.run("cert", "node", "--ca", "ca", "--id", str(number), "--out", f"node-{number}/certs")
        self.nodes.append(ClusterNode(self.project, number))
        return self.nodes[-1]

    def node(self, number: int) -> ClusterNode:
        return self.nodes[number - 1]

    @property
    def files(self) -> dict[str, Path]:
        ops = self.project.folder / "ops"
        return {"ca": ops / "ca.pem", "cert": ops / "client.pem", "key": ops / "client.key"}

    @property
    def env(self) -> dict[str, str]:
        """What clients and workers find the cluster by."""
        files = {f"CODA_{name.upper()}": str(path) for name, path in self.files.items()}
        # A node that is away costs each command two seconds.
        there = [node for node in self.nodes if node.runs] or self.nodes
        return {"CODA_ADDRESS": ",".join(node.address for node in there), **files}

    def client(self, **options: Any) -> coda.Client:
        return coda.Client(self.env["CODA_ADDRESS"], **self.files, **options)

    # Commands

    def admin(self, *words: str, at: ClusterNode | None = None) -> Done:
        """`coda-admin`, which may end as it likes."""
        env = self.env | ({"CODA_ADDRESS": at.address} if at else {})
        return self.project.command("coda-admin", *words, env=env)

    def run(self, *words: str, at: ClusterNode | None = None) -> Done:
        """`coda-admin`, which has to succeed."""
        done = self.admin(*words, at=at)
        assert done.status == 0, done
        return done

    def refused(self, status: int, code: int, *words: str, at: ClusterNode | None = None) -> Done:
        """`coda-admin`, which has to fail like this."""
        done = self.admin(*words, at=at)
        assert (done.status, done.out) == (status, "") and f"error[CODA{code}]" in done.err, done
        return done

    # How a cluster comes to be

    def token(self) -> str:
        return self.run("cluster", "token", "create", at=self.node(1)).out.strip()

    def join(self, node: ClusterNode, token: str) -> Done:
        """By the command. The token is in a file, where nobody else sees it."""
        file = self.project.folder / f"token-{node.number}"
        file.write_text(token + "\n")
        seeds = self.node(1).address
        return self.admin("cluster", "join", "--seeds", seeds, "--token-file", str(file), at=node)

    def form(self) -> Self:
        """The first begins, the last joins by its settings, and those between by the command."""
        first, *between, last = (node for node in self.nodes)
        first.start()
        self.run("cluster", "init", at=first)
        for node in between:
            joined = self.join(node.start(), self.token())
            assert joined.status == 0, joined
        last.start(CODA_CLUSTER__SEEDS=first.address, CODA_CLUSTER__JOIN_TOKEN=self.token())
        self.wait_until(HEALTHY)
        return self

    # How it is

    def report(self) -> Any:
        return self.run("cluster", "status", "-o", "json").json()

    def wait_until(self, status: int) -> Done:
        """Until `cluster health` ends so."""
        said: list[Done] = []

        def is_so() -> Done | None:
            said[:] = [self.admin("cluster", "health")]
            return said[0] if said[0].status == status else None

        return wait_for(f"cluster health to be {status}", is_so, explain=lambda: f"{said}\n{self.project.tails()}")
