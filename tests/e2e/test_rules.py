"""The seven rules of the programming model, through the SDK, real workers and a real node."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any

import coda
import pytest

from .harness import Node, Project, wait_for
from .programs import rules

TIMEOUT_S = 60.0


def run(node: Node, workflow: coda.Workflow[..., Any], **args: Any) -> Any:
    with node.client() as client:
        return client.run(workflow, args, timeout=TIMEOUT_S)


def bodies(project: Project, label: Any = None) -> list[str]:
    """The values that bodies made, in their order."""
    return [note["value"] for note in project.noted("body") if label is None or note["label"] == label]


# 1. Named memo, not positional history


def test_a_result_survives_the_worker_that_made_it(project: Project, node: Node) -> None:
    workers = project.workers("rules")
    with node.client() as client:
        started = client.start(rules.memo_by_key)
        project.wait_for_notes("read")
        os.kill(workers.children()[0], signal.SIGKILL)
        first, again = project.wait_for_notes("read", 2)
        project.folder.joinpath("flag-go").touch()
        result = started.result(TIMEOUT_S)
    assert first["pid"] != again["pid"]
    assert first["value"] == again["value"] == result[0]
    assert (bodies(project, "first"), bodies(project, "second")) == ([result[0]], [result[1]])


def test_keys_are_unambiguous(project: Project, node: Node) -> None:
    project.workers("rules")
    once, again = run(node, rules.different_keys)
    assert len(set(once)) == len(rules.KEYS), "two of the keys were taken for one"
    assert once == again
    assert sorted(bodies(project)) == sorted(once)


def test_other_steps_in_another_order_find_their_results(project: Project, node: Node) -> None:
    project.workers("rules")
    result = run(node, rules.refactored)
    assert [bodies(project, key) for key in "abcd"] == [[value] for value in result]
    for note in project.noted("read"):
        assert note["value"] == result["abcd".index(note["key"])]


# 2. Without a cache key


def test_spawns_without_a_key_are_durable_too(project: Project, node: Node) -> None:
    project.workers("rules")
    result = run(node, rules.automatic_keys)
    assert len(set(result)) == 3
    assert [note["values"] for note in project.noted("read")] == [result, result]
    assert bodies(project) == result


def test_no_cache_runs_on_every_replay(project: Project, node: Node) -> None:
    project.workers("rules")
    *fresh, kept = run(node, rules.no_cache)
    first, second = (note["values"] for note in project.noted("read"))
    assert second == [*fresh, kept] and first[2] == kept
    assert len({*first[:2], *fresh}) == 4
    assert len(bodies(project, "fresh")) == 4
    assert bodies(project, "kept") == [kept]


# 3. Concurrent spawns of one key are one execution; 4. a handle can be awaited more than once


def test_concurrent_spawns_of_one_key_run_once(project: Project, node: Node) -> None:
    project.workers("rules")
    assert run(node, rules.one_key_many_spawns, count=50) == bodies(project) * 50
    assert len(bodies(project)) == 1


def test_a_handle_is_awaited_many_times(project: Project, node: Node) -> None:
    project.workers("rules")
    assert run(node, rules.await_often) == bodies(project) * 7
    assert len(bodies(project)) == 1


def test_gather_keeps_the_order_of_spawns(project: Project, node: Node) -> None:
    project.workers("rules")
    assert run(node, rules.in_order, count=20) == list(range(20))


# 5. Failure


def test_a_failure_is_raised_at_the_await_with_its_traceback(project: Project, node: Node) -> None:
    project.workers("rules")
    seen = run(node, rules.catches)
    assert seen["kind"] == "e2e.programs.rules.CardDeclined"
    assert (seen["name"], seen["message"]) == ("decline", "card 4242 declined")
    assert seen["matches"] == [True, True, False]
    assert 'rules.py", line' in seen["traceback"] and "in decline" in seen["traceback"]
    assert "raise CardDeclined(" in seen["traceback"]
    assert len(bodies(project)) == 1, "a task without a policy is not retried"


def test_an_uncaught_failure_fails_the_run_and_reaches_the_client(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        started = client.start(rules.does_not_catch)
        with pytest.raises(coda.RunFailed) as failed:
            started.result(TIMEOUT_S)
        assert failed.value.name == "does_not_catch" or failed.value.name == "run"
        # What the workflow function saw, and under it what the task had raised.
        assert "card 4242 declined" in failed.value.message
        assert "in does_not_catch" in failed.value.remote_traceback
        assert "in decline" in failed.value.remote_traceback
        described = started.describe()
    assert described.state == "failed"
    told = project.command("coda", "workflow", "result", started.id)
    assert told.status == 1 and "error[CODA4303]" in told.err and "in decline" in told.err, told


def test_retries_follow_the_policy(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        assert client.submit(rules.flaky, {"failures": 2}).result(TIMEOUT_S)
    notes = project.noted("body")
    assert [note["attempt"] for note in notes] == [1, 2, 3]


def test_retries_wait_for_their_backoff(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        client.submit(rules.flaky, {"failures": 3}).result(TIMEOUT_S)
    times = [note["at"] for note in project.noted("body")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [round(expected, 3) <= gap + 0.001 for expected, gap in zip([0.05, 0.1, 0.2], gaps, strict=True)] == [
        True
    ] * 3, gaps


def test_retry_on_takes_derived_errors_and_no_others(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        client.submit(rules.flaky, {"failures": 1, "error": "ConnectionError"}).result(TIMEOUT_S)
        assert len(bodies(project)) == 2
        with pytest.raises(coda.TaskFailed) as failed:
            client.submit(rules.flaky, {"failures": 1, "error": "KeyError"}).result(TIMEOUT_S)
        assert failed.value.matches(KeyError) and len(bodies(project)) == 3
        # One more than the retries: the failure is final.
        with pytest.raises(coda.TaskFailed):
            client.submit(rules.flaky, {"failures": 9}).result(TIMEOUT_S)
        assert len(bodies(project)) == 3 + 5


def test_a_retried_workflow_keeps_successes_and_reruns_failures(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        good, bad = client.start(rules.retries_workflow).result(TIMEOUT_S)
    assert bodies(project, "good") == [good]
    assert len(bodies(project, "bad")) == 3 and bodies(project, "bad")[-1] == bad
    assert [note["value"] for note in project.noted("read")] == [good] * 3


def test_a_failure_is_remembered_within_an_attempt_of_the_run(project: Project, node: Node) -> None:
    project.workers("rules")
    assert run(node, rules.remembers_failure) == 3
    assert len(bodies(project)) == 1


# 6. Delivery


@pytest.mark.timeout(90)
def test_the_late_result_of_a_lost_lease_is_refused(project: Project, node: Node) -> None:
    """The first worker is stopped until the node has given it up; then it comes back and reports its result."""
    first = project.workers("rules", name="first")
    with node.client() as client:
        started = client.start(rules.fenced)
        (late,) = project.wait_for_notes("body")
        (pid,) = first.children()
        os.kill(pid, signal.SIGSTOP)
        try:
            project.workers("rules", name="second")
            _, second = project.wait_for_notes("body", 2)
            assert started.result(TIMEOUT_S) == second["value"]
            project.folder.joinpath("flag-go").touch()
        finally:
            os.kill(pid, signal.SIGCONT)
        project.wait_for_notes("late")
        # A task that the first worker executes afterwards proves that it has come back and was heard.
        wait_for("the first worker to execute again", lambda: _executes(client, pid))
        assert started.result(TIMEOUT_S) == second["value"] != late["value"]
    assert len(bodies(project)) == 2


def _executes(client: coda.Client, pid: int) -> bool:
    handles = [client.submit("raise_flag", {"name": "any"}) for _ in range(8)]
    return pid in [handle.result(TIMEOUT_S) for handle in handles]


# 7. No silent waiting


def test_work_that_nobody_runs_says_why_and_runs_when_a_worker_appears(project: Project, node: Node) -> None:
    with node.client() as client:
        task = client.submit("unique", {"label": "early"})
        started = client.start("in_order", {"count": 3})
        lanes = {lane["name"]: lane for lane in project.queue()["lanes"]}
        assert {name: (lane["kind"], lane["waits"], lane["ready"]) for name, lane in lanes.items()} == {
            "unique": ("task", "no_worker", 1),
            "in_order": ("workflow", "no_worker", 1),
        }
        told = project.command("coda-admin", "queue", "describe", "default")
        assert told.status == 0 and "task unique: no worker has registered this name: start one with" in told.out
        assert task.describe().waits.reason == "no_worker"
        with pytest.raises(coda.ResultTimeout):
            task.result(timeout=0.2)
        project.workers("rules")
        assert task.result(TIMEOUT_S) == bodies(project, "early")[0]
        assert started.result(TIMEOUT_S) == [0, 1, 2]


def test_a_served_queue_without_work_says_what_it_would_run(project: Project, node: Node) -> None:
    project.workers("rules")
    queue = project.queue()
    assert queue["workers"] == 1
    assert "unique" in [lane["name"] for lane in queue["lanes"]]
    assert "no worker serves it" not in project.command("coda", "queue", "describe", "default").out


def test_work_in_a_paused_queue_says_so(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        client.pause("default")
        task = client.submit("unique", {"label": "held"})
        assert task.describe().waits.reason == "queue_paused"
        assert {lane["name"]: lane["waits"] for lane in project.queue()["lanes"]}["unique"] == "queue_paused"
        client.unpause("default")
        task.result(TIMEOUT_S)


def test_delayed_work_says_until_when_and_is_never_early(project: Project, node: Node) -> None:
    project.workers("rules")
    with node.client() as client:
        asked = time.time()
        task = client.submit("unique", {"label": "later"}, delay=0.7)
        wait = task.describe().waits
        assert wait.reason == "delayed_until" and wait.until is not None
        task.result(TIMEOUT_S)
    (note,) = project.noted("body")
    assert note["at"] >= asked + 0.7


def test_higher_priorities_go_first_and_equal_ones_in_order(project: Project, node: Node) -> None:
    with node.client() as client:
        client.pause("line")
        labels = []
        for n in range(30):
            priority = n * 7 % 10
            labels.append((-priority, n))
            client.submit("in_line", {"label": f"{priority}/{n}"}, queue="line", priority=priority)
        project.workers("rules", "--threads", "1")
        client.unpause("line")
    expected = [f"{-priority}/{n}" for priority, n in sorted(labels)]
    assert [note["label"] for note in project.wait_for_notes("line", 30)] == expected


# Inline steps, children, blocking bodies


def test_inline_steps_are_recorded_and_skipped(project: Project, node: Node) -> None:
    project.workers("rules")
    result = run(node, rules.inline_steps)
    assert [note["values"] for note in project.noted("read")] == [result, result]
    assert bodies(project) == result


def test_children_are_runs_of_their_own(project: Project, node: Node) -> None:
    project.workers("rules")
    result = run(node, rules.parent, count=5)
    assert [n for n, _ in result] == [str(n) for n in range(5)]
    assert sorted(value for _, value in result) == sorted(bodies(project))
    name, kind, message = run(node, rules.parent_of_failure)
    # The child did not catch what its task raised, so that is what it failed with.
    assert (name, kind) == ("does_not_catch", "e2e.programs.rules.CardDeclined")
    assert "card 4242 declined" in message


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_blocking_bodies_do_not_stall_the_loop(project: Project, node: Node, kind: str) -> None:
    """Each body spins until an async task of the same worker has run. A stalled loop would never get there."""
    project.workers("rules", "--task-processes", "1")
    seen = run(node, rules.blocking_bodies, kind=kind, count=8 if kind == "thread" else 2)
    own_process = {pid == seen["loop"] for pid in seen["bodies"]}
    assert own_process == {kind == "thread"}
