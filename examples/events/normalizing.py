"""Turn what an SDK sent into one canonical, bounded form. Pure: no clock, no chance, no I/O.

`normalize` is idempotent, so it does not matter whether a step that runs again gets the raw event or
one that has been through here before.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]

EVENT_BYTES_MAX = 64 * 1024
STRING_CHARS_MAX = 8_192
ITEMS_MAX = 100
FRAMES_MAX = 100
BREADCRUMBS_MAX = 50
DEPTH_MAX = 16
TAGS_MAX = 50
TAG_KEY_CHARS_MAX = 32
TAG_VALUE_CHARS_MAX = 200
TITLE_CHARS_MAX = 256

LEVELS = ("debug", "info", "warning", "error", "fatal")
LEVEL_ALIASES = {"warn": "warning", "critical": "fatal", "log": "info"}
DEFAULT_FINGERPRINT = "{{ default }}"

# Numbers, hex ids and quoted values are what differs between two events of one problem.
_VARIABLE_PART = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{6,}\b|\d+|'[^']*'|\"[^\"]*\"", re.IGNORECASE)


class InvalidEvent(ValueError):
    """The event cannot be processed, now or later. Not worth a retry."""


def normalize(project_id: int, event: Mapping[str, Any]) -> Event:
    """Return the canonical form of an event; the one given is not changed."""
    normal: Event = {str(key): value for key, value in event.items() if value not in (None, "", [], {})}
    normal["event_id"] = canonical_event_id(event.get("event_id"))
    normal["project"] = project_id
    normal["level"] = canonical_level(event.get("level"))
    normal["timestamp"] = canonical_timestamp(event.get("timestamp"))
    normal["tags"] = canonical_tags(event.get("tags"))
    normal["breadcrumbs"] = {"values": canonical_breadcrumbs(event.get("breadcrumbs"))}
    for stacktrace in stacktraces_of(normal):
        stacktrace["frames"] = keep_ends(stacktrace.get("frames") or [], FRAMES_MAX)

    hashed = group_hash(normal)
    normal["title"] = title_of(normal)
    normal["group_hash"] = hashed
    return fit(bounded(normal), EVENT_BYTES_MAX)


def canonical_event_id(value: Any) -> str:
    try:
        return uuid.UUID(str(value)).hex
    except ValueError as exc:
        raise InvalidEvent(f"event_id {str(value)[:64]!r} is not a UUID") from exc


def canonical_level(value: Any) -> str:
    level = str(value or "error").strip().lower()
    level = LEVEL_ALIASES.get(level, level)
    return level if level in LEVELS else "error"


def canonical_timestamp(value: Any) -> str:
    """RFC 3339 in UTC with six digits, from that or from seconds since 1970."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            moment = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as exc:
        raise InvalidEvent(f"timestamp {str(value)[:64]!r} is neither RFC 3339 nor a number") from exc
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical_tags(tags: Any) -> list[list[str]]:
    """Sorted pairs. A list, because a map's order does not survive every codec."""
    pairs: Iterable[Any] = tags.items() if isinstance(tags, Mapping) else tags or ()
    canonical = {
        re.sub(r"[^\w.:-]+", "_", str(pair[0]).strip().lower())[:TAG_KEY_CHARS_MAX]: tag_value(pair[1])
        for pair in pairs
        if isinstance(pair, Sequence) and len(pair) == 2
    }
    return [[key, value] for key, value in sorted(canonical.items()) if key and value][:TAGS_MAX]


def tag_value(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return " ".join(text.split())[:TAG_VALUE_CHARS_MAX]


def canonical_breadcrumbs(breadcrumbs: Any) -> list[dict[str, Any]]:
    values = breadcrumbs.get("values") if isinstance(breadcrumbs, Mapping) else breadcrumbs
    canonical = []
    for crumb in (values or [])[-BREADCRUMBS_MAX:]:
        if not isinstance(crumb, Mapping):
            continue
        canonical.append(
            {
                **crumb,
                "level": canonical_level(crumb.get("level") or "info"),
                **({"timestamp": canonical_timestamp(crumb["timestamp"])} if crumb.get("timestamp") else {}),
            }
        )
    return canonical


def exceptions_of(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chain, innermost first, as the SDK sends it."""
    return list((event.get("exception") or {}).get("values") or [])


def stacktraces_of(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every stack trace of an event: of each exception in the chain, and of each thread."""
    threads = (event.get("threads") or {}).get("values") or []
    holders = [*exceptions_of(event), *threads]
    return [holder["stacktrace"] for holder in holders if holder.get("stacktrace")]


def title_of(event: Mapping[str, Any]) -> str:
    exceptions = exceptions_of(event)
    if not exceptions:
        return first_line(message_of(event) or "<no message>")
    outermost = exceptions[-1]
    return first_line(f"{outermost.get('type')}: {outermost.get('value') or ''}".rstrip(": "))


def message_of(event: Mapping[str, Any]) -> str:
    entry = event.get("logentry") or {}
    return str(entry.get("message") or entry.get("formatted") or event.get("message") or "")


def first_line(text: str) -> str:
    return text.splitlines()[0][:TITLE_CHARS_MAX] if text else ""


def group_hash(event: Mapping[str, Any]) -> str:
    """Which problem this is an instance of. Line numbers and values do not count, code paths do.

    A fingerprint chosen by the user replaces ours; `{{ default }}` inside it stands for ours.
    """
    parts = default_fingerprint(event)
    chosen = event.get("fingerprint")
    if isinstance(chosen, list) and chosen:
        parts = [part for item in chosen for part in (parts if item == DEFAULT_FINGERPRINT else [str(item)])]
    # JSON keeps the parts apart: ["ab"] must not hash like ["a", "b"].
    encoded = json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(encoded).hexdigest()[:32]


def default_fingerprint(event: Mapping[str, Any]) -> list[str]:
    exceptions = exceptions_of(event)
    if not exceptions:
        return ["message", _VARIABLE_PART.sub("<*>", message_of(event))]
    parts = []
    for exception in exceptions:
        parts.append(f"{exception.get('module') or 'builtins'}.{exception.get('type')}")
        frames = (exception.get("stacktrace") or {}).get("frames") or []
        own = [frame for frame in frames if frame.get("in_app")] or frames
        path = [f"{frame.get('module')}:{frame.get('function')}" for frame in own]
        # A recursion that stopped one call later is the same problem.
        parts.extend(place for place, before in zip(path, [None, *path], strict=False) if place != before)
    return parts


def keep_ends(items: list[Any], most: int) -> list[Any]:
    """The first and the last of a long list: of a stack, the entry point and the failure."""
    return items if len(items) <= most else items[: most // 2] + items[-(most - most // 2) :]


def bounded(value: Any, depth: int = 0) -> Any:
    """A copy in which no string, list, map or nesting is larger than its limit."""
    if isinstance(value, str):
        return value if len(value) <= STRING_CHARS_MAX else value[: STRING_CHARS_MAX - 1] + "…"
    if isinstance(value, Mapping):
        if depth >= DEPTH_MAX:
            return "<trimmed>"
        return {
            str(key)[:TAG_VALUE_CHARS_MAX]: bounded(item, depth + 1) for key, item in list(value.items())[:ITEMS_MAX]
        }
    if isinstance(value, (list, tuple)):
        if depth >= DEPTH_MAX:
            return "<trimmed>"
        return [bounded(item, depth + 1) for item in keep_ends(list(value), ITEMS_MAX)]
    return value


def fit(event: Event, bytes_max: int) -> Event:
    """Give up the least useful parts, one after the other, until the event is small enough."""
    for give_up in (drop_library_variables, drop_modules, drop_all_variables, drop_breadcrumbs, drop_most_frames):
        if size_bytes(event) <= bytes_max:
            return event
        give_up(event)
        event["trimmed"] = sorted({*event.get("trimmed", ()), give_up.__name__.removeprefix("drop_")})
    if size_bytes(event) > bytes_max:
        raise InvalidEvent(f"event {event['event_id']} has {size_bytes(event)} bytes even when trimmed")
    return event


def size_bytes(event: Mapping[str, Any]) -> int:
    return len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def drop_library_variables(event: Event) -> None:
    for frame in frames_of(event):
        if not frame.get("in_app"):
            frame.pop("vars", None)


def drop_all_variables(event: Event) -> None:
    for frame in frames_of(event):
        frame.pop("vars", None)


def drop_modules(event: Event) -> None:
    event.pop("modules", None)


def drop_breadcrumbs(event: Event) -> None:
    event["breadcrumbs"] = {"values": []}


def drop_most_frames(event: Event) -> None:
    for stacktrace in stacktraces_of(event):
        stacktrace["frames"] = keep_ends(stacktrace["frames"], 10)


def frames_of(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [frame for stacktrace in stacktraces_of(event) for frame in stacktrace.get("frames") or []]
