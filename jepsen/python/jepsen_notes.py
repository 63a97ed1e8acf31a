"""What workers in Python write down, one line each, by single writes: a kill leaves no half line in front of another.

Lines are events of a history, as `coda_checkers::history` reads them; the workload `ledger` has lines of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

#: Workers in Rust count from 100.
WORKER = 200


class Notes:
    def __init__(self, workload: str) -> None:
        path = Path(os.environ["JEPSEN_NOTES"]) / f"python-{workload}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._ops = itertools.count()

    def write(self, *lines: dict[str, Any]) -> None:
        """Lines with the time: microseconds of the machine's monotonic clock."""
        at = time.monotonic_ns() // 1_000
        text = "".join(json.dumps({"at": at, **line}) + "\n" for line in lines)
        os.write(self._file, text.encode())

    def note(self, f: str, key: str | None, value: Any) -> None:
        """Something that happened at this moment."""
        event = self._event(f, key, value)
        self.write({**event, "type": "invoke"}, {**event, "type": "ok"})

    def begin(self, f: str, key: str | None, value: Any) -> None:
        """Something that begins, and of whose end the worker never knows."""
        self.write({**self._event(f, key, value), "type": "invoke"})

    def _event(self, f: str, key: str | None, value: Any) -> dict[str, Any]:
        return {"op": next(self._ops), "client": WORKER, "f": f, "key": key, "value": value}
