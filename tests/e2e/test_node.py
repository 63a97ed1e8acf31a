"""`coda dev`: what a node keeps, refuses and leaves behind."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import coda
import pytest

from .harness import Node, Project, free_port, is_alive, wait_for


def test_the_ready_line_comes_first_and_the_node_answers_at_once(project: Project, node: Node) -> None:
    assert node.out.read_text().splitlines()[0] == f"coda is ready on {node.address}"
    status = project.command("coda-admin", "node", "status", "-o", "json").json()
    assert status["groups"][0]["role"] == "leader"
    assert status["version"] == coda.__version__


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_a_restart_keeps_everything(project: Project, number: signal.Signals) -> None:
    node = project.node()
    run = project.command("coda", "workflow", "start", "nightly", "--input", '{"day": 3}').out.strip()
    task = project.command("coda", "task", "submit", "clean", "--delay", "1h").out.strip()
    project.command("coda-admin", "queue", "pause", "emails")
    assert node.stop(number) == 0
    assert node.errors().splitlines()[-1] == "coda has stopped"
    node.start()
    assert project.command("coda", "workflow", "describe", run, "-o", "json").json()["waits"] == "no_worker"
    assert project.command("coda", "task", "describe", task, "-o", "json").json()["waits"] == "delayed"
    assert project.command("coda-admin", "queue", "describe", "emails", "-o", "json").json()["state"] == "paused"


def test_kill_9_loses_nothing_that_was_answered(project: Project, node: Node) -> None:
    runs = []
    for _ in range(3):
        runs += [project.command("coda", "workflow", "start", "nightly").out.strip() for _ in range(3)]
        node.restart()
    for run in runs:
        assert project.command("coda", "workflow", "describe", run, "-o", "json").json()["state"] == "ready"
    assert project.left_in_queues() == {"ready": len(runs), "leased": 0, "delayed": 0}


def test_a_second_node_on_the_same_folder_is_refused_and_harms_nobody(project: Project, node: Node) -> None:
    second = project.command("coda", "dev", "--port", "0")
    assert (second.status, second.out) == (4, ""), second
    assert second.err.startswith("error[CODA4101]: ") and str(node.data_dir) in second.err, second.err
    assert project.command("coda-admin", "queue", "list").status == 0


def test_a_second_node_on_the_same_address_is_refused(project: Project, node: Node) -> None:
    second = project.command("coda", "dev", "--data-dir", "other", "--listen", node.address)
    assert second.status == 4, second
    assert second.err.startswith("error[CODA4") and node.address in second.err, second.err
    assert project.command("coda-admin", "queue", "list").status == 0


def test_the_folder_is_free_again_after_a_kill(project: Project, node: Node) -> None:
    node.kill()
    second = Node(project, name="second", data_dir=node.data_dir).start()
    assert second.port != node.port
    # `.coda/client.json` follows the node, so nobody has to be told.
    assert project.command("coda-admin", "queue", "list").status == 0


def test_an_ephemeral_node_leaves_nothing(project: Project, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    project.env["TMPDIR"] = str(temporary)
    before = set(project.folder.rglob("*"))
    node = project.node(ephemeral=True)
    (data,) = temporary.iterdir()
    address = {"CODA_ADDRESS": node.address, "CODA_CA": str(data / "certs" / "ca.pem")}
    assert project.command("coda", "task", "submit", "x", env=address).status == 0
    assert node.stop() == 0
    assert list(temporary.iterdir()) == []
    assert set(project.folder.rglob("*")) - before == {node.out, node.err}


def test_no_node_is_a_clear_error_and_not_a_hang(project: Project) -> None:
    nothing = project.command("coda", "queue", "list")
    assert nothing.status == 2, nothing
    assert "coda help connecting" in nothing.err

    node = project.node()
    node.stop()
    gone = project.command("coda", "queue", "list", "--timeout", "300ms")
    assert gone.status == 5 and "error[CODA4" in gone.err and "coda dev" in gone.err, gone


def test_a_node_of_another_cluster_is_not_trusted(project: Project, node: Node) -> None:
    other = project.node(name="other", data_dir=project.folder / "other")
    done = project.command("coda", "queue", "list", "--address", other.address, "--timeout", "2s")
    assert done.status != 0 and "error[CODA4" in done.err and "--ca" in done.err, done


def test_noise_on_the_port_harms_nobody(project: Project, node: Node) -> None:
    """Datagrams that are no QUIC. Malformed frames inside QUIC are tested in Rust, in crates/broker."""
    task = project.command("coda", "task", "submit", "before").out.strip()
    with node.client() as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        for length in (1, 20, 64, 1_200, 9_000):
            for _ in range(50):
                noise.sendto(os.urandom(length), ("127.0.0.1", node.port))
        # Looks like a QUIC initial packet of a version that nobody speaks.
        noise.sendto(b"\xc0\xba\xba\xba\xba" + os.urandom(1_195), ("127.0.0.1", node.port))
        assert client.task_handle(task).describe().state == "ready"
        assert client.submit("behind-the-noise").describe().state == "ready"


def test_a_damaged_client_file_is_an_error_that_names_it(project: Project, node: Node) -> None:
    (node.data_dir / "client.json").write_text("{ not json")
    done = project.command("coda", "queue", "list")
    assert done.status == 2 and "error[CODA4" in done.err and "client.json" in done.err, done


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(project: Project) -> None:
    (project.folder / "file").write_text("")
    done = project.command("coda", "dev", "--data-dir", "file", "--port", str(free_port()))
    assert done.status not in (0, 101) and "error[CODA4" in done.err and "file" in done.err, done


def test_two_sigterms_end_it_at_once(project: Project) -> None:
    node = project.node()
    node.send(signal.SIGTERM)
    node.send(signal.SIGTERM)
    # The second may come when the first has already done its work.
    assert node.wait() in (0, 143)
    wait_for("the end", lambda: not is_alive(node.pid))
    node.start()
