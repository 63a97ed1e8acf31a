"""Read the audit and say what happened. Only SQL over `storing.py`'s tables; asks no node.

A *body* is one step of one event: (task, event id). It runs more than once when it failed and was
retried, when its worker was killed in the middle, or when its result did not reach the node before
one of the two died. The last two are why tasks are promised *at least* once.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from .storing import connect

# A step was answered from its recorded result if its body had ended before this execution of the
# workflow function began. A body that was still running then is not counted, so this is a lower bound.
REUSED = """
    EXISTS (SELECT 1 FROM executions AS x
            WHERE x.task = s.task AND x.event_id = w.event_id AND x.outcome = 'done' AND x.ended_at < w.started_at)
    AND NOT EXISTS (SELECT 1 FROM executions AS x
            WHERE x.task = s.task AND x.event_id = w.event_id AND x.started_at >= w.started_at)
"""


@dataclass(frozen=True, slots=True)
class Latency:
    p50_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    stored: int
    stored_twice: int
    groups: int
    executions: int
    bodies: int
    bodies_run_again: int
    retries: int
    interrupted: int
    completed_twice: int
    workflow_executions: int
    workflows_resumed: int
    results_reused: int
    step_latency: Latency | None


def read_report(path: Path) -> Report:
    connection = connect(path)
    try:
        return Report(
            stored=count(connection, "SELECT count(*) FROM events"),
            stored_twice=stored_twice(connection),
            groups=count(connection, "SELECT count(DISTINCT group_hash) FROM events"),
            executions=count(connection, "SELECT count(*) FROM executions"),
            bodies=count(connection, "SELECT count(*) FROM (SELECT DISTINCT task, event_id FROM executions)"),
            bodies_run_again=bodies_run_again(connection),
            retries=retries(connection),
            interrupted=count(connection, "SELECT count(*) FROM executions WHERE outcome = 'started'"),
            completed_twice=completed_twice(connection),
            workflow_executions=count(connection, "SELECT count(*) FROM workflow_executions"),
            workflows_resumed=workflows_resumed(connection),
            results_reused=results_reused(connection),
            step_latency=step_latency(connection),
        )
    finally:
        connection.close()


def count(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def stored_event_ids(path: Path) -> set[str]:
    connection = connect(path)
    try:
        return {event_id for (event_id,) in connection.execute("SELECT event_id FROM events")}
    finally:
        connection.close()


def stored_twice(connection: sqlite3.Connection) -> int:
    """Events that two executions inserted. The primary key makes this impossible; this checks that it did."""
    return count(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM executions WHERE inserted = 1 GROUP BY event_id HAVING count(*) > 1)",
    )


def bodies_run_again(connection: sqlite3.Connection) -> int:
    """Bodies with more than one execution, for whatever reason."""
    return count(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM executions GROUP BY task, event_id HAVING count(*) > 1)",
    )


def retries(connection: sqlite3.Connection) -> int:
    """Executions that follow a failed one of the same body: what the retry policy did."""
    return count(
        connection,
        "SELECT count(*) FROM executions AS x WHERE 'failed' ="
        " (SELECT y.outcome FROM executions AS y WHERE y.task = x.task AND y.event_id = x.event_id AND y.id < x.id"
        "  ORDER BY y.id DESC LIMIT 1)",
    )


def completed_twice(connection: sqlite3.Connection) -> int:
    """Bodies that ran to their end more than once: a result was lost on its way, so the work was done again."""
    return count(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM executions WHERE outcome = 'done'"
        " GROUP BY task, event_id HAVING count(*) > 1)",
    )


def workflows_resumed(connection: sqlite3.Connection) -> int:
    """Workflow functions that ran again from the top."""
    return count(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM workflow_executions GROUP BY workflow, event_id HAVING count(*) > 1)",
    )


def results_reused(connection: sqlite3.Connection) -> int:
    """Steps that a workflow function got without their body running again."""
    return count(
        connection,
        f"SELECT count(*) FROM steps AS s JOIN workflow_executions AS w ON w.id = s.workflow_execution WHERE {REUSED}",
    )


def step_latency(connection: sqlite3.Connection) -> Latency | None:
    """From spawn to result as the workflow saw it, retries and failures included, reused results not."""
    seconds = [
        row[0]
        for row in connection.execute(
            "SELECT s.seconds FROM steps AS s JOIN workflow_executions AS w ON w.id = s.workflow_execution"
            f" WHERE NOT ({REUSED}) ORDER BY s.seconds"
        )
    ]
    if not seconds:
        return None

    def at(percent: int) -> float:
        return float(seconds[min(len(seconds) - 1, len(seconds) * percent // 100)]) * 1_000

    return Latency(p50_ms=at(50), p99_ms=at(99), count=len(seconds))


def busiest_worker(path: Path) -> tuple[int, bool] | None:
    """The process that started a body last, and whether that body still runs. None before the first."""
    connection = connect(path)
    try:
        row = connection.execute(
            "SELECT pid, outcome = 'started' FROM executions ORDER BY outcome = 'started' DESC, id DESC LIMIT 1"
        ).fetchone()
    finally:
        connection.close()
    return None if row is None else (int(row[0]), bool(row[1]))
