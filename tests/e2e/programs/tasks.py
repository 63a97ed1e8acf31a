"""The tasks that the product's program imports."""

from __future__ import annotations

from typing import Any

import coda

from .notes import note


@coda.task()
def normalize_event(project_id: int, event_data: dict[str, Any]) -> dict[str, Any]:
    note("normalize", event=event_data["event_id"])
    return {**event_data, "project": project_id, "title": event_data["title"].strip().lower()}


@coda.task(max_retries=3, backoff=coda.Backoff(initial=0.05))
async def store_event(project_id: int, event_data: dict[str, Any]) -> str:
    note("store", event=event_data["event_id"], data=event_data)
    if coda.current_task().attempt == 1:
        raise ConnectionError("the store is away")
    return f"{project_id}/{event_data['event_id']}/{event_data['title']}"
