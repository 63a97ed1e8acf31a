"""Failures: what is sent of an exception, and what is made of it on the other side."""

from __future__ import annotations

import pickle
import traceback

import coda
import pytest
from coda._errors import error_of, step_failed
from coda._failure import cut, failure_of
from coda._native import FAILURE_BYTES_MAX
from hypothesis import given
from hypothesis import strategies as st


class OrderError(ValueError):
    class Inner(Exception): ...


def failing(depth: int) -> None:
    if depth == 0:
        raise OrderError("order 17")
    failing(depth - 1)


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def test_a_failure_carries_type_message_and_traceback() -> None:
    with pytest.raises(OrderError) as raised:
        failing(2)
    kind, message, text, retryable = failure_of(raised.value, True)
    assert (kind, message, retryable) == (f"{__name__}.OrderError", "order 17", True)
    assert text.startswith("Traceback (most recent call last):")
    assert text.rstrip().endswith("OrderError: order 17")
    assert text.count("in failing") == 3


def test_causes_and_groups_are_kept() -> None:
    try:
        try:
            failing(0)
        except OrderError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        text = failure_of(error, False)[2]
    assert "order 17" in text
    assert "direct cause" in text


def test_a_huge_traceback_is_cut_in_its_middle() -> None:
    kind, message, text, _ = failure_of(caught(ValueError("start" + "é" * 200_000 + "end")), False)
    assert sum(len(part.encode()) for part in (kind, message, text)) <= FAILURE_BYTES_MAX
    assert message.startswith("start")
    assert message.endswith("end")
    assert "bytes were cut here" in message


@given(st.text(max_size=400), st.integers(0, 300))
def test_what_is_cut_fits(text: str, bytes_max: int) -> None:
    short = cut(text, bytes_max)
    assert len(short.encode()) <= max(bytes_max, 60)
    assert short == text or len(text.encode("utf-8", "backslashreplace")) > bytes_max


def test_exceptions_that_cannot_be_printed_are_still_reported() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "raised ValueError" in failure_of(caught(Broken()), False)[1]
    assert failure_of(caught(ValueError("\ud800")), False)[1] == "\\ud800"
    deep: BaseException = ValueError("0")
    for n in range(2_000):
        outer = ValueError(str(n))
        outer.__cause__ = deep
        deep = outer
    assert failure_of(deep, False)[0] == "ValueError"


def test_the_printed_traceback_shows_the_remote_one() -> None:
    error = step_failed(coda.TaskFailed, "charge", ("ValueError", "no", "Traceback: far away\n", False))
    text = "".join(traceback.format_exception(error))
    assert "Traceback: far away" in text
    assert "The above exception was the direct cause" in text
    assert "TaskFailed: `charge` failed: ValueError: no" in text


@pytest.mark.parametrize(
    ("kind", "matching", "other"),
    [
        ("ValueError", (ValueError, Exception), KeyError),
        (f"{__name__}.OrderError", (OrderError, ValueError), KeyError),
        (f"{__name__}.OrderError.Inner", (OrderError.Inner,), OrderError),
        ("not.imported.Here", (), Exception),
        ("print", (), Exception),
        ("", (), Exception),
    ],
)
def test_matching_looks_at_types_that_are_loaded_and_imports_nothing(
    kind: str, matching: tuple[type[BaseException], ...], other: type[BaseException]
) -> None:
    error = coda.TaskFailed("t", kind, "")
    assert all(error.matches(each) for each in matching)
    assert not error.matches(other)
    assert error.matches(other, *matching) == bool(matching)


def test_a_vanished_worker_has_a_class_of_its_own() -> None:
    error = step_failed(coda.TaskFailed, "t", ("coda.WorkerLost", "65 workers vanished", "", False))
    assert type(error) is coda.WorkerLost


def test_failures_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(coda.TaskFailed("t", "ValueError", "m", "tb")))
    assert (error.name, error.kind, error.message, error.remote_traceback) == ("t", "ValueError", "m", "tb")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("CODA2003", coda.TooLargeError),
        ("CODA2011", coda.NotFoundError),
        ("CODA2013", coda.ConflictError),
        ("CODA2014", coda.LeaseLostError),
        ("CODA2099", coda.Rejected),
        ("CODA4001", coda.ConnectError),
        ("CODA1005", coda.ConnectError),
        ("CODA4010", coda.ClosedError),
        ("CODA9999", coda.CodaError),
    ],
)
def test_codes_become_classes(code: str, kind: type[coda.CodaError]) -> None:
    error = error_of(code, "because")
    assert type(error) is kind
    assert (error.code, str(error)) == (code, f"because [{code}]")
