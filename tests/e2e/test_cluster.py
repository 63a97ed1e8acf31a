"""Three nodes on the operator's road: formed, watched, broken, mended, emptied and removed, by commands alone."""

from __future__ import annotations

import tarfile
from typing import Any

from .clusters import DEGRADED, HEALTHY, NO_CLUSTER, NO_QUORUM, Cluster, ClusterNode
from .harness import Project, wait_for

# Any node answers, and may not have heard yet what another one has just done: such things are waited for.


def leader_of(cluster: Cluster, group: int) -> Any:
    (leader,) = (each["leader"] for each in cluster.report()["groups"] if each["group"] == group)
    return leader


def row_of(cluster: Cluster, number: int, at: ClusterNode | None = None) -> tuple[str, int, int]:
    """A node's state, how many groups it has, and how many of them it leads."""
    nodes = cluster.run("node", "list", "--all", "-o", "json", at=at).json()["nodes"]
    rows = [(node["state"], node["groups"], node["leads"]) for node in nodes if node["node"] == number]
    return rows[0] if rows else ("unknown", 0, 0)


def test_nodes_become_a_cluster_each_with_a_token_of_its_own(project: Project) -> None:
    cluster = Cluster(project)
    one, two, three = (node.start() for node in cluster.nodes)
    outside = cluster.admin("cluster", "health", at=one)
    assert outside.status == NO_CLUSTER and "error[CODA2031]" in outside.err, outside
    cluster.run("cluster", "init", at=one)
    cluster.refused(3, 2031, "cluster", "status", at=two)

    # Tokens that are none, revoked, and used: said the same way, whoever asks.
    wrong = cluster.join(two, "coda-join-sesame")
    assert wrong.status == 2 and "error[CODA2046]" in wrong.err and "sesame" not in wrong.err, wrong
    revoked = cluster.token()
    cluster.run("cluster", "token", "revoke", revoked, at=one)
    refused = cluster.join(two, revoked)
    assert "error[CODA2046]" in refused.err, refused
    good = cluster.token()
    for _ in range(2):
        # Whoever lost the answer asks again.
        joined = cluster.join(two, good)
        assert joined.status == 0, joined
    used = cluster.join(three, good)
    assert "error[CODA2048]" in used.err and "node 2" in used.err, used

    # By its settings: first with the token that is used, then with one of its own.
    project.expected_alarms.append("CODA2048")
    three.stop()
    three.start(CODA_CLUSTER__SEEDS=one.address, CODA_CLUSTER__JOIN_TOKEN=good)
    three.wait_until_it_says("not let into the cluster, waiting outside of it")
    three.stop()
    three.start(CODA_CLUSTER__SEEDS=one.address, CODA_CLUSTER__JOIN_TOKEN=cluster.token())
    cluster.wait_until(HEALTHY)
    # Settings that have done their work do no harm.
    three.stop()
    three.start(CODA_CLUSTER__SEEDS=one.address, CODA_CLUSTER__JOIN_TOKEN=good)
    cluster.wait_until(HEALTHY)

    report = cluster.report()
    assert [(node["node"], node["state"]) for node in report["nodes"]] == [(1, "active"), (2, "active"), (3, "active")]
    assert [(group["group"], group["voters"]) for group in report["groups"]] == [(n, [1, 2, 3]) for n in range(4)]
    tokens = cluster.run("cluster", "token", "list", "-o", "json").json()["tokens"]
    assert sorted(token["state"] for token in tokens) == ["used", "used"], tokens
    verified = cluster.run("cluster", "verify", "-o", "json").json()["groups"]
    assert [group["result"] for group in verified] == ["equal"] * 4
    assert all(len(group["copies"]) == 3 for group in verified)


def test_a_cluster_is_set_and_seen_from_any_of_its_nodes(project: Project) -> None:
    cluster = Cluster(project).form()
    one, two, three = cluster.nodes
    assert cluster.run("config", "diff", "-o", "json", at=two).json() == {"settings": []}
    cluster.run("config", "set", "rebalance.auto", "false", at=two)
    assert cluster.run("config", "get", "rebalance.auto", at=three).out == "false\n"
    (changed,) = cluster.run("config", "diff", "-o", "json", at=one).json()["settings"]
    assert (changed["key"], changed["value"], changed["default"]) == ("rebalance.auto", False, True)
    cluster.refused(2, 4327, "config", "set", "rebalance.auto", "off")
    assert "error[CODA2050]" in cluster.admin("config", "set", "rebalance.automatic", "true").err
    assert "error[CODA2051]" in cluster.admin("config", "set", "join_token.ttl_ms", "1").err
    cluster.refused(2, 4321, "config", "set", "replication_factor", "1")
    assert cluster.run("config", "get", "replication_factor").out == "3\n"

    # Nobody moves them back: rebalance.auto is off.
    for node in (one, two, three):
        cluster.run("leader", "transfer", "1", "--to", str(node.number), at=three)
        wait_for(f"node {node.number} to lead", lambda number=node.number: leader_of(cluster, 1) == number)
    cluster.run("config", "unset", "rebalance.auto", at=three)
    assert cluster.run("config", "get", "rebalance.auto").out == "true\n"

    cluster.run("support-bundle", "--out", "support.tar.gz", "--config", "node-2/node.toml")
    with tarfile.open(project.folder / "support.tar.gz") as bundle:
        texts = {
            name.partition("/")[2]: file.read().decode()
            for name in bundle.getnames()
            if (file := bundle.extractfile(name)) is not None
        }
    nodes = {f"nodes/node-{number}.json" for number in (1, 2, 3)}
    known = {"contents.txt", "versions.json", "cluster.json", "cluster.txt", "settings.json", "queues.json"}
    assert texts.keys() >= nodes | known | {"config.json"} and not any("error" in name for name in texts), texts.keys()
    assert not any("PRIVATE KEY" in text or "coda-join" in text for text in texts.values())
    cluster.refused(4, 4325, "support-bundle", "--out", "support.tar.gz")


def test_work_goes_on_while_nodes_are_killed_and_restarted(project: Project) -> None:
    cluster = Cluster(project).form()
    project.workers("jobs", env=cluster.env)
    with cluster.client() as client:
        assert client.start("echoes", {"value": 1}).result(60) == 1
        going = client.start("waits_for_flag", {"name": "later"})
        project.wait_for_notes("started")

        two = cluster.node(2)
        two.kill()
        degraded = cluster.wait_until(DEGRADED)
        assert "node 2 does not answer" in degraded.out, degraded
        assert [client.start("echoes", {"value": n}).result(60) for n in range(20)] == list(range(20))
        two.start()
        cluster.wait_until(HEALTHY)

        # As an upgrade does, once all is well again.
        cluster.node(1).restart()
        assert client.start("echoes", {"value": 9}).result(60) == 9
        cluster.wait_until(HEALTHY)

        # Two of three: nothing is acknowledged, and nothing is lost.
        for number in (1, 3):
            cluster.node(number).kill()
        lost = cluster.wait_until(NO_QUORUM)
        assert "no quorum" in lost.out, lost
        late = cluster.admin("cluster", "token", "create", "--timeout", "2s", at=two)
        assert (late.status, late.out) == (124, "") and "error[CODA4009]" in late.err, late
        for number in (1, 3):
            cluster.node(number).start()
        assert client.start("echoes", {"value": 8}).result(60) == 8
        (project.folder / "flag-later").touch()
        assert going.result(60) >= 1
    wait_for("equal copies on all nodes", lambda: cluster.admin("cluster", "verify").status == 0)


def test_a_node_leaves_once_others_have_what_it_had(project: Project) -> None:
    cluster = Cluster(project).form()
    cluster.refused(2, 4321, "node", "drain", "3")
    cluster.refused(4, 2042, "node", "remove", "3")
    cluster.refused(2, 4321, "node", "replace", "3")
    assert row_of(cluster, 3)[0] == "active"

    four = cluster.add().start()
    joined = cluster.join(four, cluster.token())
    assert joined.status == 0, joined
    wait_for("everybody to know node 4", lambda: all(row_of(cluster, 4, node)[0] == "active" for node in cluster.nodes))
    cluster.run("node", "drain", "3", "--wait")
    wait_for("everybody to know that node 3 is empty", lambda: row_of(cluster, 3) == ("draining", 0, 0))
    assert cluster.admin("cluster", "health").status == DEGRADED
    cluster.run("node", "undrain", "3")
    cluster.run("node", "replace", "3")
    wait_for("everybody to know that node 3 is gone", lambda: row_of(cluster, 3) == ("removed", 0, 0))
    cluster.wait_until(HEALTHY)
    assert all(3 not in group["voters"] for group in cluster.report()["groups"])

    # What was removed does not come back, and one that is lost is replaced by the next.
    three = cluster.node(3)
    three.stop()
    three.start()
    three.wait_until_it_says("CODA1111")
    assert three.stop() == 0
    cluster.node(2).kill()
    cluster.wait_until(DEGRADED)
    five = cluster.add().start()
    assert cluster.join(five, cluster.token()).status == 0
    wait_for("node 5 to be known", lambda: row_of(cluster, 5, five)[0] == row_of(cluster, 5)[0] == "active")
    lost = cluster.refused(2, 4321, "node", "replace", "2")
    assert "does not answer" in lost.err, lost
    cluster.run("node", "replace", "2", "--yes")
    wait_for("everybody to know that node 2 is gone", lambda: row_of(cluster, 2)[0] == "removed")
    cluster.wait_until(HEALTHY)
    verified = cluster.run("cluster", "verify", "-o", "json").json()["groups"]
    assert [group["result"] for group in verified] == ["equal"] * 4


def test_a_node_that_was_alone_gets_company_and_keeps_what_it_has(project: Project) -> None:
    cluster = Cluster(project)
    one = cluster.node(1)
    toml = one.folder / "node.toml"
    text = toml.read_text()
    toml.write_text(text.replace("peer =", "# peer ="))
    one.start()
    with cluster.client() as client:
        task = client.submit("echo", {"value": 41})
    assert cluster.admin("cluster", "health", at=one).status == HEALTHY
    assert "error[CODA2032]" in cluster.admin("cluster", "init", at=one).err
    one.stop()
    toml.write_text(text)
    one.start()
    for node in cluster.nodes[1:]:
        assert cluster.join(node.start(), cluster.token()).status == 0
    cluster.run("config", "set", "replication_factor", "3")
    everywhere = [[1, 2, 3]] * 2
    wait_for("three copies", lambda: [group["voters"] for group in cluster.report()["groups"]] == everywhere)
    cluster.wait_until(HEALTHY)
    project.workers("jobs", env=cluster.env)
    one.kill()
    with cluster.client() as client:
        assert client.task_handle(task.id).result(60) == 41
