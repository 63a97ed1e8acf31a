"""The workload `memo` in Python: the same transfer, steps and keys; a run may begin in one and end in the other."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import coda

from jepsen_notes import Notes

QUEUE = "memo"
BODY_MS_MAX = 30
SOON = coda.Backoff(initial=0.02, factor=2.0, max=0.3, jitter=0.5)

_notes = Notes(QUEUE)
#: Executions of bodies. Those in Rust count from 0.
_bodies = itertools.count(1 << 40)
#: Executions of each run, here.
_executions: Counter[str] = Counter()


class PlannedError(Exception):
    pass


async def body(run: str, step: str, account: int, amount: int) -> dict[str, int]:
    by = next(_bodies)
    _notes.note("offer", f"{run} {step}", by)
    await asyncio.sleep(by % BODY_MS_MAX / 1_000)
    return {"account": account, "amount": amount, "by": by}


@coda.task(name="memo-book", queue=QUEUE, max_retries=1_000, backoff=SOON)
async def book(run: str, step: str, account: int, amount: int) -> dict[str, int]:
    return await body(run, step, account, amount)


@coda.workflow(name="memo-transfer", queue=QUEUE, max_retries=1_000, backoff=SOON)
async def transfer(run: str, payer: int, payee: int, amount: int, fails: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def spawn(step: str, account: int, amount: int) -> coda.Handle[dict[str, int]]:
        args = {"run": run, "step": step, "account": account, "amount": amount}
        return coda.context.spawn_task(book, args=args, cache_key=[step])

    def read(step: str, made: dict[str, int]) -> None:
        _notes.note("read", f"{run} {step}", made)
        seen[step] = made

    # Side by side, and one of them twice: one execution, and both see what it made.
    out, again, into = spawn("out", payer, -amount), spawn("out", payer, -amount), spawn("in", payee, amount)
    read("out", await out)
    read("in", await into)
    read("out", await again)
    _executions[run] += 1
    if _executions[run] <= fails:
        raise PlannedError(f"execution {_executions[run]} fails, {fails} are to")
    args = {"run": run, "step": "note", "account": payer, "amount": 0}
    read("note", await coda.run(body, name="note", args=args, cache_key=["note"]))
    return seen
