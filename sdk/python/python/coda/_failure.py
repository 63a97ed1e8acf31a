"""From an exception to a failure on the wire: its type, its message, and a traceback without the SDK's own frames."""

from __future__ import annotations

import contextlib
import importlib
import traceback
from pathlib import Path
from typing import Any

from ._errors import StepFailed, type_name
from ._native import FAILURE_BYTES_MAX
from ._wire import Failure

__all__: list[str] = []

# Frames that say nothing about the user's code: this package's, and those between it and what it imports.
_OURS = (str(Path(__file__).parent) + "/", "<frozen importlib", importlib.__file__)
_KIND_BYTES_MAX = 512
_MESSAGE_BYTES_MAX = 8 << 10
_CUT = "\n  ... {} bytes were cut here ...\n"


def failure_of(error: BaseException, retryable: bool) -> Failure:
    """What is sent about an exception. Never raises, and always fits."""
    # A failed step that nobody caught: the run failed for the step's reason.
    kind = error.kind if isinstance(error, StepFailed) else type_name(type(error))
    try:
        message = str(error)
    except Exception as broken:
        message = f"<str() of the exception raised {type(broken).__name__}>"
    kind, message = cut(kind, _KIND_BYTES_MAX), cut(message, _MESSAGE_BYTES_MAX)
    room = FAILURE_BYTES_MAX - len(kind.encode()) - len(message.encode())
    return kind, message, cut(format_traceback(error), room), retryable


def format_traceback(error: BaseException) -> str:
    """As Python prints it, causes included, less the frames of this package and of asyncio around it."""
    try:
        formatted = traceback.TracebackException.from_exception(error, compact=True)
        _trim(formatted, set())
        text = "".join(formatted.format())
    except Exception:
        with contextlib.suppress(Exception):
            return "".join(traceback.format_tb(error.__traceback__))
        return ""
    # What the exception's text holds need not be valid Unicode.
    return text.encode("utf-8", "backslashreplace").decode()


def _trim(formatted: Any, seen: set[int]) -> None:
    while formatted is not None and id(formatted) not in seen:
        seen.add(id(formatted))
        frames = formatted.stack
        own = [frame for frame in frames if not frame.filename.startswith(_OURS)]
        # All frames are ours when the SDK itself refused, say, a call with wrong arguments: nothing of use to cut.
        formatted.stack[:] = own or frames[-1:]
        for inner in getattr(formatted, "exceptions", None) or ():
            _trim(inner, seen)
        _trim(formatted.__context__, seen)
        formatted = formatted.__cause__


def cut(text: str, bytes_max: int) -> str:
    """The text's beginning and, since it says most, more of its end; within the bound in UTF-8."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= bytes_max:
        return raw.decode()
    note = _CUT.format(len(raw) - bytes_max)
    room = max(bytes_max - len(note.encode()) - 8, 0)
    head = raw[: room // 3].decode("utf-8", "ignore")
    tail = raw[len(raw) - (room - room // 3) :].decode("utf-8", "ignore")
    return head + note + tail
