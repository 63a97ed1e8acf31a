"""The generated events are what the pipeline's users would send: real, varied, bounded, repeatable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.events.raise_errors import EVENT_BYTES_MAX, EVENT_BYTES_MIN, generate
from examples.events.shop import all_faults

Event = dict[str, Any]
COUNT = 200


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    out = tmp_path_factory.mktemp("events") / "events.jsonl"
    generate(COUNT, out, seed=1)
    return out.read_bytes().splitlines()


@pytest.fixture(scope="module")
def events(lines: list[bytes]) -> list[Event]:
    return [json.loads(line) for line in lines]


def exceptions_of(event: Event) -> list[Event]:
    return (event.get("exception") or {}).get("values") or []


def every_string(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in every_string(part)]
    if isinstance(value, list):
        return [text for item in value for text in every_string(item)]
    return []


def fault_of(event: Event) -> str:
    return f"{event['tags']['shop.module']}.{event['tags']['shop.fault']}"


def test_each_line_is_one_event_with_an_id_of_its_own(events: list[Event]) -> None:
    assert len(events) == COUNT
    ids = {event["event_id"] for event in events}
    assert len(ids) == COUNT
    assert all(len(event_id) == 32 and int(event_id, 16) for event_id in ids)


def test_no_event_is_tiny_or_huge(lines: list[bytes]) -> None:
    sizes = [len(line) for line in lines]
    assert min(sizes) >= EVENT_BYTES_MIN
    assert max(sizes) <= EVENT_BYTES_MAX
    assert max(sizes) >= 20_000, "some events have to be big"


def test_the_largest_kinds_stay_in_bounds_whatever_is_drawn(tmp_path: Path) -> None:
    for seed in range(2, 5):
        out = tmp_path / f"{seed}.jsonl"
        generate(len(all_faults()), out, seed)
        assert max(map(len, out.read_bytes().splitlines())) <= EVENT_BYTES_MAX, f"seed {seed}"


def test_at_least_forty_exception_types_and_sixty_places(events: list[Event]) -> None:
    types = {(value.get("module"), value["type"]) for event in events for value in exceptions_of(event)}
    assert len(types) >= 40
    places = {
        (frames[-1]["abs_path"], frames[-1]["lineno"])
        for event in events
        for value in exceptions_of(event)
        if (frames := (value.get("stacktrace") or {}).get("frames"))
    }
    assert len(places) >= 60


def test_every_fault_happens_before_any_happens_again(events: list[Event]) -> None:
    first_round = events[: len(all_faults())]
    assert {fault_of(event) for event in first_round} == {fault.name for fault in all_faults()}


def test_stack_traces_cross_several_files_of_the_shop(events: list[Event]) -> None:
    files = {
        Path(frame["abs_path"]).name
        for event in events
        for value in exceptions_of(event)
        for frame in (value.get("stacktrace") or {}).get("frames") or []
        if frame.get("in_app")
    }
    shop = {"accounts.py", "cart.py", "importer.py", "payments.py", "search.py", "templates.py", "workers.py"}
    assert shop <= files


def test_text_is_unicode_and_survives_utf8(events: list[Event]) -> None:
    text = "".join(every_string(events))
    for sample in ("Zoë", "山田", "чай", "🍵", "Σωκράτης", "שירה"):
        assert sample in text
    # A lone surrogate would be legal JSON, and no codec but JSON could carry it.
    text.encode("utf-8")


def test_chains_causes_and_groups_are_there(events: list[Event]) -> None:
    assert sum(len(exceptions_of(event)) > 1 for event in events) >= 10
    # The SDK lists a chain innermost first: cause, then effect.
    chains = {tuple(value["type"] for value in exceptions_of(event)) for event in events}
    assert ("ConnectionResetError", "GatewayUnavailable", "RefundFailed") in chains, "raise … from …"
    assert ("DivisionByZero", "KeyError") in chains, "while handling"
    assert ("CardDeclined",) in chains, "raise … from None"
    mechanisms = [value.get("mechanism") or {} for event in events for value in exceptions_of(event)]
    assert any(mechanism.get("is_exception_group") for mechanism in mechanisms)
    assert any(str(mechanism.get("source")).startswith("exceptions[") for mechanism in mechanisms)


def test_nested_locals_breadcrumbs_tags_contexts_and_users_are_there(events: list[Event]) -> None:
    def depth(value: object) -> int:
        if isinstance(value, dict):
            return 1 + max(map(depth, value.values()), default=0)
        if isinstance(value, list):
            return 1 + max(map(depth, value), default=0)
        return 0

    deepest = max(
        depth(frame.get("vars"))
        for event in events
        for value in exceptions_of(event)
        for frame in (value.get("stacktrace") or {}).get("frames") or []
    )
    assert deepest >= 4
    assert any(len(event["breadcrumbs"]["values"]) >= 5 for event in events)
    assert all(event["user"]["id"] and event["tags"] and event["contexts"]["customer"] for event in events)


def test_some_are_reported_by_logging_and_by_a_thread(events: list[Event]) -> None:
    mechanisms = {(value.get("mechanism") or {}).get("type") for event in events for value in exceptions_of(event)}
    assert {"logging", "threading", "chained"} <= mechanisms
    assert any(not exceptions_of(event) for event in events), "messages without an exception"
    assert {"error", "warning", "info", "fatal"} <= {event["level"] for event in events}


def test_a_seed_gives_the_same_errors_again_and_another_seed_others(events: list[Event], tmp_path: Path) -> None:
    def essence(event: Event) -> tuple[object, ...]:
        return event["event_id"], event["tags"], event["user"], [value["type"] for value in exceptions_of(event)]

    def again(seed: int) -> list[tuple[object, ...]]:
        out = tmp_path / f"{seed}.jsonl"
        generate(50, out, seed)
        return [essence(json.loads(line)) for line in out.read_bytes().splitlines()]

    assert again(seed=1) == [essence(event) for event in events[:50]]
    assert again(seed=2) != again(seed=1)
