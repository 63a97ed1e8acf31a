"""What all executions of one worker share."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ._app import App
from ._channel import Channel
from ._threads import Threads

__all__: list[str] = []


@dataclass(frozen=True)
class Host:
    app: App
    channel: Channel
    loop: asyncio.AbstractEventLoop
    threads: Threads
    #: Somebody else ends the loop, and cancels all tasks in it.
    is_torn_down: Callable[[], bool]

    def interrupts(self, error: BaseException) -> bool:
        """Whether this comes from around the code and not out of it: Ctrl-C, or the end of the loop. Code that raises
        the same by itself has failed."""
        if isinstance(error, asyncio.CancelledError):
            return self.is_torn_down()
        # Where somebody handles the signal, as a worker does that runs by itself, it raises nothing.
        return (
            isinstance(error, KeyboardInterrupt)
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
