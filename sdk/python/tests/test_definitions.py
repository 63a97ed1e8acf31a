"""The decorators: names, defaults, and mistakes that are told where they are made."""

from __future__ import annotations

import inspect
from typing import Any

import coda
import pytest
from coda import _wire as wire


def test_the_public_names_are_exactly_these() -> None:
    public = {name for name in vars(coda) if not name.startswith("_")} | {"__version__"}
    modules = {name for name, value in vars(coda).items() if inspect.ismodule(value)} | {"annotations"}
    assert set(coda.__all__) == public - modules
    assert len(coda.__all__) == len(set(coda.__all__))


def test_every_error_is_in_the_drawn_tree() -> None:
    from coda import _errors

    errors = [each for each in vars(coda).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert _errors.__doc__ is not None
    assert all(each.__name__ in _errors.__doc__ for each in errors)
    assert all(issubclass(each, coda.CodaError) for each in errors)


def test_a_decorated_function_stays_callable_and_keeps_its_looks(app: coda.App) -> None:
    @app.task
    def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert add(1) == 2
    assert add.__doc__ == "Adds."
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 1) -> 'int'"
    assert add.name.endswith(
        "test_definitions.test_a_decorated_function_stays_callable_and_keeps_its_looks.<locals>.add"
    )
    assert app.tasks == {add.name: add}


@pytest.mark.parametrize(
    ("options", "max_retries"),
    [
        ({}, 0),
        ({"retry_on": (ValueError,)}, 3),
        ({"retry_on": ValueError}, 3),
        ({"max_retries": 2}, 2),
        ({"retry_on": (ValueError,), "max_retries": 0}, 0),
    ],
)
def test_retries_have_the_documented_defaults(app: coda.App, options: dict[str, Any], max_retries: int) -> None:
    task = app.task(**options)(lambda: None)
    assert task.policy[0] == max_retries
    assert task.retries.retryable(ValueError())
    assert task.retries.retryable(KeyError()) == ("retry_on" not in options)


def test_retry_on_may_be_a_function(app: coda.App) -> None:
    task = app.task(retry_on=lambda error: "busy" in str(error))(lambda: None)
    assert task.retries.retryable(ValueError("busy"))
    assert not task.retries.retryable(ValueError("broken"))
    broken = app.task(name="b", retry_on=lambda error: error.nope)(lambda: None)
    assert not broken.retries.retryable(ValueError())


def test_a_policy_is_sent_in_integers(app: coda.App) -> None:
    task = app.task(max_retries=5, backoff=coda.Backoff(initial=0.25, factor=1.5, max=10, jitter=0.5))(lambda: None)
    assert task.policy == (5, 250, 150, 10_000, 50)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": 10}, ValueError),
        ({"priority": True}, ValueError),
        ({"max_retries": -1}, ValueError),
        ({"retry_on": (5,)}, TypeError),
        ({"retry_on": int}, TypeError),
        ({"retry_on": 5}, TypeError),
        ({"executor": "fibre"}, ValueError),
        ({"queue": ""}, ValueError),
        ({"name": "a\nb"}, ValueError),
        ({"name": "x" * 256}, ValueError),
        ({"executor": "process"}, ValueError),
    ],
)
def test_mistakes_are_told_at_the_decorator(app: coda.App, options: dict[str, Any], error: type[Exception]) -> None:
    def fn() -> None: ...

    with pytest.raises(error):
        app.task(**options)(fn)


def test_generators_and_sync_workflows_are_refused(app: coda.App) -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for fn in (generator, async_generator):
        with pytest.raises(TypeError, match="generator"):
            app.task(fn)
    with pytest.raises(TypeError, match="async def plain"):

        @app.workflow
        def plain() -> None: ...  # type: ignore[type-var]


def test_backoff_is_checked_and_computes_local_delays() -> None:
    for wrong in ({"initial": -1}, {"factor": 0.5}, {"jitter": 2}, {"max": 1e12}):
        with pytest.raises(ValueError, match="Backoff"):
            coda.Backoff(**wrong)
    backoff = coda.Backoff(initial=1, factor=2, max=5, jitter=0.2)
    assert [backoff.delay(n, 0) for n in range(1, 6)] == [1, 2, 4, 5, 5]
    assert backoff.delay(1, 1) == pytest.approx(0.8)


def test_two_functions_of_one_name_are_refused(app: coda.App) -> None:
    app.task(name="same")(lambda: 1)
    here = __file__.replace(".", r"\.")
    places = rf"<lambda> at {here}:\d+, and .*other at {here}:\d+"
    with pytest.raises(ValueError, match=rf"two functions are named 'same': .*{places}; give one of them another name"):

        @app.task(name="same")
        def other() -> None: ...


def test_an_app_serves_what_is_added(app: coda.App) -> None:
    other = coda.App("other")
    task, workflow = other.task(name="t")(lambda: 1), other.workflow(name="w")(noop)
    app.add([task, workflow])
    assert (app.tasks, app.workflows) == ({"t": task}, {"w": workflow})
    with pytest.raises(TypeError, match="neither a task nor a workflow"):
        app.add([print])  # type: ignore[list-item]
    assert repr(app) == "<coda.App 'tests': 1 tasks, 1 workflows>"


async def noop() -> None: ...


def test_the_tags_are_those_of_the_native_module() -> None:
    tags = [value for name, value in vars(wire).items() if name.isupper() and isinstance(value, int)]
    # Events, requests, kinds of steps, kinds of work: each counts from 0 without a gap.
    assert tags == [*range(10), *range(18), *range(3), *range(2)]
