"""The fixture `coda_broker`: a Coda node of a test's own. `coda.testing` says what it can do.

pytest loads this in every run of an environment that has coda-sdk, so nothing is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from coda.testing import LocalBroker

__all__ = ["coda_broker"]


@pytest.fixture
def coda_broker() -> Iterator[LocalBroker]:
    """A real Coda node with nothing in it; it and all that was started through it end with the test."""
    from coda.testing import LocalBroker

    with LocalBroker() as broker:
        yield broker


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """The report of a test that has failed shows what its node and its workers have said."""
    outcome = yield
    report = outcome.get_result()
    broker: Any = getattr(item, "funcargs", {}).get("coda_broker")
    # Who writes the fixture anew may make something else of it.
    if report.failed and hasattr(broker, "logs"):
        report.sections.extend(broker.logs().items())
