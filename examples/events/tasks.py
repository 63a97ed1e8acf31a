"""The steps of the pipeline as Coda tasks. Each is a thin shell around a module that knows no Coda."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3

import coda

from .normalizing import Event, normalize
from .storing import audited, audited_async, store
from .symbolicating import default_roots, symbolicate

__all__ = ["SymbolicatorUnavailable", "normalize_event", "store_event", "symbolicate_event"]

UNAVAILABLE_PERCENT = 20
SYMBOLICATOR_MS_MAX = 20

QUICKLY = coda.Backoff(initial=0.05, factor=2.0, max=1.0, jitter=0.2)


class SymbolicatorUnavailable(Exception):
    """The symbolicator did not answer this time. Try again."""


# An InvalidEvent is not in `retry_on`: it would be as invalid the next time.
@coda.task(name="normalize_event", retry_on=(sqlite3.OperationalError,), max_retries=10, backoff=QUICKLY)
def normalize_event(project_id: int, event_data: Event) -> Event:
    """Bring an event into its canonical form. The result is the event, as later steps need it."""
    with audited("normalize_event", event_data["event_id"], coda.current_task().attempt):
        return normalize(project_id, event_data)


@coda.task(name="symbolicate_event", retry_on=(SymbolicatorUnavailable,), max_retries=10, backoff=QUICKLY)
async def symbolicate_event(project_id: int, event_data: Event) -> Event:
    """Add the source lines to the stack frames; fails for about a fifth of all attempts.

    A real symbolicator is a service on the network: it takes a moment and is sometimes away.
    """
    event_id, attempt = event_data["event_id"], coda.current_task().attempt
    async with audited_async("symbolicate_event", event_id, attempt):
        await symbolicator_answers(event_id, attempt)
        return await asyncio.to_thread(symbolicate, event_data, default_roots())


@coda.task(name="store_event", retry_on=(sqlite3.OperationalError,), max_retries=10, backoff=QUICKLY)
def store_event(project_id: int, event_data: Event) -> str:
    """Store the event and return its id, and not the event: a result is kept for as long as its run."""
    with audited("store_event", event_data["event_id"], coda.current_task().attempt) as execution:
        store(event_data, execution)
        return str(event_data["event_id"])


async def symbolicator_answers(event_id: str, attempt: int) -> None:
    """Wait as long as the make-believe service takes, and fail when it is away.

    Both follow from the event and the attempt, not from a random generator, so that a demo that runs
    again on the same events meets the same trouble.
    """
    chance = hashlib.sha256(f"{event_id}/{attempt}".encode()).digest()
    await asyncio.sleep(chance[0] % SYMBOLICATOR_MS_MAX / 1_000)
    if int.from_bytes(chance[1:5]) % 100 < UNAVAILABLE_PERCENT:
        raise SymbolicatorUnavailable(f"symbolicator is away (event {event_id}, attempt {attempt})")
