"""Make real error events: run a shop that fails, under the real sentry-sdk, and keep what it sends.

    python -m examples.events.raise_errors --count 1000 --out events.jsonl --seed 1

Each line of the output is the payload of one event item, byte for byte as the SDK put it into its
envelope. Nothing is sent: the DSN points at a closed port on loopback, and the transport that would
talk to it is replaced by one that writes lines.

The same seed raises the same errors, with the same data, in the same order, under the same event
ids. What the machine decides (timestamps, memory addresses, paths, thread ids) differs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import Transport
from sentry_sdk.utils import event_from_exception

if __package__ in (None, ""):
    # Started as a script: make the package importable, so that module names in the events are the same.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.events.shop import Fault, World, all_faults

REPOSITORY = Path(__file__).resolve().parents[2]
# Port 9 is `discard`. It is never contacted, but a DSN has to look like one.
FAKE_DSN = "http://0123456789abcdef0123456789abcdef@127.0.0.1:9/42"
EVENT_BYTES_MAX = 60 * 1024
EVENT_BYTES_MIN = 1024

log = logging.getLogger("shop.web")


@dataclass(frozen=True)
class Summary:
    """What was written. `types` counts the outermost exception type of each event."""

    events: int
    bytes_total: int
    sizes: list[int] = field(repr=False)
    faults: Counter[str] = field(repr=False)
    types: Counter[str] = field(repr=False)


class RecordingTransport(Transport):
    """Keeps the event payloads and sends nothing. It has no queue and no thread, so no flush either."""

    def __init__(self, sink: IO[bytes]) -> None:
        super().__init__()
        self._sink = sink
        self._lock = threading.Lock()
        self.sizes: list[int] = []
        self.types: Counter[str] = Counter()

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type == "event":
                self._write(item.get_bytes(), item.get_event() or {})

    def _write(self, payload: bytes, event: Mapping[str, Any]) -> None:
        if b"\n" in payload:
            raise AssertionError("the SDK writes compact JSON: one event is one line")
        # Threads of the shop report their own errors.
        with self._lock:
            self._sink.write(payload + b"\n")
            self.sizes.append(len(payload))
            values = (event.get("exception") or {}).get("values") or []
            self.types[outermost_type(values)] += 1


def outermost_type(values: list[dict[str, Any]]) -> str:
    """The SDK lists a chain innermost first, so the error that was caught is the last one."""
    return str(values[-1].get("type")) if values else "(message)"


class EventIds:
    """Gives each event an id from the seed. Real ids are random; ours have to be repeatable."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, event: Any, hint: dict[str, Any]) -> Any:
        event["event_id"] = uuid.UUID(int=self._rng.getrandbits(128), version=4).hex
        return event


def start_sdk(transport: Transport, event_ids: EventIds) -> None:
    sentry_sdk.init(
        dsn=FAKE_DSN,
        transport=transport,
        before_send=event_ids,
        release="shop@2026.11.1",
        environment="production",
        server_name="shop-web-3",
        project_root=str(REPOSITORY),
        in_app_include=["examples.events.shop"],
        # The source lines are added later by symbolicate_event, as for code that is deployed without
        # its sources.
        include_source_context=False,
        # The events must not depend on which other packages happen to be installed.
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        send_client_reports=False,
        max_breadcrumbs=40,
    )
    # A pool logs the failure of its initializer and raises it too; one of the two is enough.
    ignore_logger("concurrent.futures")


def stop_sdk() -> None:
    """Unbind the client, so that the process (a test run, the demo) reports nothing from here on."""
    sentry_sdk.get_global_scope().set_client(None)


def dress(scope: sentry_sdk.Scope, world: World, fault: Fault) -> None:
    """Give the scope what a web request would have given it by the time it fails."""
    customer = world.customer()
    module, _, name = fault.name.partition(".")
    scope.set_user({"id": customer["id"], "username": customer["name"], "email": customer["email"]})
    scope.set_tag("shop.module", module)
    scope.set_tag("shop.fault", name)
    scope.set_tag("Locale", customer["locale"])
    scope.set_tag("city", customer["address"]["city"])
    scope.set_tag("canary", world.rng.random() < 0.1)
    scope.set_context("customer", customer)
    scope.set_context("feature flags", {flag: world.rng.random() < 0.5 for flag in ("neue_kasse", "検索v2", "fast")})
    scope.set_transaction_name(f"/{customer['locale']}/{module}/{name}")
    for number in range(world.rng.randrange(0, 12)):
        scope.add_breadcrumb(
            {
                "category": world.rng.choice(["http", "navigation", "query", "ui.click"]),
                "message": world.text(world.rng.randrange(2, 14)),
                "level": world.rng.choice(["info", "debug", "warning"]),
                "data": {"step": number, "ms": world.rng.randrange(1, 400), "target": world.query()},
            }
        )
    log.info("request %s for %s", world.hex(8), customer["name"])


def handle_request(fault: Fault, world: World) -> None:
    """One request: run the shop code; what it raises goes to the SDK, as a framework would do it."""
    with sentry_sdk.isolation_scope() as scope:
        dress(scope, world, fault)
        try:
            fault.run(world)
        except (Exception, asyncio.CancelledError, SystemExit) as exc:  # noqa: BLE001 - a framework catches all
            event, hint = event_from_exception(
                exc,
                client_options=sentry_sdk.get_client().options,
                mechanism={"type": "shop", "handled": False},
            )
            sentry_sdk.capture_event(event, hint=hint)


def quiet_the_logs() -> None:
    """The SDK listens to the loggers; the terminal of whoever makes the events need not."""
    for name in ("shop", "concurrent.futures"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


def schedule(rng: random.Random) -> Iterator[Fault]:
    """Endless rounds of all faults, each shuffled: every fault happens before any happens again."""
    faults = all_faults()
    while True:
        yield from rng.sample(faults, k=len(faults))


def generate(count: int, out: Path, seed: int) -> Summary:
    """Write `count` events to `out`, one JSON document a line."""
    # Separate generators: what one fault draws must not change which fault comes next.
    order = schedule(random.Random(f"{seed}/order"))
    ids = EventIds(random.Random(f"{seed}/ids"))
    data = random.Random(f"{seed}/data")
    faults: Counter[str] = Counter()

    out.parent.mkdir(parents=True, exist_ok=True)
    excepthook, threading.excepthook = threading.excepthook, lambda args: None
    quiet_the_logs()
    try:
        with out.open("wb") as sink:
            transport = RecordingTransport(sink)
            start_sdk(transport, ids)
            for number in range(count):
                fault = next(order)
                handle_request(fault, World(random.Random(data.getrandbits(64))))
                faults[fault.name] += 1
                if len(transport.sizes) != number + 1:
                    raise AssertionError(f"{fault.name} made {len(transport.sizes) - number} events, not one")
            sizes, types = transport.sizes, transport.types
    finally:
        stop_sdk()
        threading.excepthook = excepthook
    return Summary(count, sum(sizes), sizes, faults, types)


def percentile(values: list[int], percent: int) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="how many events to make (default 1000)")
    parser.add_argument("--out", type=Path, default=Path("events.jsonl"), help="where to write them")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same errors")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error("--count must be at least 1")

    summary = generate(arguments.count, arguments.out, arguments.seed)
    sizes = summary.sizes
    print(
        f"{summary.events} events, {len(summary.faults)} faults, {len(summary.types)} types, "
        f"{summary.bytes_total / 2**20:.1f} MiB -> {arguments.out}\n"
        f"event size in bytes: min {min(sizes)}, p50 {percentile(sizes, 50)}, p90 {percentile(sizes, 90)}, "
        f"p99 {percentile(sizes, 99)}, max {max(sizes)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
