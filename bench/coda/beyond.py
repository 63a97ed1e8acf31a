"""What the peers' harness does not measure, put around it without changing it.

A system that has `counted()` gets what its nodes counted during the measurement into its record. With
`CODA_BENCH_WIRE=1`, one whose nodes' ports are known gets `wire_bytes`: what reached those ports, as the kernel counts
it in a table of its own (nftables, as root). A Restate cluster is measured when it has come to rest. None of this
happens while the clock runs.
"""

import json
import os
import re
import subprocess
import time

TABLE = "coda_bench"
#: Sizes beside which the harness's own are a moment: it keeps its three-node runs short.
LIMITS = {"restate-3": {"W1": 10_000, "W2": 200, "W3": 2_000}}
#: Where the peers' driver puts Restate's fabric: what its nodes say to one another.
RESTATE_FABRIC = ("tcp", (15122, 15123, 15124))
RESTATE_ADDRESS = "http://127.0.0.1:15122"
RESTATE_CTL = "restate/node_modules/@restatedev/restatectl-linux-x64/bin/restatectl"
#: Partitions led, partitions followed, logs stored and logs written by a node, in `restatectl status`.
RESTATE_NODE = re.compile(r"Member +(\d+) +(\d+) +(\d+) +(\d+)")
SETTLED_WITHIN_S = 60.0


def add_to(harness):
    load, one = harness.load, harness.one

    def load_more(name):
        system = load(name)
        system.limits = {**system.limits, **LIMITS.get(name, {})}
        if name == "restate-3":
            settle_before(system, os.path.join(harness.HERE, RESTATE_CTL))
        if os.environ.get("CODA_BENCH_WIRE"):
            watch_wire(system, name)
        return system

    async def one_more(system, fn, args, timeout):
        before = counted(system)
        record = await one(system, fn, args, timeout)
        after = counted(system)
        return {**record, **{name: after[name] - before[name] for name in after}}

    harness.load, harness.one = load_more, one_more


def counted(system):
    figures = getattr(system, "counted", dict)()
    if getattr(system, "is_wire_watched", False):
        figures["wire_bytes"] = wire_bytes()
    return figures


def settle_before(system, ctl):
    """Each partition has a leader, and its log is written where that is: before, each append takes a detour."""
    start = system.start

    def start_settled(d):
        start(d)
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while time.monotonic() < deadline:
            said = subprocess.run([ctl, "--address", RESTATE_ADDRESS, "status"], capture_output=True, text=True).stdout
            nodes = [list(map(int, found)) for found in RESTATE_NODE.findall(said)]
            if len(nodes) == system.nodes and all(
                led == written and stored == sum(node[0] for node in nodes) > 0 for led, _, stored, written in nodes
            ):
                return
            time.sleep(0.5)
        raise RuntimeError(f"Restate's cluster has not come to rest within {SETTLED_WITHIN_S:.0f} s:\n{said}")

    system.start = start_settled


def watch_wire(system, name):
    start, stop = system.start, system.stop

    def start_watched(d):
        start(d)
        protocol, ports = RESTATE_FABRIC if name == "restate-3" else ("udp", getattr(system, "peer_ports", list)())
        if ports:
            ours = "{ " + ", ".join(map(str, ports)) + " }"
            # The second rule is for answers to a port that the system chose: a packet counts once.
            nft(f"""add table inet {TABLE}
                    delete table inet {TABLE}
                    table inet {TABLE} {{
                        counter peers {{ }}
                        chain in {{
                            type filter hook input priority 0;
                            {protocol} dport {ours} counter name peers
                            {protocol} sport {ours} {protocol} dport != {ours} counter name peers
                        }}
                    }}""")
            system.is_wire_watched = True

    def stop_watched():
        stop()
        if getattr(system, "is_wire_watched", False):
            system.is_wire_watched = False
            nft(f"delete table inet {TABLE}")

    system.start, system.stop = start_watched, stop_watched


def wire_bytes():
    said = subprocess.run(["nft", "-j", "list", "counter", "inet", TABLE, "peers"], check=True, capture_output=True)
    counters = [item["counter"] for item in json.loads(said.stdout)["nftables"] if "counter" in item]
    return sum(counter["bytes"] for counter in counters)


def nft(rules):
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
