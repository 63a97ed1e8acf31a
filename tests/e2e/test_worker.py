"""`coda-worker` and `coda run`: restarts, draining, reloading, and what they say when they cannot work."""

from __future__ import annotations

import signal
import time

import coda
import pytest

from .harness import Node, Project, Workers, is_alive, kill_9, program, wait_for

TIMEOUT_S = 60.0
#: A node gives a silent worker up after seven seconds. What takes less was told.
TOLD_S = 5.0


def raise_flag(project: Project, name: str) -> None:
    (project.folder / f"flag-{name}").touch()


# Restarts


@pytest.mark.parametrize("supervisor", ["coda-worker", "coda run"])
def test_a_killed_worker_is_started_again_and_its_work_moves_on_at_once(
    project: Project, node: Node, supervisor: str
) -> None:
    workers = project.workers("jobs") if supervisor == "coda-worker" else project.supervised_workers("jobs", n=1)
    (first,) = workers.children()
    with node.client() as client:
        task = client.submit("hangs_at_first")
        project.wait_for_notes("started")
        killed = time.monotonic()
        kill_9(first)
        assert task.result(TIMEOUT_S) == 2
        assert time.monotonic() - killed < TOLD_S
    (second,) = workers.children()
    assert second != first
    assert "next start in 0.1 s" in workers.errors() or "next start in 100 ms" in workers.errors()


def test_a_worker_that_is_killed_with_its_supervisor_is_noticed(project: Project, node: Node) -> None:
    """Nobody is left to tell the node, so it finds out by itself."""
    first = project.workers("jobs", name="first")
    with node.client() as client:
        task = client.submit("hangs_at_first")
        project.wait_for_notes("started")
        first.kill_all()
        project.workers("jobs", name="second")
        assert task.result(TIMEOUT_S) == 2


def test_children_end_when_their_supervisor_is_killed(project: Project, node: Node) -> None:
    workers = project.workers("jobs", n=2)
    children = workers.children()
    workers.kill()
    for pid in children:
        wait_for("the end of a child", lambda pid=pid: not is_alive(pid), timeout=15)


def test_work_that_kills_its_workers_does_not_stop_other_work(project: Project, node: Node) -> None:
    project.expected_alarms.append("giving up")
    # One slot: what a worker takes first is all that it takes.
    workers = project.workers("jobs", "--threads", "1")
    with node.client() as client:
        client.submit("kills_its_worker")
        project.wait_for_notes("started", 3)
        assert client.submit("echo", {"value": 1}).result(timeout=10) == 1
    assert workers.runs


def test_a_worker_that_keeps_dying_is_given_up_with_a_clear_error(project: Project, node: Node) -> None:
    (project.folder / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    project.expected_alarms.append("giving up")
    workers = Workers(project, "dies", n=8).spawn()
    assert workers.wait(60) == 3
    assert "died 11 times in 60 s" in workers.errors()


# What cannot work says so


def test_a_module_that_cannot_be_imported_is_a_usage_error(project: Project, node: Node) -> None:
    nothing = project.command("coda-worker", "no.such.module")
    assert nothing.status == 2 and "there is no module 'no'" in nothing.err, nothing

    (project.folder / "broken.py").write_text("import coda\nraise RuntimeError('on import')\n")
    broken = project.command("coda-worker", "broken")
    assert broken.status == 2 and "importing broken failed" in broken.err and "on import" in broken.err, broken

    (project.folder / "empty.py").write_text("import coda\n")
    empty = project.command("coda-worker", "empty")
    assert empty.status == 2 and "nothing to serve" in empty.err, empty


def test_without_a_cluster_it_says_how_to_name_one(project: Project) -> None:
    done = project.command("coda-worker", "e2e.programs.jobs")
    assert done.status == 4 and "CODA_ADDRESS" in done.err and "coda dev" in done.err, done


def test_workers_wait_for_a_node_that_is_away(project: Project) -> None:
    node = project.node()
    node.stop()
    workers = Workers(project, "e2e.programs.jobs").spawn()
    wait_for("the worker to have started", workers.children, explain=workers.tail)
    node.start()
    workers.wait_until_serving(1)
    with node.client() as client:
        assert client.submit("echo", {"value": "hello"}).result(TIMEOUT_S) == "hello"


# Draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("task", ["until_flag", "until_flag_blocking"])
def test_the_first_signal_drains(project: Project, node: Node, number: signal.Signals, task: str) -> None:
    workers = project.workers("jobs")
    with node.client() as client:
        running = client.submit(task, {"name": "go"})
        project.wait_for_notes("started")
        workers.send(number)
        workers.wait_until_it_says("draining")
        # It takes nothing new, and the cluster knows that nobody does.
        waiting = client.submit("echo", {"value": 1})
        with pytest.raises(coda.ResultTimeout):
            waiting.result(timeout=0.3)
        raise_flag(project, "go")
        assert workers.wait() == 0
        assert running.result(TIMEOUT_S) == 1, (
            "the attempt that was running when the signal came is the one that counts"
        )
        project.workers("jobs", name="next")
        assert waiting.result(TIMEOUT_S) == 1


def test_a_second_signal_hands_work_back_at_once(project: Project, node: Node) -> None:
    workers = project.workers("jobs")
    with node.client() as client:
        task = client.submit("until_flag", {"name": "go"})
        project.wait_for_notes("started")
        workers.send(signal.SIGTERM)
        workers.wait_until_it_says("draining")
        asked = time.monotonic()
        workers.send(signal.SIGTERM)
        assert workers.wait() == 0
        assert time.monotonic() - asked < TOLD_S
        assert task.describe().state == "ready"
        project.workers("jobs", name="next")
        project.wait_for_notes("started", 2)
        raise_flag(project, "go")
        assert task.result(TIMEOUT_S) == 2


def test_the_drain_timeout_hands_work_back(project: Project, node: Node) -> None:
    workers = project.workers("jobs", "--drain-timeout", "0.3")
    with node.client() as client:
        task = client.submit("until_flag", {"name": "go"})
        project.wait_for_notes("started")
        assert workers.stop() == 0
        assert "did not end in time: handed back" in workers.errors()
        assert task.describe().state == "ready"


def test_a_waiting_run_does_not_hold_up_draining(project: Project, node: Node) -> None:
    """Its steps go on elsewhere, and so does it."""
    first = project.workers("jobs", name="first")
    with node.client() as client:
        run = client.start("waits_for_flag", {"name": "go"})
        project.wait_for_notes("started")
        (busy,) = first.children()
        project.workers("jobs", name="second")
        first.send(signal.SIGTERM)
        first.wait_until_it_says("draining")
        raise_flag(project, "go")
        assert run.result(TIMEOUT_S) == 1
        assert first.wait() == 0 and not is_alive(busy)


# Reload


def test_reload_starts_again_when_a_file_changes(project: Project, node: Node) -> None:
    source = project.folder / "shop.py"
    version = "import coda\n\n@coda.task(name='version')\ndef version():\n    return {}\n"
    source.write_text(version.format(1))
    # Found from the folder in which it is started, as a developer does it.
    workers = Workers(project, "shop", "--reload").start()
    with node.client() as client:
        assert client.submit("version").result(TIMEOUT_S) == 1
        source.write_text(version.format(2))
        workers.wait_until_serving(2)
        assert client.submit("version").result(TIMEOUT_S) == 2

        source.write_text("this is not Python")
        workers.wait_until_it_says("waiting for a change")
        project.expected_alarms += ["importing shop failed"]
        source.write_text(version.format(3))
        workers.wait_until_serving(3)
        assert client.submit("version").result(TIMEOUT_S) == 3


# coda run


def test_coda_run_keeps_two_workers_and_drains_them(project: Project, node: Node) -> None:
    command = [program("coda"), "run", "-n", "2", "--", program("coda-worker"), "e2e.programs.jobs"]
    workers = Workers(project, "jobs", n=2, command=command).start()
    with node.client() as client:
        tasks = [client.submit("until_flag", {"name": "go"}) for _ in range(4)]
        project.wait_for_notes("started", 4)
        workers.send(signal.SIGTERM)
        workers.wait_until_it_says("draining")
        raise_flag(project, "go")
        assert workers.wait() == 0
        assert [task.result(TIMEOUT_S) for task in tasks] == [1, 1, 1, 1]


def test_coda_run_gives_up_on_a_worker_that_cannot_work(project: Project, node: Node) -> None:
    done = project.command("coda", "run", "--max-restarts", "2", "--", "coda-worker", "no.such.module")
    assert done.status == 1, done
    assert "there is no module 'no'" in done.err and "error[CODA4305]" in done.err, done


def test_coda_run_takes_its_workers_with_it(project: Project, node: Node) -> None:
    workers = project.supervised_workers("jobs", n=2)
    children = workers.children()
    workers.kill()
    for pid in children:
        wait_for("the end of a worker", lambda pid=pid: not is_alive(pid), timeout=15)
