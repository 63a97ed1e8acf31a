"""`coda serve`, `coda-admin cert` and `coda-admin config`: a node as a service, its certificates and its settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import coda
import pytest

from .harness import REPOSITORY, Project, Service, program, wait_for


@pytest.fixture
def service(project: Project) -> Service:
    return Service(project).start()


# The node


def test_it_serves_those_who_show_a_certificate_and_stops_cleanly(project: Project, service: Service) -> None:
    assert service.out.read_text().splitlines()[0] == f"coda is ready on {service.address}"
    status = project.command("coda-admin", "node", "status", "-o", "json", env=service.client_env).json()
    assert (status["node"], status["groups"][0]["role"]) == (1, "leader")
    with service.client() as client:
        task = client.submit("nothing", {"n": 1})
    for number in (signal.SIGTERM, signal.SIGINT):
        assert service.stop(number) == 0
        assert "stopped" in service.errors().splitlines()[-1]
        service.start()
        with service.client() as client:
            assert client.task_handle(task.id).describe().state == "ready"


def test_workers_show_their_certificate(project: Project, service: Service) -> None:
    workers = project.workers("rules", env=service.client_env)
    assert workers.runs
    command = [program("coda-worker"), "e2e.programs.rules", "-n", "1", "--address", service.address]
    folder = project.folder / "ops"
    files = ["--ca", str(folder / "ca.pem"), "--cert", str(folder / "client.pem"), "--key", str(folder / "client.key")]
    assert project.workers("rules", name="by-option", command=[*command, *files]).runs
    # What `coda run` is told, its workers are.
    run = [program("coda"), "run", "-n", "1", "--address", service.address, *files, "--"]
    worker = [program("coda-worker"), "-n", "0", "e2e.programs.rules"]
    assert project.workers("rules", name="supervised", command=[*run, *worker]).runs


def test_who_shows_nothing_or_something_else_is_told(project: Project, service: Service) -> None:
    ca_only = {name: value for name, value in service.client_env.items() if name not in ("CODA_CERT", "CODA_KEY")}
    refused = project.command("coda", "queue", "list", env=ca_only)
    assert (refused.status, refused.out) == (1, ""), refused
    assert "error[CODA4225]" in refused.err and "coda-admin cert client" in refused.err, refused
    with pytest.raises(coda.ConnectError) as required, coda.Client(service.address, ca_only["CODA_CA"]):
        pass
    assert required.value.code == "CODA4225" and "`cert` and `key`" in str(required.value)

    service.cert("ca", "--cluster-name", "e2e", "--out", "other")
    service.cert("client", "--ca", "other", "--name", "ops", "--out", "stranger")
    stranger = {
        **service.client_env,
        "CODA_CERT": str(project.folder / "stranger" / "client.pem"),
        "CODA_KEY": str(project.folder / "stranger" / "client.key"),
    }
    refused = project.command("coda", "queue", "list", env=stranger)
    assert refused.status == 1 and "error[CODA4226]" in refused.err, refused
    mixed = {**stranger, "CODA_KEY": service.client_env["CODA_KEY"]}
    refused = project.command("coda", "queue", "list", env=mixed)
    assert refused.status == 2 and "error[CODA4227]" in refused.err, refused
    refused = project.command("coda", "queue", "list", env={**stranger, "CODA_KEY": ""})
    assert refused.status == 2 and "error[CODA4227]" in refused.err, refused


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (lambda service: service.cert("node", "--ca", "ca", "--id", "2", "--out", "certs", "--force"), 4212, "node 2"),
        (lambda service: (service.project.folder / "certs" / "node.key").unlink(), 4202, "node.key"),
        (lambda service: shutil.copy("ops/client.key", "certs/node.key"), 4210, "node.key"),
        (lambda service: shutil.copy("ops/client.pem", "certs/node.pem"), 4211, "client ops"),
        (lambda service: shutil.copy("certs/node.pem", "certs/ca.pem"), 4217, "ca.pem"),
        (lambda service: Path("certs/ca.pem").write_text("hello"), 4207, "ca.pem"),
    ],
)
def test_wrong_files_are_refused_at_the_start(
    project: Project, monkeypatch: pytest.MonkeyPatch, break_it, code: int, words: str
) -> None:
    service = Service(project)
    monkeypatch.chdir(project.folder)
    break_it(service)
    done = project.command("coda", "serve", "--config", "node.toml")
    assert (done.status, done.out) == (1, ""), done
    assert f"error[CODA{code}]" in done.err and words in done.err and "help: " in done.err, done


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(project: Project) -> None:
    path = project.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(30)
        service = Service(project)
        service.env["NOTIFY_SOCKET"] = str(path)
        service.start()
        assert b"READY=1" in systemd.recv(4_096)
        assert service.stop() == 0
        assert b"STOPPING=1" in systemd.recv(4_096)


def test_a_log_for_programs_is_one_document_a_line(project: Project) -> None:
    service = Service(project, settings='\n[log]\nformat = "json"\n').start()
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.errors().splitlines()]
    assert {"ready", "stopped"} <= {line["fields"]["message"] for line in lines}


# Certificates


def test_keys_are_their_owners_and_nothing_is_overwritten(project: Project) -> None:
    service = Service(project)
    for key in ("ca/ca.key", "certs/node.key", "ops/client.key"):
        assert stat.S_IMODE((project.folder / key).stat().st_mode) == 0o600, key
    before = {path: path.read_bytes() for path in project.folder.rglob("*.key")}
    for words in (
        ("ca", "--cluster-name", "other", "--out", "ca"),
        ("node", "--ca", "ca", "--id", "1", "--out", "certs"),
        ("client", "--ca", "ca", "--name", "ops", "--out", "ops"),
    ):
        again = project.command("coda-admin", "cert", *words)
        assert (again.status, again.out) == (4, "") and "error[CODA4215]" in again.err, again
    assert {path: path.read_bytes() for path in before} == before
    service.cert("node", "--ca", "ca", "--id", "1", "--out", "certs", "--force")
    assert (project.folder / "certs" / "node.key").read_bytes() != before[project.folder / "certs" / "node.key"]


def test_a_certificate_says_whose_it_is(project: Project) -> None:
    service = Service(project)
    cluster = service.cert("show", "ca/ca.pem", "-o", "json").json()["certificates"][0]
    assert (cluster["identity"], cluster["subject"], cluster["key"]) == ("authority", "e2e", "matches")
    made = service.cert("node", "--ca", "ca", "--id", "3", "--host", "a.example", "--host", "10.0.0.3", "--out", "n3")
    assert "node 3" in made.out and cluster["cluster"] in made.out
    (shown,) = service.cert("show", "n3/node.pem", "-o", "json").json()["certificates"]
    assert (shown["identity"], shown["cluster"]) == ("node 3", cluster["cluster"])
    assert shown["uri"] == f"coda:node:{cluster['cluster']}:3"
    assert (shown["hosts"], shown["state"]) == (["coda", "a.example", "10.0.0.3"], "valid")
    assert (project.folder / "n3" / "ca.pem").read_text() == (project.folder / "ca" / "ca.pem").read_text()
    other = project.command("coda-admin", "cert", "show", "n3/node.pem", "ops/client.key")
    assert other.status == 1 and "does not match" in other.out and "error[CODA4210]" in other.err, other
    # What connects a client says nothing about the files that are looked at.
    elsewhere = {"CODA_CA": "nowhere", "CODA_CERT": "nowhere", "CODA_KEY": "nowhere"}
    for words in (("show", "n3/node.pem"), ("node", "--ca", "ca", "--id", "4", "--out", "n4")):
        done = project.command("coda-admin", "cert", *words, env=elsewhere)
        assert done.status == 0 and "matches" in done.out, done
    soon = service.cert("client", "--ca", "ca", "--name", "brief", "--days", "1", "--out", "brief")
    assert "valid" in soon.out, soon


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("node", "--ca", "ca", "--id", "0", "--out", "x"), 2),
        (("node", "--ca", "ca", "--id", "3", "--host", "a:4747", "--out", "x"), 2),
        (("node", "--ca", "ca", "--id", "3", "--days", "0", "--out", "x"), 2),
        (("client", "--ca", "ca", "--name", "a b", "--out", "x"), 2),
        (("client", "--ca", "certs", "--name", "ci", "--out", "x"), 1),
        (("client", "--ca", "nowhere", "--name", "ci", "--out", "x"), 1),
        (("ca", "--out", "x"), 2),
        (("ca", "--out", "x", "--cluster-name", "a b"), 2),
        (("show", "nowhere.pem"), 1),
        (("show", "node.toml"), 1),
    ],
)
def test_mistakes_are_told_and_make_nothing(project: Project, words: tuple[str, ...], status: int) -> None:
    Service(project)
    done = project.command("coda-admin", "cert", *words)
    assert (done.status, done.out) == (status, ""), done
    assert "error" in done.err and not (project.folder / "x").exists(), done


def test_an_openssl_of_today_agrees(project: Project) -> None:
    """What others read of a certificate, and that they find it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    Service(project)
    verified = project.command("openssl", "verify", "-x509_strict", "-CAfile", "ca/ca.pem", "certs/node.pem")
    assert verified.status == 0, verified
    text = project.command("openssl", "x509", "-in", "certs/node.pem", "-noout", "-text").out
    for words in ("DNS:coda", "URI:coda:node:", "TLS Web Server Authentication", "TLS Web Client Authentication"):
        assert words in text, text


def test_one_authority_takes_over_while_clients_go_on(project: Project, service: Service) -> None:
    """The steps of docs/operations.md, and not one call that fails."""
    folder, failures, calls, over = project.folder, [], [0], threading.Event()
    first = service.client()
    first.__enter__()

    def call() -> None:
        while not over.is_set():
            try:
                calls[0] += 1
                first.submit("x", {"n": calls[0]})
                # A new connection each, as from programs that start now.
                with service.client() as client:
                    client.submit("x", {"n": -calls[0]})
            except coda.CodaError as error:
                failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    try:

        def replaced(what: str, do) -> None:
            before = service.errors().count("certificates are replaced")
            do()
            service.send(signal.SIGHUP)
            seen = calls[0]
            wait_for(what, lambda: service.errors().count("certificates are replaced") > before, explain=service.tail)
            wait_for("calls after it", lambda: calls[0] > seen + 2)

        def put(text: str, *names: str) -> None:
            for name in names:
                (folder / f"{name}.new").write_text(text)
                os.replace(folder / f"{name}.new", folder / name)

        service.cert("ca", "--out", "ca-2", "--successor-of", "ca")
        old, new = (folder / "ca" / "ca.pem").read_text(), (folder / "ca-2" / "ca.pem").read_text()
        replaced("trust in both", lambda: put(old + new, "certs/ca.pem", "ops/ca.pem"))
        client = ("client", "--ca", "ca-2", "--name", "ops", "--out", "next")
        service.cert(*client)
        node = ("node", "--ca", "ca-2", "--id", "1", "--out", "certs", "--force")
        replaced("another node certificate", lambda: service.cert(*node))
        # A client's two files cannot be replaced at once while new clients read them; its folder can.
        os.rename(folder / "ops", folder / "before")
        os.rename(folder / "next", folder / "ops")
        replaced("trust in the new one alone", lambda: put(new, "certs/ca.pem"))
    finally:
        over.set()
        caller.join()
        first.close()
    # Between the two renames there is no folder.
    assert [error for error in failures if error.code != "CODA4003"] == []
    with pytest.raises(coda.ConnectError) as error, service.client(ca=folder / "ca" / "ca.pem"):
        pass
    assert error.value.code == "CODA4008"


def test_bad_new_files_change_nothing_and_are_told(project: Project, service: Service) -> None:
    key = project.folder / "certs" / "node.key"
    before = key.read_bytes()
    shutil.copy(project.folder / "ops" / "client.key", key)
    service.wait_until_it_says("CODA4210")
    with service.client() as client:
        client.submit("x")
    key.write_bytes(before)
    service.send(signal.SIGHUP)
    service.wait_until_it_says("certificates are replaced")
    assert service.errors().count("are refused") == 1


# Settings


def test_a_configuration_is_shown_with_its_reasons(project: Project) -> None:
    Service(project)
    shown = project.command(
        "coda-admin", "config", "check", "node.toml", "--set", "log.level=debug", env={"CODA_NODE__ZONE": "z1"}
    )
    lines = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines()}
    assert lines["node.id"] == ["1", "node.toml:2"]
    assert lines["node.zone"] == ["z1", "CODA_NODE__ZONE"]
    assert lines["log.level"] == ["debug", "--set"]
    assert lines["log.format"] == ["text", "default"]
    settings = project.command("coda-admin", "config", "check", "node.toml", "-o", "json").json()["settings"]
    (required,) = (each for each in settings if each["key"] == "client.require_certificate")
    assert required == {
        "key": "client.require_certificate",
        "value": True,
        "from": {"layer": "file", "path": "node.toml", "line": 9},
    }
    keys = project.command("coda-admin", "config", "keys", "-o", "json").json()["keys"]
    assert {each["key"] for each in keys} == {each["key"] for each in settings}


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (
            '[listn]\nclient = "a"\n',
            4220,
            "node.toml:11: there is no key `listn.client`; the nearest is",
        ),
        ('[log]\nlevel = "a=b=c"\n', 4221, "node.toml:11: `log.level` cannot be `a=b=c`"),
        ("[log\n", 4219, "node.toml:10: this is not TOML"),
        ('[cluster]\nseeds = ["a:4748"]\n', 4224, "node.toml:11: `cluster.seeds` means nothing without `listen.peer`"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(project: Project, settings: str, code: int, words: str) -> None:
    Service(project, settings)
    for command in (("coda", "serve", "--config", "node.toml"), ("coda-admin", "config", "check", "node.toml")):
        done = project.command(*command)
        assert (done.status, done.out) == (2, ""), done
        assert f"error[CODA{code}]: {words}" in done.err, done


def test_a_flag_wins_over_the_environment_and_that_over_the_file(project: Project) -> None:
    Service(project)
    done = project.command(
        "coda", "serve", "--config", "node.toml", "--listen", "here", env={"CODA_LISTEN__CLIENT": "there"}
    )
    assert done.status == 2 and "--listen: `listen.client` cannot be `here`" in done.err, done
    done = project.command("coda", "serve", "--config", "node.toml", env={"CODA_LISTEN__CLIENT": "there"})
    assert done.status == 2 and "CODA_LISTEN__CLIENT: `listen.client` cannot be `there`" in done.err, done
    done = project.command("coda", "serve")
    assert done.status == 2 and "error[CODA4222]: `node.id` is not set" in done.err, done


# What is deployed


def unit(folder: Path) -> Path:
    """The unit, for the program that was built."""
    text = (REPOSITORY / "deploy" / "coda.service").read_text()
    assert "ExecStart=/usr/bin/coda serve" in text
    path = folder / "coda.service"
    path.write_text(text.replace("/usr/bin/coda", program("coda")))
    return path


def test_the_unit_is_one_that_systemd_reads_without_a_complaint(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit was not checked")
    command = ["systemd-analyze", "verify", "--man=no", str(unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_gives_the_node_little_of_the_machine(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit was not checked")
    # In tenths: 0 is nothing, 100 everything.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
