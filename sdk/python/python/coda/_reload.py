"""Which source files have changed. `watchfiles` if it is installed, else a look at all of them once a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

__all__: list[str] = []

_POLL_SECONDS = 1.0
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "target", "build", "dist"})


async def changes(folder: Path) -> AsyncIterator[Path]:
    """A path each time that something has changed."""
    try:
        import watchfiles  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        async for path in poll(folder, _POLL_SECONDS):
            yield path
        return
    async for changed in watchfiles.awatch(folder, watch_filter=watchfiles.PythonFilter()):
        yield Path(min(path for _, path in changed))


async def poll(folder: Path, seconds: float) -> AsyncIterator[Path]:
    before = snapshot(folder)
    while True:
        await asyncio.sleep(seconds)
        now = await asyncio.to_thread(snapshot, folder)
        changed = [path for path in before.keys() | now.keys() if before.get(path) != now.get(path)]
        before = now
        if changed:
            yield Path(min(changed))


def snapshot(folder: Path) -> dict[str, int]:
    """The modification time of each Python file, less those of environments and build outputs."""
    found = {}
    for root, folders, files in os.walk(folder):
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        folders[:] = [each for each in folders if each not in _SKIPPED and not each.startswith(".")]
        for file in files:
            if file.endswith(".py"):
                path = os.path.join(root, file)
                try:
                    found[path] = os.stat(path).st_mtime_ns
                except FileNotFoundError:
                    pass
    return found
