"""The steps without Coda: what they do to events, and what the database holds after they ran again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from examples.events.normalizing import EVENT_BYTES_MAX, InvalidEvent, normalize, size_bytes
from examples.events.raise_errors import generate
from examples.events.report import read_report
from examples.events.storing import audited, begin_execution, begin_workflow, end_workflow, store
from examples.events.symbolicating import SYMBOLICATED_EVENT_BYTES_MAX, default_roots, source_lines, symbolicate

Event = dict[str, Any]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    out = tmp_path_factory.mktemp("events") / "events.jsonl"
    generate(200, out, seed=7)
    return [json.loads(line) for line in out.read_bytes().splitlines()]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.sqlite3"
    monkeypatch.setenv("EVENTS_DB", str(path))
    return path


def small_event(**changes: Any) -> Event:
    return {"event_id": "0" * 31 + "1", "timestamp": "2026-11-22T03:00:00Z", "level": "error"} | changes


def rows(path: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_normalizing_twice_is_normalizing_once(events: list[Event]) -> None:
    for event in events:
        once = normalize(42, event)
        assert normalize(42, once) == once


def test_a_normal_event_has_one_form() -> None:
    event = small_event(
        event_id="FC6D8C0C-43FC-4630-AD85-0EE518F1B9D0",
        level=" Critical",
        timestamp="2026-11-22T05:00:00.5+02:00",
        tags={"Zone": " a  b ", "city": "Köln", "beta": True, "empty": ""},
    )
    normal = normalize(42, event)
    assert normal["event_id"] == "fc6d8c0c43fc4630ad850ee518f1b9d0"
    assert normal["level"] == "fatal"
    assert normal["timestamp"] == "2026-11-22T03:00:00.500000Z"
    assert normal["tags"] == [["beta", "true"], ["city", "Köln"], ["zone", "a b"]]
    assert normalize(42, event | {"timestamp": 1795316400.5})["timestamp"] == normal["timestamp"]


@pytest.mark.parametrize("change", [{"event_id": "nope"}, {"event_id": None}, {"timestamp": "soon"}])
def test_an_event_that_can_never_be_processed_is_refused(change: Event) -> None:
    with pytest.raises(InvalidEvent):
        normalize(42, small_event() | change)


def test_one_problem_is_one_group(events: list[Event]) -> None:
    groups: dict[str, set[str]] = {}
    for event in events:
        groups.setdefault(event["tags"]["shop.fault"], set()).add(normalize(42, event)["group_hash"])
    assert len(groups["discount_without_weights"]) == 1
    assert len(groups["category_is_its_own_parent"]) == 1
    assert groups["odd_hex_digest"].isdisjoint(groups["truncated_frame"])


def test_a_fingerprint_chosen_by_hand_is_respected() -> None:
    one, other = small_event(message="disk 1 full"), small_event(message="cannot log in")
    assert normalize(42, one)["group_hash"] != normalize(42, other)["group_hash"]
    assert normalize(42, one)["group_hash"] == normalize(42, one | {"message": "disk 27 full"})["group_hash"]
    chosen = {"fingerprint": ["mine"]}
    assert normalize(42, one | chosen)["group_hash"] == normalize(42, other | chosen)["group_hash"]
    extended = {"fingerprint": ["{{ default }}", "mine"]}
    assert normalize(42, one | extended)["group_hash"] != normalize(42, other | extended)["group_hash"]


def test_an_event_that_is_too_big_is_trimmed_and_says_so() -> None:
    frames = [{"function": f"f{n}", "vars": {"x": "ж" * 5_000}, "in_app": n % 2 == 0} for n in range(500)]
    nested: Any = "end"
    for _ in range(100):
        nested = [nested]
    event = small_event(
        exception={"values": [{"type": "E", "value": "x" * 100_000, "stacktrace": {"frames": frames}}]},
        extra={"nested": nested, "wide": list(range(10_000))},
    )
    normal = normalize(42, event)
    assert size_bytes(normal) <= EVENT_BYTES_MAX
    assert "library_variables" in normal["trimmed"]
    kept = normal["exception"]["values"][0]["stacktrace"]["frames"]
    assert (kept[0]["function"], kept[-1]["function"]) == ("f0", "f499")


def test_frames_get_the_lines_around_them(events: list[Event]) -> None:
    roots = default_roots()
    for event in events:
        normal = normalize(42, event)
        symbolicated = symbolicate(normal, roots)
        assert size_bytes(symbolicated) <= SYMBOLICATED_EVENT_BYTES_MAX
        assert "symbolication" not in normal, "the event that was given is not changed"
    event = next(event for event in events if event["tags"]["shop.fault"] == "discount_without_weights")
    frame = symbolicate(event, roots)["exception"]["values"][0]["stacktrace"]["frames"][-1]
    assert frame["context_line"] == "    return [discount_cents * weight // whole for weight in weights]"
    assert frame["pre_context"][-1] == "    whole = sum(weights)"
    assert len(frame["post_context"]) <= 5


def test_an_event_cannot_read_files_it_has_no_business_with(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "shop.py").write_text("x = 1\n")
    (outside / "secret.py").write_text("KEY = 1\n")
    (inside / "link.py").symlink_to(outside / "secret.py")
    roots = (inside.resolve(),)
    assert source_lines(str(inside / "shop.py"), roots) == ("x = 1",)
    for path in (
        outside / "secret.py",
        inside / ".." / "outside" / "secret.py",
        inside / "link.py",
        Path("/etc/passwd"),
    ):
        assert source_lines(str(path), roots) == ()


def test_a_body_that_runs_again_stores_nothing_new(database: Path) -> None:
    event = normalize(42, small_event())
    with audited("store_event", event["event_id"], 1) as first:
        assert store(event, first)
    with audited("store_event", event["event_id"], 1) as second:
        assert not store(event, second)
    report = read_report(database)
    assert (report.stored, report.stored_twice, report.executions, report.completed_twice) == (1, 0, 2, 1)


def test_the_audit_tells_a_retry_from_an_interruption(database: Path) -> None:
    with pytest.raises(RuntimeError), audited("symbolicate_event", "retried", 1):
        raise RuntimeError("away")
    with audited("symbolicate_event", "retried", 2):
        pass
    begin_execution("symbolicate_event", "killed", 1)
    with audited("symbolicate_event", "killed", 2):
        pass
    report = read_report(database)
    assert (report.retries, report.interrupted, report.completed_twice) == (1, 1, 0)
    assert (report.executions, report.bodies, report.bodies_run_again) == (4, 2, 2)
    assert rows(database, "SELECT DISTINCT error FROM executions WHERE outcome = 'failed'") == [("RuntimeError",)]


def test_a_workflow_that_runs_again_reuses_the_step_that_was_done(database: Path) -> None:
    begin_workflow("handle_event", "e")
    with audited("normalize_event", "e", 1):
        pass
    # Killed here, after the first step.
    again = begin_workflow("handle_event", "e")
    with audited("store_event", "e", 1):
        pass
    end_workflow(again, "done", {"normalize_event": 0.001, "store_event": 0.2})
    report = read_report(database)
    assert (report.workflow_executions, report.workflows_resumed, report.results_reused) == (2, 1, 1)
    assert report.step_latency is not None
    assert (report.step_latency.count, round(report.step_latency.p50_ms)) == (1, 200)
