"""What programs tell their test: lines of one file, in the order in which things happened.

Each note is a single write at the end of the file, so that the kernel puts the notes of all processes in one order, and
a kill never leaves half a note in front of another.
"""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path
from typing import Any


def note(kind: str, **fields: Any) -> None:
    fields = {"kind": kind, "pid": os.getpid(), "at": time.time(), **fields}
    os.write(_file(), (json.dumps(fields) + "\n").encode())


def flag(name: str) -> Path:
    """A file by which a test tells a program to go on, or programs tell each other."""
    return Path(os.environ["E2E_NOTES"]).with_name(f"flag-{name}")


@functools.cache
def _file() -> int:
    return os.open(os.environ["E2E_NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
