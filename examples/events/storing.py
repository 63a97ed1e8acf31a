"""The pipeline's own database: the events, and an audit of every execution.

Coda promises that a body runs at least once and that its result is recorded exactly once. What
happens in somebody else's database is up to the body: `store` is safe to run again because the event
id is the primary key. The `executions` table has one row for each time a body *started*, so that one
can count afterwards how often that mattered.

SQLite allows one writer at a time. WAL keeps readers out of its way, and the busy timeout makes the
workers queue instead of failing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

BUSY_TIMEOUT_MS = 30_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    event_id   TEXT PRIMARY KEY,
    project_id INTEGER NOT NULL,
    timestamp  TEXT NOT NULL,
    level      TEXT NOT NULL,
    group_hash TEXT NOT NULL,
    title      TEXT NOT NULL,
    payload    TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS events_by_group ON events (project_id, group_hash, timestamp);

-- `outcome` stays 'started' when the process is killed before the body ends.
CREATE TABLE IF NOT EXISTS executions (
    id         INTEGER PRIMARY KEY,
    task       TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL,
    outcome    TEXT NOT NULL DEFAULT 'started' CHECK (outcome IN ('started', 'done', 'failed')),
    error      TEXT,
    inserted   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS executions_by_body ON executions (task, event_id);

CREATE TABLE IF NOT EXISTS workflow_executions (
    id         INTEGER PRIMARY KEY,
    workflow   TEXT NOT NULL,
    event_id   TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at   REAL,
    outcome    TEXT NOT NULL DEFAULT 'started' CHECK (outcome IN ('started', 'done', 'failed'))
);
CREATE INDEX IF NOT EXISTS workflow_executions_by_event ON workflow_executions (event_id);

-- One row for each awaited step of a workflow function that reached its end.
CREATE TABLE IF NOT EXISTS steps (
    workflow_execution INTEGER NOT NULL REFERENCES workflow_executions (id),
    task               TEXT NOT NULL,
    seconds            REAL NOT NULL,
    PRIMARY KEY (workflow_execution, task)
) WITHOUT ROWID;
"""

_local = threading.local()


def database_path() -> Path:
    path = os.environ.get("EVENTS_DB")
    if not path:
        raise RuntimeError("EVENTS_DB is not set: it has to be the path of the SQLite database")
    return Path(path)


def connect(path: Path, *, synchronous: str = "NORMAL") -> sqlite3.Connection:
    """Open the database and make sure its tables are there."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1_000, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.executescript(SCHEMA)
    return connection


def _connection(synchronous: str) -> sqlite3.Connection:
    """One connection a thread. The pid is part of the key: SQLite does not survive a fork."""
    key = (os.getpid(), database_path(), synchronous)
    cached: dict[Any, sqlite3.Connection] = _local.__dict__.setdefault("connections", {})
    if key not in cached:
        cached[key] = connect(key[1], synchronous=synchronous)
    return cached[key]


@contextmanager
def transaction(synchronous: str = "NORMAL") -> Iterator[sqlite3.Connection]:
    """A write transaction. It takes the write lock first, so it waits at its start and nowhere else."""
    connection = _connection(synchronous)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def store(event: Mapping[str, Any], execution: int) -> bool:
    """Store an event once; False if it was there already.

    The audit mark is part of the same transaction, so `inserted` can be trusted after a kill. FULL:
    Coda will remember for good that this step is done, so the row must be as durable as that.
    """
    with transaction(synchronous="FULL") as connection:
        cursor = connection.execute(
            "INSERT INTO events (event_id, project_id, timestamp, level, group_hash, title, payload)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
            (
                event["event_id"],
                event["project"],
                event["timestamp"],
                event["level"],
                event["group_hash"],
                event["title"].encode("utf-8", "replace").decode(),
                json.dumps(event, separators=(",", ":")),
            ),
        )
        inserted = cursor.rowcount == 1
        connection.execute("UPDATE executions SET inserted = ? WHERE id = ?", (int(inserted), execution))
    return inserted


def begin_execution(task: str, event_id: str, attempt: int) -> int:
    with transaction() as connection:
        cursor = connection.execute(
            "INSERT INTO executions (task, event_id, attempt, pid, started_at) VALUES (?, ?, ?, ?, ?)",
            (task, event_id, attempt, os.getpid(), time.time()),
        )
        assert cursor.lastrowid is not None, "SQLite gives every inserted row an id"
        return cursor.lastrowid


def end_execution(execution: int, error: BaseException | None) -> None:
    with transaction() as connection:
        connection.execute(
            "UPDATE executions SET ended_at = ?, outcome = ?, error = ? WHERE id = ?",
            (
                time.time(),
                "done" if error is None else "failed",
                None if error is None else type(error).__name__,
                execution,
            ),
        )


@contextmanager
def audited(task: str, event_id: str, attempt: int) -> Iterator[int]:
    """Record that a body runs, and how it ends. Yields the id of the audit row."""
    execution = begin_execution(task, event_id, attempt)
    try:
        yield execution
    except BaseException as exc:
        end_execution(execution, exc)
        raise
    end_execution(execution, None)


@asynccontextmanager
async def audited_async(task: str, event_id: str, attempt: int) -> AsyncIterator[int]:
    """The same for an `async def` body: waiting for the write lock must not stop the event loop."""
    execution = await asyncio.to_thread(begin_execution, task, event_id, attempt)
    try:
        yield execution
    except BaseException as exc:
        await asyncio.to_thread(end_execution, execution, exc)
        raise
    await asyncio.to_thread(end_execution, execution, None)


def begin_workflow(workflow: str, event_id: str) -> int:
    with transaction() as connection:
        cursor = connection.execute(
            "INSERT INTO workflow_executions (workflow, event_id, pid, started_at) VALUES (?, ?, ?, ?)",
            (workflow, event_id, os.getpid(), time.time()),
        )
        assert cursor.lastrowid is not None, "SQLite gives every inserted row an id"
        return cursor.lastrowid


def end_workflow(execution: int, outcome: str, steps: Mapping[str, float]) -> None:
    with transaction() as connection:
        connection.execute(
            "UPDATE workflow_executions SET ended_at = ?, outcome = ? WHERE id = ?", (time.time(), outcome, execution)
        )
        connection.executemany(
            "INSERT INTO steps (workflow_execution, task, seconds) VALUES (?, ?, ?)",
            [(execution, task, seconds) for task, seconds in steps.items()],
        )
