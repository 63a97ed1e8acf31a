"""The package as its users meet it: help, signatures, copies of errors, and mistakes that are easily made."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import pydoc
import sys
import typing
from typing import Any

import coda
import pytest
from coda._errors import _BY_CODE
from conftest import World
from fake_native import FakeCluster

PUBLIC = [name for name in coda.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_says_what_it_is(name: str) -> None:
    value = getattr(coda, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), name
    if inspect.isclass(value) and value.__module__.startswith("coda"):
        for member, thing in vars(value).items():
            if not member.startswith("_") and (inspect.isfunction(thing) or isinstance(thing, property)):
                assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_help_spells_out_every_option() -> None:
    text = pydoc.render_doc(coda, renderer=pydoc.plaintext)
    assert "**options" not in text
    assert "run_id: 'str | UUID | None' = None" in text or "run_id: str | UUID | None = None" in text
    for method, options in (
        (coda.Client.start, coda.StartOptions),
        (coda.AsyncClient.run, coda.RunOptions),
        (coda.Client.submit, coda.SubmitOptions),
        (coda.Context.spawn_task, coda.SpawnOptions),
        (coda.context.spawn_workflow, coda.SpawnOptions),
    ):
        names = {each.name for each in inspect.signature(method).parameters.values() if each.kind is each.KEYWORD_ONLY}
        assert names == set(options.__annotations__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing has no Unpack")
def test_annotations_can_be_resolved_at_run_time() -> None:
    for method in (coda.Client.start, coda.AsyncClient.run, coda.Context.spawn_task, coda.RunHandle.result):
        assert typing.get_type_hints(method)


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, Any]:
        public = {name for name in vars(kind) if not name.startswith("_")}
        return {name: list(inspect.signature(getattr(kind, name)).parameters) for name in public}

    assert offered(coda.Client) == offered(coda.AsyncClient)
    assert offered(coda.RunHandle) == offered(coda.AsyncRunHandle)


ERRORS: list[coda.CodaError] = [
    coda.CodaError("message", code="CODA1234"),
    coda.OutsideWorkflowError("coda.run"),
    coda.ForkedError(),
    coda.EventLoopError("message"),
    coda.ResultTimeout("message", code="CODA5004"),
    coda.CodecError("message"),
    coda.TaskFailed("t", "ValueError", "m", "remote"),
    coda.RunFailed("t", "ValueError", ""),
    coda.WorkerLost("t", "coda.WorkerLost", "m"),
    *(kind("message", code=code) for code, kind in _BY_CODE.items()),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{error.code}")
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_copies_and_pickles(error: coda.CodaError, how: Any) -> None:
    again = how(error)
    assert type(again) is type(error)
    assert (str(again), again.code, again.args) == (str(error), error.code, error.args)
    assert vars(again) == vars(error)
    assert str(again.__cause__) == str(error.__cause__)
    assert f"coda.{type(error).__name__}" in repr(type(again))


def test_errors_are_named_as_they_are_imported() -> None:
    errors = [each for each in vars(coda).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert {each.__module__ for each in errors} == {"coda"}


def test_a_blocking_call_in_an_event_loop_is_refused_with_the_way_out(cluster: FakeCluster) -> None:
    client = coda.Client(_open=cluster.port)

    async def main() -> None:
        for call in (client.queues, lambda: client.run("w"), client.handle(coda.id_for(1)).result, client.__enter__):
            with pytest.raises(coda.EventLoopError, match=r"AsyncClient.*asyncio\.to_thread") as error:
                call()
            assert error.value.code == "CODA5005"
        assert await asyncio.to_thread(client.queues) == []
        # Closing waits for nobody.
        client.close()

    asyncio.run(main())
    assert not cluster.requests(0)


def test_a_name_means_the_definition_of_the_clients_app(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow(name="ship", queue="shipping", max_retries=2, priority=6)
    async def ship(order: int) -> set[int]:
        return {order}

    @app.task(name="charge", queue="billing", retry_on=OSError)
    def charge(order: int) -> int:
        return order

    with coda.Client(app=app, _open=cluster.port) as client:
        client.start("ship", {"order": 1})
        client.submit("charge", [1], queue="slow")
        client.start("ship of another app")
        with pytest.raises(TypeError, match=r"ship.*missing a required argument"):
            client.start("ship")
    with coda.Client(_open=cluster.port) as other:
        other.start("ship", {"anything": 1})
    starts = [(request[3], request[4], request[6], request[7][0]) for request in cluster.requests(0)]
    assert starts == [
        ("ship", "shipping", 6, 2),
        ("ship of another app", "default", 4, 0),
        ("ship", "default", 4, 0),
    ]
    (submitted,) = cluster.requests(1)
    assert (submitted[4], submitted[7][0]) == ("slow", 3)


def test_the_plain_decorators_are_the_clients_own_app(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from coda import _app

    monkeypatch.setattr(_app, "DEFAULT", coda.App("default"))

    @_app.DEFAULT.task(name="plain", queue="mine")
    def plain() -> None: ...

    async def main() -> None:
        async with coda.AsyncClient(_open=cluster.port) as client:
            await client.submit("plain")

    asyncio.run(main())
    assert cluster.requests(1)[0][4] == "mine"


def test_a_handle_of_elsewhere_makes_what_its_definition_returns(cluster: FakeCluster, app: coda.App) -> None:
    @app.workflow
    async def numbers() -> set[int]:
        return {1, 2}

    async def main() -> None:
        async with World(cluster, app).running() as world:
            run = await world.client.start(numbers)
            assert await run == {1, 2}
            assert await world.client.handle(run.id, numbers) == {1, 2}
            assert await world.client.handle(run.id).result() == {1, 2}

    asyncio.run(main())


def test_waits_of_an_async_client_are_good_citizens(cluster: FakeCluster, app: coda.App) -> None:
    gate = asyncio.Event()

    @app.task
    async def gated(n: int) -> int:
        await gate.wait()
        return n

    async def main() -> None:
        async with World(cluster, app).running() as world:
            first, second = [await world.client.submit(gated, [n]) for n in (1, 2)]
            waits = world.client._core.waits._waiting
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.gather(first.result(), second.result()), 0.05)
            assert not any(waits.values())
            cancelled = asyncio.ensure_future(first.result())
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            gate.set()
            assert await asyncio.gather(first.result(), second.result(), first) == [1, 2, 1]
            if sys.version_info >= (3, 11):
                async with asyncio.TaskGroup() as group:
                    results = [group.create_task(each.result()) for each in (first, second)]
                assert [each.result() for each in results] == [1, 2]

    asyncio.run(main())


def test_those_who_wait_for_a_closed_client_get_errors_of_their_own(cluster: FakeCluster) -> None:
    async def main() -> None:
        client = coda.AsyncClient(_open=cluster.port)
        runs = [await client.start("never") for _ in range(2)]
        waiting = [asyncio.ensure_future(run.result()) for run in runs]
        await asyncio.sleep(0.01)
        await client.close()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in errors] == [coda.ClosedError] * 2
        assert errors[0] is not errors[1]

    asyncio.run(main())


def test_unknown_options_are_named(cluster: FakeCluster) -> None:
    with coda.Client(_open=cluster.port) as client:
        for call in (client.start, client.run, client.submit):
            with pytest.raises(TypeError, match="unexpected option 'retries': expected queue, priority, max_retries"):
                call("w", retries=3)  # type: ignore[call-overload]
    assert not cluster.requests(0)
