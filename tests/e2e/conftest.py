"""Fixtures: a project with nothing in it, and one with a node."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Node, Project

# A shell that starts tests in the background has them, and all that they start, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    project = Project(tmp_path / "p")
    yield project
    problems = project.end()
    # The logs of a test that failed are what one reads first.
    if problems or getattr(request.node, "failed", False):
        print(project.tails())
    assert not problems, "\n".join(problems)


@pytest.fixture
def node(project: Project) -> Node:
    return project.node()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    if call.when == "call" and report.failed:
        item.failed = True  # type: ignore[attr-defined]
    return report
