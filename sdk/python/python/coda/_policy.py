"""Retries: how often, how soon, and after which exceptions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from ._native import DELAY_MS_MAX, PRIORITY_MAX, RETRIES_MAX
from ._wire import Policy

__all__ = ["Backoff", "RetryOn"]

RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

log = logging.getLogger("coda.worker")

RETRIES_DEFAULT = 3
PRIORITY_DEFAULT = 4


@dataclass(frozen=True)
class Backoff:
    """The delay before each retry: `initial` seconds, times `factor` for each further one, never over `max`.
    `jitter` shortens a delay at random by up to that share of it."""

    initial: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.initial <= DELAY_MS_MAX / 1_000 or not 0 <= self.max <= DELAY_MS_MAX / 1_000:
            raise ValueError("Backoff: initial and max are seconds, from 0 to a year")
        if not 1 <= self.factor <= 100:
            raise ValueError("Backoff: factor must be from 1 (the same delay each time) to 100")
        if not 0 <= self.jitter <= 1:
            raise ValueError("Backoff: jitter is a share, from 0 to 1")

    def delay(self, retry: int, chance: float) -> float:
        """Seconds before the `retry`-th retry, from 1. `chance` is random, from 0 to 1."""
        delay = self.initial
        for _ in range(min(retry - 1, 64)):
            delay = min(delay * self.factor, self.max)
        return min(delay, self.max) * (1 - self.jitter * chance)


DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True)
class Retries:
    """What a decorator's arguments say about retries."""

    max_retries: int
    backoff: Backoff
    retry_on: RetryOn

    @staticmethod
    def of(retry_on: RetryOn | None, max_retries: int | None, backoff: Backoff) -> Retries:
        """`retry_on` alone means three retries, `max_retries` alone means after any exception; neither, none."""
        if max_retries is None:
            max_retries = 0 if retry_on is None else RETRIES_DEFAULT
        check_retries(max_retries)
        return Retries(max_retries, backoff, (Exception,) if retry_on is None else _checked(retry_on))

    def retryable(self, error: BaseException) -> bool:
        if isinstance(self.retry_on, tuple | type):
            return isinstance(error, self.retry_on)
        try:
            return bool(self.retry_on(error))
        except Exception:
            log.exception("retry_on raised for %r: it is not retried", error)
            return False

    def wire(self) -> Policy:
        backoff = self.backoff
        return (
            self.max_retries,
            round(backoff.initial * 1_000),
            round(backoff.factor * 100),
            round(backoff.max * 1_000),
            round(backoff.jitter * 100),
        )


def _checked(retry_on: RetryOn) -> RetryOn:
    wrong: list[object]
    if isinstance(retry_on, tuple):
        wrong = [each for each in retry_on if not (isinstance(each, type) and issubclass(each, BaseException))]
    elif isinstance(retry_on, type):
        wrong = [] if issubclass(retry_on, BaseException) else [retry_on]
    else:
        wrong = [] if callable(retry_on) else [retry_on]
    if wrong:
        raise TypeError(
            f"retry_on takes exception types, or a function of the exception that returns a bool, not {wrong[0]!r}"
        )
    return retry_on


def check_retries(max_retries: int) -> int:
    if type(max_retries) is not int or not 0 <= max_retries <= RETRIES_MAX:
        raise ValueError(f"max_retries must be an integer from 0 to {RETRIES_MAX}, not {max_retries!r}")
    return max_retries


def check_priority(priority: int) -> int:
    if type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority must be an integer from 0 to {PRIORITY_MAX}, higher first, not {priority!r}")
    return priority


def delay_ms(delay: float | timedelta | None) -> int:
    """Seconds, or a timedelta, as milliseconds; rounded up, since timers are never early."""
    if not delay:
        return 0
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    ms = math.ceil(seconds * 1_000)
    if not 0 <= ms <= DELAY_MS_MAX:
        raise ValueError(f"delay must be from 0 seconds to a year, not {delay!r}")
    return ms


#: The policy of work that is named by a string.
NEVER: Policy = Retries.of(None, None, DEFAULT_BACKOFF).wire()
