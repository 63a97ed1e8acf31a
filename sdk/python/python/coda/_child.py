"""One worker process: imports the code, and serves it."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Iterable
from uuid import UUID

from ._app import App
from ._cli import EXIT_ERROR, EXIT_NO_CLUSTER, EXIT_OK, EXIT_USAGE, SUPERVISED, Options, log_to
from ._errors import CodaError, ConnectError
from ._failure import format_traceback
from ._served import Source
from ._worker import Worker

__all__: list[str] = []

log = logging.getLogger("coda.worker")

#: Set by the supervisor: which child this is, whose, and the session that the supervisor ends if it dies.
CHILD = "CODA_WORKER_CHILD"
PARENT = "CODA_WORKER_PARENT"
SESSION = "CODA_SESSION"

_PR_SET_PDEATHSIG = 1
# No node answered in time. The next attempt may succeed, so the supervisor makes one.
_NO_NODE = "CODA4007"


def is_child() -> bool:
    return CHILD in os.environ


def serve(options: Options) -> int:
    """Serves until a signal. Returns the exit code."""
    number = os.environ.pop(CHILD, None)
    if number is None and SUPERVISED in os.environ:
        number = os.environ.pop(SUPERVISED)
    # Taken out of the environment: a client that the user's code opens must not take this session for its own.
    session = os.environ.pop(SESSION, None)
    parent = os.environ.pop(PARENT, None)
    if parent is not None and not die_with_parent(int(parent)):
        return EXIT_OK
    log_to(sys.stderr, f"worker{'' if number is None else f'-{number}'}[{os.getpid()}]", options.log_level)
    try:
        source = load(options.target)
        worker = Worker(
            source,
            address=options.address,
            ca=options.ca,
            cert=options.cert,
            key=options.key,
            queues=options.queues,
            concurrency=options.slots.concurrency,
            threads=options.slots.threads,
            processes=options.slots.processes,
            runs=options.slots.runs,
            drain_timeout=options.drain_timeout,
            session=None if session is None else UUID(session).bytes,
        )
    except Unloadable as error:
        log.error("%s", error)
        return EXIT_USAGE
    except (ValueError, TypeError) as error:
        log.error("cannot serve %s: %s", options.target, error)
        return EXIT_USAGE
    try:
        worker.run()
    except ConnectError as error:
        log.error("%s", error)
        return EXIT_ERROR if error.code == _NO_NODE else EXIT_NO_CLUSTER
    except CodaError as error:
        log.error("%s", error)
        return EXIT_ERROR
    return EXIT_OK


class Unloadable(Exception):
    """What `package.module[:app]` names cannot be served."""


def load(target: str) -> Source:
    """The module, or the app in it, that `package.module[:app]` means."""
    name, _, attribute = target.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if not name or name.startswith(".") or "/" in name:
        raise Unloadable(f"{name!r} is no name of a module{_meant(name)}")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Unloadable(_import_failed(name, error)) from error
        raise Unloadable(f"there is no module {error.name!r} in {here} or on sys.path{_meant(name)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Unloadable(_import_failed(name, error)) from error
    if not attribute:
        return module
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    apps = [each for each, value in vars(module).items() if isinstance(value, App)]
    other = f"it is :{_nearest(attribute, apps) or apps[0]}" if apps else f"leave out :{attribute} to serve all of it"
    if found is None:
        raise Unloadable(f"the module {name} has no {attribute!r}: {other}")
    raise Unloadable(f"{target} is {found!r} and no coda.App: {other}")


def _import_failed(name: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"importing {name} ended the program (SystemExit: {error.code}): put what only a script does below "
            'if __name__ == "__main__":'
        )
    return f"importing {name} failed:\n{format_traceback(error).rstrip()}"


def _meant(name: str) -> str:
    """What may be meant by the name of a module that does not exist."""
    if not name:
        return ": write package.module, or package.module:app"
    if name.endswith(".py") or "/" in name:
        path = os.path.normpath(name.removesuffix(".py")).replace("/", ".")
        return f": did you mean {path}?"
    parent, _, last = name.rpartition(".")
    folders: Iterable[str] = [os.getcwd()]
    if parent:
        try:
            package = importlib.import_module(parent)
        except Exception:
            # It is the one that does not exist.
            return _meant(parent)
        if hasattr(package, last):
            return f": did you mean {parent}:{last}?"
        folders = getattr(package, "__path__", ())
    near = _nearest(last, [each.name for each in pkgutil.iter_modules(folders)])
    return f": did you mean {parent}.{near}?" if parent and near else f": did you mean {near}?" if near else ""


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def die_with_parent(parent: int) -> bool:
    """Asks the kernel for SIGTERM when the supervisor dies. `False` if it is dead already. Linux only."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent
