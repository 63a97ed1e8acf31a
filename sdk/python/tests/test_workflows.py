"""Workflows: memo, replay, keys, failures, fan-out. Each test is a story about one run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import coda
import pytest
from coda import _wire as wire
from conftest import World, until
from fake_native import FakeCluster

Run = Callable[..., Any]


def test_the_program_of_the_documentation_runs_verbatim(
    run: Run, app: coda.App, capsys: pytest.CaptureFixture[str]
) -> None:
    @app.task
    def normalize_event(project_id: int, event_data: dict[str, Any]) -> dict[str, Any]:
        return {**event_data, "project": project_id}

    @app.task
    async def store_event(project_id: int, event_data: dict[str, Any]) -> str:
        return f"{event_data['event_id']}@{event_data['project']}"

    @app.workflow()
    async def process_event(project_id, event_data, **kwargs):  # type: ignore[no-untyped-def]
        event_data = await coda.context.spawn_task(
            normalize_event,
            args={"project_id": project_id, "event_data": event_data},
            cache_key=[event_data["event_id"]],
        )
        result = await coda.context.spawn_task(
            store_event,
            args={"project_id": project_id, "event_data": event_data},
            cache_key=[event_data["event_id"]],
        )
        print(f"Workflow finished with result {result}")

    run(process_event, {"project_id": 7, "event_data": {"event_id": "e1"}, "extra": 1})
    assert capsys.readouterr().out == "Workflow finished with result e1@7\n"


def test_steps_with_a_result_are_not_repeated_when_the_run_moves(cluster: FakeCluster, app: coda.App) -> None:
    calls = []

    @app.task
    async def step(n: int) -> int:
        calls.append(n)
        return n * 10

    second = asyncio.Event()

    @app.workflow
    async def two_steps() -> list[int]:
        first = await coda.context.spawn_task(step, [1])
        if not second.is_set():
            second.set()
            await asyncio.sleep(60)
        return [first, await coda.context.spawn_task(step, [2])]

    async def main() -> None:
        async with World(cluster, app).running() as world:
            handle = await world.client.start(two_steps)
            await second.wait()
            cluster.lose(cluster.runs()[0])
            assert await handle.result(timeout=5) == [10, 20]

    asyncio.run(main())
    assert calls == [1, 2]
    assert len(cluster.requests(wire.SPAWN)) == 2


def test_spawns_of_one_loop_iteration_travel_in_one_request(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.task
    async def double(n: int) -> int:
        return n * 2

    @app.workflow
    async def fan_out() -> list[int]:
        return await coda.gather(*(coda.context.spawn_task(double, {"n": n}) for n in range(600)))

    assert run(fan_out) == [n * 2 for n in range(600)]
    assert [len(request[4]) for request in cluster.requests(wire.SPAWN)] == [256, 256, 88]


def test_concurrent_spawns_of_one_key_are_one_execution(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.task
    async def once() -> dict[str, int]:
        return {"a": 1}

    @app.workflow
    async def twice() -> bool:
        a, b = (coda.context.spawn_task(once, cache_key=["k"]) for _ in range(2))
        assert a is not b
        return await a == await b == await a

    assert run(twice) is True
    assert len(cluster.tasks()) == 1


def test_without_a_key_each_call_is_a_step_of_its_own(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.task
    async def count() -> int:
        return len(cluster.tasks())

    @app.workflow
    async def three() -> list[int]:
        return [await coda.context.spawn_task(count) for _ in range(3)]

    assert run(three) == [1, 2, 3]


def test_no_cache_runs_again_on_every_replay(cluster: FakeCluster, app: coda.App) -> None:
    calls = []

    @app.task
    async def look() -> int:
        calls.append(1)
        return len(calls)

    @app.workflow(max_retries=1, backoff=coda.Backoff(initial=0))
    async def replayed() -> int:
        seen: int = await coda.context.spawn_task(look, cache_key=coda.NO_CACHE)
        if coda.context.attempt == 1:
            raise ValueError("again")
        return seen

    async def main() -> int:
        async with World(cluster, app).running() as world:
            return await world.client.run(replayed, timeout=5)

    assert asyncio.run(main()) == 2


def test_a_failed_step_raises_at_the_await_and_runs_again_when_the_workflow_is_retried(run: Run, app: coda.App) -> None:
    calls: list[str] = []

    @app.task
    def good() -> str:
        calls.append("good")
        return "good"

    @app.task
    def bad() -> str:
        calls.append("bad")
        if calls.count("bad") < 2:
            raise LookupError("not there yet")
        return "at last"

    @app.workflow(max_retries=1)
    async def retried() -> list[str]:
        return [await coda.context.spawn_task(good), await coda.context.spawn_task(bad)]

    assert run(retried) == ["good", "at last"]
    assert calls == ["good", "bad", "bad"]


def test_a_step_failure_says_what_happened_where(run: Run, app: coda.App) -> None:
    seen: list[coda.StepFailed] = []

    @app.task(name="charge")
    def charge() -> None:
        raise KeyError("no such card")

    @app.workflow
    async def catches() -> str:
        handle = coda.context.spawn_task(charge)
        for _ in range(2):
            try:
                await handle
            except coda.TaskFailed as error:
                seen.append(error)
        return "caught"

    assert run(catches) == "caught"
    first, again = seen
    assert first is not again
    assert (first.name, first.kind, first.message) == ("charge", "KeyError", "'no such card'")
    assert first.matches(KeyError)
    assert first.matches(LookupError)
    assert not first.matches(ValueError)
    assert 'raise KeyError("no such card")' in first.remote_traceback
    assert "coda/_worker.py" not in first.remote_traceback


def test_an_uncaught_step_failure_fails_the_run_with_its_traceback(run: Run, app: coda.App) -> None:
    @app.task(name="explode")
    def explode() -> None:
        raise ZeroDivisionError("deep inside")

    @app.workflow
    async def careless() -> None:
        await coda.context.spawn_task(explode)

    with pytest.raises(coda.RunFailed) as failure:
        run(careless)
    assert failure.value.matches(ZeroDivisionError)
    assert 'raise ZeroDivisionError("deep inside")' in failure.value.remote_traceback
    assert "await coda.context.spawn_task(explode)" in failure.value.remote_traceback
    assert "_handle.py" not in failure.value.remote_traceback


def test_a_child_run_is_a_step(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.workflow
    async def child(n: int) -> int:
        if n < 0:
            raise ValueError("negative")
        return n + 1

    @app.workflow
    async def parent() -> int:
        with pytest.raises(coda.RunFailed, match="negative"):
            await coda.context.spawn_workflow(child, {"n": -1})
        return await coda.context.spawn_workflow(child, {"n": 1}) + await coda.context.spawn_workflow(child, [2])

    assert run(parent) == 5
    assert len(cluster.runs()) == 4


def test_wrong_arguments_are_a_type_error_at_the_spawn(run: Run, app: coda.App) -> None:
    @app.task
    def greet(name: str, *, loud: bool = False) -> str:
        return name

    @app.workflow
    async def wrong() -> None:
        for args in ({"nam": "x"}, {}, {"name": "x", "extra": 1}, ["x", "y"], "x", {1: 2}):
            with pytest.raises(TypeError, match="greet"):
                coda.context.spawn_task(greet, args=args)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"use coda\.context\.spawn_workflow"):
            coda.context.spawn_task(wrong)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="decorate"):
            coda.context.spawn_task(len)  # type: ignore[call-overload]
        with pytest.raises(coda.CodecError, match="object"):
            coda.context.spawn_task(greet, args={"name": object()})

    run(wrong)


def test_handles_are_futures_for_asyncio(run: Run, app: coda.App) -> None:
    never = asyncio.Event()

    @app.task
    async def fast(n: int) -> int:
        return n

    @app.task
    async def slow() -> None:
        await never.wait()

    @app.workflow
    async def uses_asyncio() -> None:
        a, b = coda.context.spawn_task(fast, [1]), coda.context.spawn_task(fast, [2])
        done, pending = await asyncio.wait([a, b])
        assert {each.result() for each in done} == {1, 2}
        assert not pending
        assert sorted([await each for each in asyncio.as_completed([a, b])]) == [1, 2]
        hanging = coda.context.spawn_task(slow)
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(hanging, 0.01)
        assert not hanging._waiters, "waits that were given up pile up"
        never.set()
        assert await hanging is None
        assert await asyncio.gather(asyncio.create_task(wait_for(a)), asyncio.shield(b)) == [1, 2]

    async def wait_for(handle: coda.Handle[int]) -> int:
        return await handle

    run(uses_asyncio)


def test_inline_steps_are_recorded_and_skipped_on_replay(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    calls: list[str] = []

    def blocking(x: int) -> tuple[int, ...]:
        calls.append("blocking")
        return (x, x)

    async def on_the_loop() -> str:
        calls.append("loop")
        with pytest.raises(coda.OutsideWorkflowError):
            coda.context.spawn_task("nested")
        return "loop"

    @app.workflow(max_retries=1)
    async def inline() -> Any:
        a, b, c = await coda.gather(
            coda.run(blocking, {"x": 1}, cache_key=["a"]),
            coda.run(on_the_loop),
            coda.run(blocking, {"x": 1}, cache_key=["a"]),
        )
        if coda.context.attempt == 1:
            raise RuntimeError("once")
        return [a, b, c]

    assert run(inline) == [(1, 1), "loop", (1, 1)]
    assert sorted(calls) == ["blocking", "loop"]
    assert len(cluster.requests(wire.RECORD_STEP)) == 2


def test_an_inline_task_is_retried_by_its_policy_and_then_fails(run: Run, app: coda.App) -> None:
    attempts: list[tuple[int, int]] = []

    @app.task(retry_on=OSError, max_retries=2, backoff=coda.Backoff(initial=0))
    def flaky(fail: bool) -> str:
        attempts.append((coda.current_task().attempt, coda.current_task().retries_left))
        if fail or len(attempts) < 2:
            raise OSError("flaky")
        return "ok"

    @app.workflow
    async def inline() -> str:
        result = await coda.run(flaky, [False])
        with pytest.raises(coda.TaskFailed) as failure:
            await coda.run(flaky, [True])
        assert isinstance(failure.value.__cause__, OSError)
        return result

    assert run(inline) == "ok"
    assert attempts == [(1, 2), (2, 1), (1, 2), (2, 1), (3, 0)]


def test_a_refused_spawn_raises_at_its_await_and_spares_its_neighbours(cluster: FakeCluster, app: coda.App) -> None:
    @app.task
    async def step(n: int) -> int:
        return n

    original = cluster._on_4

    def refuse_two(port: Any, token: int, run: bytes, lease: int, steps: list[Any]) -> Any:
        from fake_native import Refusal

        if any(step[4][1] == b'{"n":2}' for step in steps):
            return Refusal("CODA2007", "bad policy")
        return original(port, token, run, lease, steps)

    cluster._on_4 = refuse_two  # type: ignore[method-assign]

    @app.workflow
    async def three() -> list[Any]:
        handles = [coda.context.spawn_task(step, {"n": n}) for n in (1, 2, 3)]
        return [
            each if isinstance(each, int) else [type(each).__name__, each.code]  # type: ignore[attr-defined]
            for each in await asyncio.gather(*handles, return_exceptions=True)
        ]

    async def main() -> Any:
        async with World(cluster, app).running() as world:
            return await world.client.run(three, timeout=5)

    assert asyncio.run(main()) == [1, ["Rejected", "CODA2007"], 3]


def test_a_lost_run_is_cancelled_and_its_spawns_are_refused(cluster: FakeCluster, app: coda.App) -> None:
    ended: list[str] = []
    started = asyncio.Event()

    @app.workflow
    async def stubborn() -> str:
        if started.is_set():
            return "elsewhere"
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            try:
                coda.context.spawn_task("cleanup")
            except coda.LeaseLostError as error:
                ended.append(error.code)

    async def main() -> str:
        async with World(cluster, app).running() as world:
            handle = await world.client.start(stubborn)
            await started.wait()
            cluster.lose(cluster.runs()[0])
            result = await handle.result(timeout=5)
            await until(lambda: world.port.abandoned)
            assert world.port.abandoned == [(wire.WORK_RUN, cluster.runs()[0].id, 1)]
            return result

    assert asyncio.run(main()) == "elsewhere"
    assert ended == ["CODA2014"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), StopAsyncIteration()])
@pytest.mark.parametrize("where", ["workflow", "inline", "inline in a thread"])
def test_odd_exceptions_fail_the_run_and_not_the_worker(
    run: Run, app: coda.App, error: BaseException, where: str
) -> None:
    def raises() -> None:
        raise error

    async def raises_on_the_loop() -> None:
        raise error

    @app.workflow
    async def odd() -> None:
        if where == "workflow":
            raise error
        await coda.run(raises if where == "inline in a thread" else raises_on_the_loop)

    # As in a worker that handles the signal itself.
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with pytest.raises(coda.RunFailed) as failure:
            run(odd)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert failure.value.kind.endswith(type(error).__name__)


def test_names_of_the_workers_own_app_mean_their_definitions(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.task(name="charge", queue="billing", max_retries=2, priority=7)
    async def charge(order: int) -> int:
        return order

    @app.workflow(name="child", max_retries=1)
    async def child() -> None: ...

    @app.workflow
    async def by_name() -> Any:
        with pytest.raises(TypeError, match="missing a required argument: 'order'"):
            coda.context.spawn_task("charge")
        with pytest.raises(TypeError, match="unexpected option 'prio': expected queue, priority"):
            coda.context.spawn_task("charge", [1], prio=1)  # type: ignore[call-overload]
        await coda.context.spawn_workflow("child")
        return await coda.context.spawn_task("charge", [1])

    assert run(by_name) == 1
    child_step, task_step = (request[4][0] for request in cluster.requests(wire.SPAWN))
    assert (task_step[3], task_step[5], task_step[6][0]) == ("billing", 7, 2)
    assert child_step[6][0] == 1


def test_the_context_is_clear_about_where_it_works(app: coda.App) -> None:
    with pytest.raises(coda.OutsideWorkflowError, match="only inside a workflow"):
        coda.context.spawn_task("x")
    with pytest.raises(RuntimeError, match=r"coda\.run works only"):
        coda.run(len, [[]])
    with pytest.raises(RuntimeError, match="only in a task"):
        coda.current_task()
    assert repr(coda.context) == "<coda.context outside of a workflow>"


def test_spawning_from_another_thread_is_refused(run: Run, app: coda.App) -> None:
    @app.workflow
    async def threaded() -> None:
        with pytest.raises(RuntimeError, match="another thread"):
            await asyncio.to_thread(coda.context.spawn_task, "x")

    run(threaded)


def test_options_of_a_spawn_overrule_the_decorator(run: Run, app: coda.App, cluster: FakeCluster) -> None:
    @app.task(queue="slow", priority=1, retry_on=OSError)
    async def step() -> None: ...

    @app.workflow
    async def spawns() -> None:
        coda.context.spawn_task(step)
        coda.context.spawn_task(step, queue="fast", priority=9, max_retries=7, delay=1.5)
        coda.context.spawn_task("elsewhere", {"a": 1})
        for wrong in ({"priority": 10}, {"max_retries": -1}, {"delay": -1}, {"queue": ""}):
            with pytest.raises(ValueError, match=r"must|valid"):
                coda.context.spawn_task(step, **wrong)  # type: ignore[arg-type]

    run(spawns)
    (request,) = cluster.requests(wire.SPAWN)
    assert [(step[3], *step[5:]) for step in request[4]] == [
        ("slow", 1, (3, 1000, 200, 60000, 20), 0),
        ("fast", 9, (7, 1000, 200, 60000, 20), 1500),
        ("default", 4, (0, 1000, 200, 60000, 20), 0),
    ]


def test_dataclasses_arrive_as_what_is_annotated(run: Run, app: coda.App) -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Order:
        id: int
        tags: set[str]

    @app.task
    def enrich(order: Order) -> Order:
        assert isinstance(order, Order)
        return dataclasses.replace(order, tags=order.tags | {"rich"})

    # Local classes cannot be found from a string annotation.
    enrich.fn.__annotations__.update({"order": Order, "return": Order})

    @app.workflow
    async def order_flow() -> bool:
        return await coda.context.spawn_task(enrich, {"order": Order(1, {"a"})}) == Order(1, {"a", "rich"})

    assert run(order_flow) is True
