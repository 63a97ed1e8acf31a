"""A client that waits for a result that does not come, to be interrupted. `sync` or `async` is its argument."""

from __future__ import annotations

import asyncio
import sys

import coda


def wait() -> None:
    with coda.Client() as client:
        handle = client.submit("nobody_runs_this")
        print("waiting", flush=True)
        handle.result()


async def wait_async() -> None:
    async with coda.AsyncClient() as client:
        handle = await client.submit("nobody_runs_this")
        print("waiting", flush=True)
        await handle.result()


if __name__ == "__main__":
    try:
        if sys.argv[1] == "sync":
            wait()
        else:
            asyncio.run(wait_async())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
