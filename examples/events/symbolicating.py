"""Put the lines of source code around each frame into an event. Reads files, changes nothing else.

An event names the files it wants to see, and an event comes from outside, so only Python sources
under known roots are ever opened.
"""

from __future__ import annotations

import copy
import os
import sys
import sysconfig
import tokenize
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .normalizing import Event, fit, frames_of

CONTEXT_LINES = 5
LINE_CHARS_MAX = 200
# The innermost frames are the ones people read; a recursion has no use for a hundred equal excerpts.
FRAMES_WITH_SOURCE_MAX = 40
SOURCE_BYTES_MAX = 2 * 1024 * 1024
FILES_CACHED_MAX = 256
SYMBOLICATED_EVENT_BYTES_MAX = 96 * 1024


def default_roots() -> tuple[Path, ...]:
    """This checkout and the Python that runs it; `EVENTS_SOURCE_ROOTS` adds more, separated like PATH."""
    extra = [path for path in os.environ.get("EVENTS_SOURCE_ROOTS", "").split(os.pathsep) if path]
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sys.prefix]
    roots = [str(Path(__file__).parents[2]), *standard, *extra]
    return tuple(dict.fromkeys(Path(root).resolve() for root in roots))


def symbolicate(event: Mapping[str, Any], roots: tuple[Path, ...]) -> Event:
    """Return a copy with pre_context, context_line and post_context where the source is known."""
    resolved = copy.deepcopy(dict(event))
    frames = frames_of(resolved)
    found = sum(add_source(frame, roots) for frame in frames[-FRAMES_WITH_SOURCE_MAX:])
    resolved["symbolication"] = {"frames": len(frames), "with_source": found}
    return fit(resolved, SYMBOLICATED_EVENT_BYTES_MAX)


def add_source(frame: dict[str, Any], roots: tuple[Path, ...]) -> bool:
    line = frame.get("lineno")
    source = source_lines(str(frame.get("abs_path") or ""), roots)
    if not isinstance(line, int) or not 1 <= line <= len(source):
        return False
    at = line - 1
    frame["pre_context"] = [clip(text) for text in source[max(0, at - CONTEXT_LINES) : at]]
    frame["context_line"] = clip(source[at])
    frame["post_context"] = [clip(text) for text in source[at + 1 : at + 1 + CONTEXT_LINES]]
    return True


def clip(line: str) -> str:
    return line if len(line) <= LINE_CHARS_MAX else line[: LINE_CHARS_MAX - 1] + "…"


@lru_cache(maxsize=FILES_CACHED_MAX)
def source_lines(abs_path: str, roots: tuple[Path, ...]) -> tuple[str, ...]:
    """The lines of a source file; none if there is no such file or it is not ours to read."""
    if not abs_path.endswith(".py") or not os.path.isabs(abs_path):
        return ()
    try:
        # Resolve first: a link or a `..` must not lead out of the roots.
        path = Path(abs_path).resolve(strict=True)
        if not any(path.is_relative_to(root) for root in roots) or path.stat().st_size > SOURCE_BYTES_MAX:
            return ()
        with tokenize.open(path) as source:
            return tuple(source.read().splitlines())
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return ()
