"""Tasks that other processes import."""

from __future__ import annotations

import os

import coda

app = coda.App("process_tasks")


@app.task(executor="process")
def where(n: int) -> tuple[int, int, int]:
    return os.getpid(), n, coda.current_task().attempt


@app.task(executor="process", retry_on=OSError)
def fails() -> None:
    raise OSError("in the process")


@app.task(executor="process")
def dies() -> None:
    os._exit(3)
