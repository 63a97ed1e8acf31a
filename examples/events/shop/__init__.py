"""A make-believe web shop that is very good at one thing: failing.

Every function marked with `@fault` runs a piece of ordinary shop code until it breaks. The failures
are real ones, raised by the interpreter or the standard library wherever that is possible, so that
the events the SDK builds from them have honest stack traces, locals and exception chains.
"""

from . import accounts, cart, importer, payments, search, templates, workers
from .registry import Fault, all_faults
from .world import World

__all__ = [
    "Fault",
    "World",
    "accounts",
    "all_faults",
    "cart",
    "importer",
    "payments",
    "search",
    "templates",
    "workers",
]
