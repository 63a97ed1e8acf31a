"""The command line of `coda-worker`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TextIO

from ._native import CREDIT_MAX, VERSION
from ._served import Slots

__all__: list[str] = []

#: Set by `coda run`, which keeps workers alive itself, and gives each its CODA_SESSION.
SUPERVISED = "CODA_WORKER_INDEX"

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_DYING = 3
EXIT_NO_CLUSTER = 4

_EPILOG = """\
examples:
  coda-worker shop.workflows                      serve what shop/workflows.py and its imports define
  coda-worker shop.workflows -n 4                 in four processes; a good number is that of the cores
  coda-worker shop.billing:app --queue billing    one coda.App, one queue
  coda-worker shop.workflows --reload             start again when a source file changes
  CODA_ADDRESS=10.0.0.5:4747 CODA_CA=ca.pem coda-worker shop.workflows

The module is imported from the current directory. Every @coda.task and @coda.workflow that it and its
imports define is served, from the queues that the decorators name. The cluster is found through
--address and --ca, else CODA_ADDRESS and CODA_CA, else the nearest .coda/client.json (`coda dev`).
Where nodes ask for a certificate: --cert and --key, else CODA_CERT and CODA_KEY.

signals:
  SIGTERM, Ctrl-C   drain: take no new work, let tasks end for up to --drain-timeout seconds, hand the
                    rest back, which counts as no failure. A second one hurries: cancel and hand
                    back at once. A third kills.
  SIGKILL           nothing is lost: work in progress is handed to other workers

exit codes:
  0  stopped by a signal, after draining
  1  unexpected error (see the log)
  2  wrong usage: bad option, the module cannot be imported, or it defines nothing to serve
  3  the worker processes kept dying: more than 10 times within a minute
  4  no usable cluster: none is configured, its CA is not trusted, or it does not speak our protocol
"""


@dataclass(frozen=True)
class Options:
    """What was typed."""

    target: str
    processes: int
    queues: tuple[str, ...] | None
    slots: Slots
    address: str | None
    ca: str | None
    cert: str | None
    key: str | None
    reload: bool
    drain_timeout: float
    log_level: str


def parse(argv: Sequence[str]) -> Options:
    slots = Slots()
    parser = argparse.ArgumentParser(
        prog="coda-worker",
        description="Run Coda workers: processes that execute tasks and workflows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="package.module[:app]", help="what to import, and which coda.App of it")
    parser.add_argument(
        "-n",
        "--processes",
        type=_count(0, 1_024),
        default=0 if SUPERVISED in os.environ else 1,
        metavar="N",
        help="worker processes (default 1); 0: work in this one, unsupervised (default under `coda run`)",
    )
    parser.add_argument(
        "-Q", "--queue", action="append", metavar="NAME", help="serve this queue only; may be given several times"
    )
    per_queue = parser.add_argument_group("how much at once, per queue and process")
    slot = _count(1, CREDIT_MAX)
    per_queue.add_argument(
        "-c",
        "--concurrency",
        type=slot,
        default=slots.concurrency,
        metavar="N",
        help=f"async tasks (default {slots.concurrency})",
    )
    per_queue.add_argument(
        "--threads",
        type=slot,
        default=slots.threads,
        metavar="N",
        help=f"other tasks, in threads (default {slots.threads})",
    )
    per_queue.add_argument(
        "--task-processes",
        type=slot,
        default=slots.processes,
        metavar="N",
        help=f"tasks with executor='process' (default {slots.processes}, the cores)",
    )
    per_queue.add_argument(
        "--runs",
        type=slot,
        default=slots.runs,
        metavar="N",
        help=f"runs of workflows (default {slots.runs}); they mostly wait",
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="one or more nodes, separated by commas")
    parser.add_argument("--ca", metavar="FILE", help="the cluster's CA certificate, in PEM")
    parser.add_argument("--cert", metavar="FILE", help="this worker's own certificate, where nodes ask for one")
    parser.add_argument("--key", metavar="FILE", help="its key")
    parser.add_argument("--reload", action="store_true", help="start again when a source file changes (development)")
    parser.add_argument(
        "--drain-timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long tasks may take to end after SIGTERM (default 30)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(default info)"
    )
    parser.add_argument("--version", action="version", version=f"coda-worker {VERSION}")
    given = parser.parse_args(argv)
    if given.reload and given.processes == 0:
        parser.error("--reload needs a process to start again: use it with -n 1 or more")
    return Options(
        target=given.target,
        processes=given.processes,
        queues=None if given.queue is None else tuple(given.queue),
        slots=Slots(given.concurrency, given.threads, given.task_processes, given.runs),
        address=given.address,
        ca=given.ca,
        cert=given.cert,
        key=given.key,
        reload=given.reload,
        drain_timeout=given.drain_timeout,
        log_level=given.log_level,
    )


def _count(low: int, high: int) -> type[int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
        return value

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to 86400 seconds")
    return value


class _Formatter(logging.Formatter):
    """One line per message; the level coloured on a terminal, and only there."""

    _COLOURS: ClassVar = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[31;1m"}

    def __init__(self, who: str, colour: bool) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {who} %(message)s", datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        colour = self._COLOURS.get(record.levelno) if self._colour else None
        return f"{colour}{text}\033[0m" if colour else text


def log_to(stream: TextIO, who: str, level: str) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(who, stream.isatty() and "NO_COLOR" not in os.environ))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    options = parse(argv)
    # Imported late: --help should not wait for asyncio.
    from . import _child, _supervisor

    if _child.is_child() or options.processes == 0:
        return _child.serve(options)
    log_to(sys.stderr, f"coda-worker[{os.getpid()}]", options.log_level)
    return _supervisor.supervise([sys.executable, "-m", "coda.worker", *argv], options)
