"""A child for tests of the supervisor: says what it is told, and ends as it is told."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

how, folder = sys.argv[1], Path(sys.argv[2])
terms = 0


def write(name: str, text: str = "") -> None:
    # Whole or not at all: the test reads it as soon as it is there.
    (folder / f".{name}").write_text(text)
    (folder / f".{name}").rename(folder / name)


def on_term(*_: object) -> None:
    global terms
    terms += 1
    write(f"term-{os.getpid()}-{terms}")
    if how == "polite" or (how == "slow" and terms == 2):
        sys.exit(0)


signal.signal(signal.SIGTERM, on_term)
write(f"child-{os.getpid()}", os.environ["CODA_SESSION"] + " " + os.environ["CODA_WORKER_CHILD"])
if how == "crash":
    os._exit(9)
if how == "usage":
    sys.exit(2)
if how == "orphan":
    from coda._child import die_with_parent

    die_with_parent(int(os.environ["CODA_WORKER_PARENT"]))
    write(f"armed-{os.getpid()}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
for _ in range(600):
    time.sleep(0.1)
