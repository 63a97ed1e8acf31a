"""The list of everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .world import World

FaultFunction = Callable[[World], object]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail: `run` raises, or reports its error through the SDK by itself."""

    name: str
    run: FaultFunction


_FAULTS: dict[str, Fault] = {}


def fault(function: FaultFunction) -> FaultFunction:
    """Register a function that fails. It is returned as it is: no wrapper frame in its traceback."""
    module = function.__module__.rpartition(".")[2]
    name = f"{module}.{function.__name__}"
    if name in _FAULTS:
        raise ValueError(f"two faults are called {name}")
    _FAULTS[name] = Fault(name, function)
    return function


def all_faults() -> list[Fault]:
    """Every fault, sorted by name, so that a seed means the same thing whatever was imported first."""
    return [_FAULTS[name] for name in sorted(_FAULTS)]
